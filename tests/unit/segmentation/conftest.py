"""The blobs of the shared dataset with their masks, which its own pixels show."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from radscale.datasets import Dataset
from radscale.datasets.masks import encode_mask, write_masks


def blob_rows(data: Dataset, num_images: int | None = None) -> list[dict[str, object]]:
    """A row for the blob (value 250) and one for the stripe (value 10) of each image; of every ninth the stripe is unknown."""
    rows: list[dict[str, object]] = []
    for row, sample in enumerate(data.manifest["sample_id"].to_pylist()[:num_images]):
        image = data.read_image(row)
        for task, value in (("blob", 250), ("stripe", 10)):
            mask = image == value
            if task == "stripe" and row % 9 == 8:
                continue
            tips = [[float(x) for x in np.argwhere(mask)[0]]] if mask.any() else None
            rows.append({"sample_id": sample, "task": task, "png": encode_mask(mask) if mask.any() else None, "tips": tips})
    return rows


@pytest.fixture(scope="session")
def blob_masks(blob_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "masks.parquet"
    write_masks(path, blob_rows(Dataset(blob_dataset)))
    return path


@pytest.fixture
def make_masks(blob_dataset: Path, tmp_path: Path) -> Callable[[Callable[[dict], dict | None]], Path]:
    """The masks, each row changed or (None) left out by a function."""

    def make(change: Callable[[dict], dict | None]) -> Path:
        path = tmp_path / "changed.parquet"
        write_masks(path, [row for row in map(change, blob_rows(Dataset(blob_dataset))) if row is not None])
        return path

    return make
