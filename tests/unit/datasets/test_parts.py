"""Shares of an ingest that jobs of their own decode, and a Ray cluster: the dataset is the one of a single machine."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dicom_makers import SECRET
from dirty_archive import digests, write_archive
from radscale.datasets import IngestConfig, Part, ingest, verify_dataset
from radscale.datasets.resume_state import exclusive
from radscale.errors import InputError

CONFIG = IngestConfig(kind="dicom", image_size_px=32, num_replicates=2, shard_max_bytes=20_000)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """With a damaged file in each half, and a copy of an early file in the other half."""
    folder = tmp_path / "archive"
    write_archive(folder, 40)
    (folder / "000010a").write_bytes(b"nothing")
    (folder / "000030a").write_bytes(b"nothing")
    (folder / "000035a").write_bytes((folder / "000002.dcm").read_bytes())
    return folder


@pytest.fixture
def straight(archive: Path, tmp_path: Path) -> dict[str, str]:
    ingest(CONFIG, archive, tmp_path / "straight", secret=SECRET)
    return digests(tmp_path / "straight")


def decode_part(archive: Path, out: Path, text: str, **options: Any) -> dict[str, Any]:
    return ingest(CONFIG, archive, out, secret=SECRET, num_workers=0, part=Part.parse(text), **options)


def test_parts_in_any_order_and_some_missing_make_the_dataset_of_one_machine(
    archive: Path, tmp_path: Path, straight: dict[str, str]
) -> None:
    for name, parts in (("all", ["2/3", "1/3", "3/3"]), ("missing", ["4/4", "2/4"]), ("overlapping", ["2/3", "1/2", "2/2"])):
        out = tmp_path / name
        facts = [decode_part(archive, out, part) for part in parts]
        assert {fact["inputs"] for fact in facts} == {43}
        if name == "all":
            assert sum(fact["images"] for fact in facts) == 41  # the copy is not known as one yet
            assert sum(fact["inputs_of_part"] for fact in facts) == 43
        assert not (out / "dataset.json").exists()
        counts = ingest(CONFIG, archive, out, secret=SECRET, num_workers=0)
        assert counts["excluded"] == {"duplicate": 1, "unreadable": 2}
        assert digests(out) == straight
        assert verify_dataset(out) == []


def test_what_parts_have_done_is_not_decoded_again(
    archive: Path, tmp_path: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ds"
    decode_part(archive, out, "1/2")
    decode_part(archive, out, "2/2")
    module = sys.modules[ingest.__module__]
    monkeypatch.setattr(module, "ordered_map", lambda *_, **__: pytest.fail("decoded again"))
    ingest(CONFIG, archive, out, secret=SECRET)
    assert digests(out) == straight


def test_a_part_that_was_stopped_goes_on_and_so_does_a_merge(
    archive: Path, tmp_path: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radscale.datasets.journal.COMMIT_SECONDS", 0.0)
    out, seen = tmp_path / "ds", []

    def stop(at: int) -> Any:
        def progress(done: int, total: int, what: str) -> None:
            seen.append(done)
            if done == at:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        decode_part(archive, out, "2/2", progress=stop(9))
    seen.clear()
    decode_part(archive, out, "2/2", progress=stop(-1))
    assert seen == list(range(10, 23))
    for at in (5, 30):
        with pytest.raises(KeyboardInterrupt):
            ingest(CONFIG, archive, out, secret=SECRET, num_workers=0, progress=stop(at))
    seen.clear()
    ingest(CONFIG, archive, out, secret=SECRET, num_workers=0, progress=stop(-1))
    assert seen == list(range(31, 44))
    assert digests(out) == straight


def test_new_files_are_added_in_parts_too(archive: Path, tmp_path: Path) -> None:
    for out in ("parts", "one"):
        ingest(CONFIG, archive, tmp_path / out, secret=SECRET)
    write_archive(archive, 20, first=40)
    for part in ("1/2", "2/2"):
        assert decode_part(archive, tmp_path / "parts", part, add=True)["inputs"] == 22  # two damaged ones are tried again
    for out in ("parts", "one"):
        assert ingest(CONFIG, archive, tmp_path / out, secret=SECRET, add=True)["images"] == 60
    assert digests(tmp_path / "parts") == digests(tmp_path / "one")


def test_parts_that_begin_together_list_once_and_a_merge_waits_for_none(
    archive: Path, tmp_path: Path, straight: dict[str, str]
) -> None:
    out = tmp_path / "ds"
    jobs = [threading.Thread(target=decode_part, args=(archive, out, f"{number}/4")) for number in (1, 2, 3, 4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    with exclusive(out, shared=True), pytest.raises(InputError, match="another ingest is writing into it"):
        ingest(CONFIG, archive, out, secret=SECRET)
    with exclusive(out / ".ingest" / "parts" / f"{0:010d}-{10:010d}"), pytest.raises(InputError, match="another ingest"):
        decode_part(archive, out, "1/4")
    ingest(CONFIG, archive, out, secret=SECRET)
    assert digests(out) == straight


def test_damaged_pixels_of_a_part_and_impossible_parts_are_refused(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    decode_part(archive, out, "1/2")
    (shard,) = list((out / ".ingest" / "parts").glob("*/shards/000001.tar"))
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match="pixels are damaged; remove this folder"):
        ingest(CONFIG, archive, out, secret=SECRET)
    for text in ("0/4", "5/4", "3", "a/b", "-1/2", "1/2/3"):
        with pytest.raises(InputError, match=r"give NUMBER/COUNT"):
            Part.parse(text)


def test_a_ray_cluster_makes_the_same_dataset(archive: Path, tmp_path: Path, straight: dict[str, str]) -> None:
    pytest.importorskip("ray")
    ingest(CONFIG, archive, tmp_path / "ray", secret=SECRET, backend="ray", num_workers=2)
    assert digests(tmp_path / "ray") == straight
