"""Images of a subset from shards to float tensors, in random order: the loader alone, without a network that trains.

The floor is what all cores decode from memory with libpng: at ratio 1 a loader that decodes so reads, checks, copies and
converts for nothing.
"""

import atexit
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radscale.benchmarks.measure import Case, Contestant, Options
from radscale.datasets import Dataset
from radscale.datasets.manifest import SCHEMA_VERSION
from radscale.datasets.png import decode_png, encode_png
from radscale.datasets.shards import ShardWriter
from radscale.pretraining.images import SubsetImages, default_num_workers

BATCH_SIZE = 64
CV2 = "opencv-python-headless"


def cases(options: Options) -> list[Case]:
    """The user's images, or made ones, which compress nearly as X-rays do (0.46 bytes per pixel; chest X-rays: 0.41)."""
    if options.dataset is not None:
        folder, whose = options.dataset, "of the dataset given"
    else:
        temporary = tempfile.TemporaryDirectory(prefix="radscale-loader-")
        atexit.register(temporary.cleanup)
        folder, whose = Path(temporary.name), "made"
        write_made_dataset(folder, *((128, 64) if options.quick else (640, 518)), options.seed)
    dataset = Dataset(folder)
    rows = np.arange(len(dataset))
    num_steps = min(2 if options.quick else 10, len(rows) // BATCH_SIZE)
    count, cores = num_steps * BATCH_SIZE, default_num_workers()
    contestants = [
        Contestant("radscale", "radscale", lambda: _radscale(dataset, rows, num_steps), count),
        Contestant("floor: libpng from memory, all cores", CV2, lambda: _floor(dataset, _decode_with_libpng, cores), count),
        Contestant("our decoder from memory, all cores", "radscale", lambda: _floor(dataset, decode_png, cores), count),
        Contestant("DataLoader, PIL, random access", "torch", lambda: _data_loader(dataset, cores), count),
        Contestant("webdataset, PIL, in sequence", "webdataset", lambda: _webdataset(folder, cores), count),
    ]
    heights, widths = dataset.sizes_px()
    return [
        Case(
            title=f"{count} images, {int(np.minimum(heights, widths).mean())} px, {whose}, batches of {BATCH_SIZE}",
            unit="image",
            workload=lambda number: np.random.default_rng([options.seed, number]).permutation(rows)[:count],
            contestants=contestants,
            rounds=options.repeat or (1 if options.quick else 5),
        )
    ]


def write_made_dataset(folder: Path, num_images: int, size_px: int, seed: int) -> None:
    """Smooth shapes under grain, a quarter higher than wide."""
    rows = []
    with ShardWriter(folder / "shards") as shards:
        for index in range(num_images):
            rng = np.random.default_rng([seed, index])
            coarse = rng.random((10, 8), dtype=np.float32) * 200
            image = cv2.resize(coarse, (size_px, size_px * 5 // 4), interpolation=cv2.INTER_CUBIC)
            image = image + rng.normal(0, 1.3, image.shape)
            member = shards.add(f"{index:08d}.png", encode_png(np.clip(image, 0, 255).astype(np.uint8)))
            size = {"width_px": image.shape[1], "height_px": image.shape[0]}
            ids = {"sample_id": f"{index:08d}", "study_id": f"{index:08d}", "patient_id": f"{index:08d}", "split": "train"}
            rows.append({**ids, **size, **asdict(member), "rank_0": index})
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    (folder / "dataset.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "image_size_px": size_px}))


def _radscale(dataset: Dataset, rows: np.ndarray, num_steps: int) -> Callable[[np.ndarray], None]:
    images = SubsetImages(dataset, rows, max_memory_gb=0)

    def load(chosen: np.ndarray) -> None:
        images.follow(lambda step: chosen[step * BATCH_SIZE : (step + 1) * BATCH_SIZE], 0, num_steps)
        for step in range(num_steps):
            images.batch_of(step)

    return load


def _floor(dataset: Dataset, decode: Callable[[bytes], Any], cores: int) -> Callable[[np.ndarray], None]:
    def run(chosen: np.ndarray) -> None:
        for _ in pool.map(lambda rows: [decode(files[row]) is None for row in rows], np.array_split(chosen, 4 * cores)):
            pass

    files = {row: dataset.read_bytes(row) for row in range(len(dataset))}
    pool = ThreadPoolExecutor(cores)
    return run


def _decode_with_libpng(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def _pad(images: list[np.ndarray]) -> Any:
    """As our loader gives them."""
    import torch

    canvas = torch.zeros(len(images), max(i.shape[0] for i in images), max(i.shape[1] for i in images), dtype=torch.uint8)
    for slot, image in zip(canvas.numpy(), images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = image
    return canvas


class _Files:
    """A map-style dataset as one writes it: a seek, a read and PIL."""

    def __init__(self, dataset: Dataset) -> None:
        self.places = [dataset.place(row) for row in range(len(dataset))]
        self.folder = dataset.path

    def __getitem__(self, row: int) -> np.ndarray:
        from PIL import Image

        shard, offset, size = self.places[row]
        with (self.folder / shard).open("rb") as file:
            file.seek(offset)
            return np.asarray(Image.open(io.BytesIO(file.read(size))))


class _Sampler:
    """Gives what the round asks for, so that workers live through all rounds."""

    def __init__(self) -> None:
        self.chosen = np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.chosen), BATCH_SIZE):
            yield self.chosen[start : start + BATCH_SIZE].tolist()

    def __len__(self) -> int:
        return len(self.chosen) // BATCH_SIZE


def _data_loader(dataset: Dataset, cores: int) -> Callable[[np.ndarray], None]:
    import PIL  # noqa: F401
    from torch.utils.data import DataLoader

    sampler = _Sampler()
    loader: DataLoader[Any] = DataLoader(
        _Files(dataset),  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=cores,
        collate_fn=_pad,
        persistent_workers=True,
    )

    def load(chosen: np.ndarray) -> None:
        sampler.chosen = chosen
        for canvas in loader:
            canvas.float().div_(255)

    return load


def _webdataset(folder: Path, cores: int) -> Callable[[np.ndarray], None]:
    import webdataset

    shards = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    stream = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False, workersplitter=None, nodesplitter=None)
    stream = stream.decode("l8").to_tuple("png").map(lambda item: item[0])
    loader = webdataset.WebLoader(
        stream.repeat().batched(BATCH_SIZE, collation_fn=_pad), batch_size=None, num_workers=cores, persistent_workers=True
    )

    def load(chosen: np.ndarray) -> None:
        for canvas in islice(loader, len(chosen) // BATCH_SIZE):
            canvas.float().div_(255)

    return load
