"""What a step gets, whatever was read ahead, kept or asked for out of order; and what a changed dataset says."""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from blob_dataset import write_dataset
from radscale.datasets import Dataset
from radscale.datasets.png import encode_png
from radscale.datasets.shards import ShardReader, ShardWriter
from radscale.errors import InputError
from radscale.pretraining.images import SubsetImages
from radscale.training import ShuffledEpochs
from radscale.training.distributed import Ranks

SHARD = "shards/000001.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty images of many sizes in three shards."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    rows = []
    with ShardWriter(folder / "shards", max_bytes=40_000) as shards:
        for index in range(60):
            rng = np.random.default_rng(index)
            image = rng.integers(1, 256, (rng.integers(20, 60), rng.integers(20, 60))).astype(np.uint8)
            member = shards.add(f"{index}.png", encode_png(image))
            rows.append({"sample_id": f"s{index}", "height_px": image.shape[0], "width_px": image.shape[1], **vars(member)})
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    digest = hashlib.sha256((folder / "manifest.parquet").read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps({"schema_version": 1, "tables": {"manifest.parquet": digest}}))
    assert len({row["shard"] for row in rows}) >= 3
    return folder


def open_images(folder: Path, max_memory_gb: float = 0.0, **options: float) -> SubsetImages:
    dataset = Dataset(folder)
    return SubsetImages(dataset, np.arange(len(dataset))[::-1], max_memory_gb, **options)  # type: ignore[arg-type]


def expected(folder: Path, positions: np.ndarray) -> list[np.ndarray]:
    dataset = Dataset(folder)
    return [dataset.read_image(len(dataset) - 1 - int(position)) for position in positions]


def check(batch: tuple[torch.Tensor, ...], images: list[np.ndarray]) -> None:
    canvas, heights, widths = batch
    assert canvas.dtype == torch.float32
    assert canvas.shape == (len(images), max(i.shape[0] for i in images), max(i.shape[1] for i in images))
    for slot, height, width, image in zip(canvas, heights.tolist(), widths.tolist(), images, strict=True):
        assert (height, width) == image.shape
        assert torch.equal(slot[:height, :width], torch.from_numpy(image).float() / 255)
        assert not slot[height:].any()
        assert not slot[:, width:].any()


@pytest.mark.parametrize("memory", [0.0, 40e-6, 1.0])
@pytest.mark.parametrize("read_ahead", [0.0, 1e-4, 1.0])
def test_steps_get_their_images(folder: Path, memory: float, read_ahead: float) -> None:
    """With nothing, some and everything kept in memory, over three epochs, and with little and much read ahead."""
    sampler = ShuffledEpochs(60, 16, seed=0)
    with open_images(folder, memory, read_ahead_gb=read_ahead, num_workers=3) as images:
        images.follow(sampler.batch, 0, 12)
        for step in range(12):
            check(images.batch_of(step), expected(folder, sampler.batch(step)))
        assert sum(image.nbytes for image in images._kept.values()) <= memory * 1e9


def test_any_step_may_follow_any_other(folder: Path) -> None:
    sampler = ShuffledEpochs(60, 8, seed=0)
    with open_images(folder) as images:
        images.follow(sampler.batch, 3, 6)
        for step in (3, 4, 4, 0, 5, 9, 10):
            check(images.batch_of(step), expected(folder, sampler.batch(step)))
        check(images.batch(np.array([5, 5, 1])), expected(folder, np.array([5, 5, 1])))


def test_a_rank_decodes_its_own_share_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Dataset.read_image
    monkeypatch.setattr(Dataset, "read_image", lambda self, row: (read.append(row), original(self, row))[1])
    sampler, ranks = ShuffledEpochs(60, 8, seed=0), Ranks(1, 4)
    with open_images(folder) as images:
        images.follow(lambda step: ranks.share(sampler.batch(step)), 0, 3)  # type: ignore[arg-type,return-value]
        for step in range(3):
            images.batch_of(step)
        heights, widths = images.sizes(sampler.batch(0))
    assert sorted(read) == sorted(59 - position for step in range(3) for position in sampler.batch(step)[2:4])
    assert [(h, w) for h, w in zip(heights.tolist(), widths.tolist(), strict=True)] == [
        image.shape for image in expected(folder, sampler.batch(0))
    ]


def test_what_is_kept_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Dataset.read_image
    monkeypatch.setattr(Dataset, "read_image", lambda self, row: (read.append(row), original(self, row))[1])
    with open_images(folder, max_memory_gb=1.0, read_ahead_gb=0.0, num_workers=1) as images:
        assert read == []  # nothing before it is needed
        images.follow(ShuffledEpochs(60, 12, seed=0).batch, 0, 15)
        for step in range(15):
            images.batch_of(step)
    assert sorted(read) == list(range(60))


def test_reading_ahead_is_bounded_in_bytes(folder: Path) -> None:
    asked: list[int] = []

    def rows(step: int) -> np.ndarray:
        asked.append(step)
        return np.arange(20)

    with open_images(folder, read_ahead_gb=1e-3) as images:
        images.follow(rows, 0, 1000)
        ahead = -(-1_000_000 // images._ahead[0].canvas.nbytes)
        assert ahead > 2
        assert asked == list(range(ahead))
        images.batch_of(0)
        assert asked == list(range(ahead + 1))


def test_waiting_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step waits until a worker that is held up is let go; the first wait is starting up."""
    held = threading.Event()
    original = Dataset.read_image

    def slow(self: Dataset, row: int) -> np.ndarray:
        held.wait(0.2)
        return original(self, row)

    with open_images(folder, num_workers=1) as images:
        images.follow(lambda step: np.array([step]), 0, 3)
        images.batch_of(0)
        assert images.waiting_seconds == 0
        monkeypatch.setattr(Dataset, "read_image", slow)
        images.follow(lambda step: np.array([step + 10]), 0, 3)
        images.batch_of(0)
        images.batch_of(1)
        assert images.waiting_seconds > 0.1
        assert 0.3 < images.waiting_share <= 1
        held.set()


def flip_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000:1100] = bytes(byte ^ 255 for byte in data[1000:1100])  # behind the first header
    path.write_bytes(data)


def replace_by_another(path: Path) -> None:
    """A valid shard of the same length: its first image is that of another dataset."""
    path.write_bytes((path.parent / "000000.tar").read_bytes().ljust(path.stat().st_size, b"\0"))


def change_manifest(path: Path) -> None:
    manifest = path.parent.parent / "manifest.parquet"
    pq.write_table(pq.read_table(manifest).slice(1), manifest)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, rf"{SHARD}: is missing; \d+ of the 60 images asked for are in it. Restore the shard or ingest again"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), rf"{SHARD}: ends at byte 5,000, the manifest needs \d\d,"),
        (flip_bytes, rf"{SHARD}: image s\d+ is not the one of the manifest .* restore it or ingest again"),
        (replace_by_another, rf"{SHARD}: image s\d+ is not the one of the manifest .* restore it or ingest again"),
        (change_manifest, r"manifest.parquet: was changed after the ingest"),
    ],
)
def test_a_dataset_that_changed_is_refused_with_one_line(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder / SHARD)

    def run() -> None:
        with open_images(folder) as images:
            images.follow(lambda step: np.arange(60), 0, 1)
            images.batch_of(0)

    with pytest.raises(InputError, match=message) as refused:
        run()
    assert "\n" not in str(refused.value)


def test_a_subset_beside_the_damage_is_not_touched_by_it(folder: Path) -> None:
    (folder / SHARD).unlink()
    dataset = Dataset(folder)
    rows = np.flatnonzero(np.asarray(dataset.column("shard")) != SHARD)
    with SubsetImages(dataset, rows, 0.0) as images:
        assert images.batch(np.arange(len(rows)))[0].shape[0] == len(rows)


def test_a_shard_that_goes_while_the_run_is_on(folder: Path) -> None:
    with open_images(folder) as images:
        for path in (folder / "shards").iterdir():
            path.unlink()
        with pytest.raises(InputError, match=r"000000.tar: shard is missing from the dataset; restore it or ingest again"):
            images.batch(np.array([59]))


def test_sizes_of_the_manifest_are_checked(folder: Path) -> None:
    table = pq.read_table(folder / "manifest.parquet").to_pylist()
    table[0]["height_px"] += 1
    pq.write_table(pa.Table.from_pylist(table), folder / "manifest.parquet")
    (folder / "dataset.json").write_text(json.dumps({"schema_version": 1}))
    with open_images(folder) as images, pytest.raises(InputError, match=r"image s0: is \(\d+, \d+\) px, the manifest says"):
        images.batch(np.array([59]))


def test_asking_before_following(folder: Path) -> None:
    with open_images(folder) as images, pytest.raises(InputError, match="call follow before"):
        images.batch_of(0)


def test_images_fingerprint_changes_with_images_and_order(folder: Path) -> None:
    dataset = Dataset(folder)
    marks = [dataset.fingerprint(np.array(rows)) for rows in ([1, 2, 3], [1, 2, 3], [1, 3, 2], [1, 2], [1, 2, 4])]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 4


def test_few_shards_stay_open_while_threads_read_all_of_them(folder: Path) -> None:
    dataset = Dataset(folder)
    reader = ShardReader(folder, max_open=1)
    places = [dataset.place(row) for row in range(60)]
    found: dict[int, bytes] = {}

    def read(first: int) -> None:
        for _ in range(20):
            found.update({row: reader.read(*places[row]) for row in range(first, 60, 4)})

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reader._open) == 1
    assert [found[row] for row in range(60)] == [dataset.read_bytes(row) for row in range(60)]


def test_subsets_and_views_of_a_dataset_are_read_column_by_column(tmp_path: Path) -> None:
    dataset = Dataset(write_dataset(tmp_path / "blobs", num_train=30, num_test=10))
    assert dataset.select(split="test").tolist() == list(range(30, 40))
    assert dataset.select(view="lateral").tolist() == [9, 19, 29, 39]
    assert dataset.select(split="train", view=("lateral", "unknown")).tolist() == [9, 19, 29]
    assert dataset.select(split="validation").tolist() == []
    assert dataset.subset_rows(5, 0).tolist() == [0, 1, 2, 3, 4]
    dataset.read_image(3)
    assert "manifest" not in vars(dataset)  # the whole of it is not in memory
    assert len(dataset.manifest) == len(dataset) == 40
