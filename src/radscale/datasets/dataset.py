"""A dataset folder as its readers see it (docs/data_format.md, section 1)."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radscale.datasets.manifest import REPORTS_SCHEMA, SCHEMA_VERSION, rank_column
from radscale.datasets.shards import decode_png, read_member
from radscale.errors import InputError


class Dataset:
    """Opens a dataset; images are read on demand.

    Raises:
        InputError: no dataset there, or one of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.settings: dict[str, Any] = json.loads((self.path / "dataset.json").read_text(encoding="utf-8"))
            self.manifest: pa.Table = pq.read_table(self.path / "manifest.parquet")
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: not a dataset ({Path(error.filename).name} is missing); make one with `radscale ingest`"
            ) from None
        except (json.JSONDecodeError, pa.ArrowInvalid) as error:
            raise InputError(f"{path}: damaged dataset ({error}); ingest again") from None
        version = self.settings.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(f"{path}: dataset of schema_version {version!r}; this radscale reads {SCHEMA_VERSION}")

    def __len__(self) -> int:
        return int(self.manifest.num_rows)

    @cached_property
    def _shards(self) -> list[str]:
        return list(self.manifest["shard"].to_pylist())

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.asarray(self.manifest["offset"])

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.asarray(self.manifest["size_bytes"])

    @property
    def num_train(self) -> int:
        return len(self.select(split="train"))

    @property
    def num_replicates(self) -> int:
        return sum(name.startswith("rank_") for name in self.manifest.column_names)

    def select(self, split: str | None = None, view: str | tuple[str, ...] | None = None) -> np.ndarray:
        """Rows of a split and of one or several views, in manifest order."""
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            keep &= np.asarray(self.manifest["split"]) == split
        if view is not None:
            keep &= np.isin(np.asarray(self.manifest["view"]).astype(str), [view] if isinstance(view, str) else list(view))
        return np.flatnonzero(keep)

    def subset_rows(self, size: int, replicate: int) -> np.ndarray:
        """Rows of the nested subset of `size` training images, in the replicate's order.

        Raises:
            InputError: more images than there are, or a replicate that has no order.
        """
        name = rank_column(replicate)
        if name not in self.manifest.column_names:
            raise InputError(
                f"replicate {replicate}: the dataset has {self.num_replicates} orders; ingest with more replicates"
            )
        ranks = self.manifest[name].fill_null(-1).to_numpy()
        num_train = int((ranks >= 0).sum())
        if size > num_train:
            raise InputError(f"subset of {size:,} images: the dataset has {num_train:,} training images; take a smaller size")
        rows = np.empty(num_train, dtype=np.int64)
        rows[ranks[ranks >= 0]] = np.flatnonzero(ranks >= 0)
        return rows[:size]

    def read_image(self, row: int) -> np.ndarray:
        """(H, W) uint8."""
        path = self.path / self._shards[row]
        return decode_png(read_member(path, int(self._offsets[row]), int(self._sizes[row])))

    def read_images(self, rows: np.ndarray | list[int]) -> list[np.ndarray]:
        return [self.read_image(int(row)) for row in rows]

    def reports(self) -> pa.Table:
        """One row per study with a report; empty if there are none."""
        path = self.path / "reports.parquet"
        return pq.read_table(path) if path.exists() else REPORTS_SCHEMA.empty_table()
