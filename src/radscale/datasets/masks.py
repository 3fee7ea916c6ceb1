"""Mask tables: what is drawn in the images of a dataset (docs/data_format.md, section 6)."""

import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.datasets.dataset import Dataset
from radscale.datasets.manifest import MASK_SCHEMA
from radscale.errors import InputError


class MaskTable:
    """The masks of a dataset's images, decoded on demand.

    Args:
        path: a Parquet file with the columns of `MASK_SCHEMA`.
        dataset: whose images they are drawn in.

    Raises:
        InputError: no such table, missing columns, an image that the dataset does not have or that has a task twice, a mask
            that is no PNG or not of its image's size.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such mask table; make one with `radscale masks`") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path}: not a Parquet table ({str(error).splitlines()[0]}); give a mask table") from None
        missing = [name for name in MASK_SCHEMA.names if name not in table.column_names]
        if missing:
            raise InputError(f"{path.name}: no column '{missing[0]}'; found {', '.join(table.column_names)}")
        self._name, self._dataset = path.name, dataset
        self.tasks: list[str] = sorted(pc.unique(table["task"]).to_pylist())
        samples = dataset.column("sample_id").combine_chunks()
        if (aside := dataset.set_aside()) is not None:
            table = table.filter(pc.invert(pc.is_in(table["sample_id"], aside["sample_id"].combine_chunks())))
        self._table = table.select(MASK_SCHEMA.names)
        rows = pc.index_in(table["sample_id"], value_set=samples)
        if rows.null_count:
            first = table["sample_id"].filter(pc.is_null(rows))[0]
            raise InputError(
                f"{path.name}: {rows.null_count:,} masks are of images that the dataset does not have (first: {first}); "
                "make the masks from the archive and with the key that the dataset was made with"
            )
        self._rows = rows.to_numpy()
        self._columns = pc.index_in(table["task"], value_set=pa.array(self.tasks)).to_numpy()
        keys, counts = np.unique(self._rows * len(self.tasks) + self._columns, return_counts=True)
        if (counts > 1).any():
            row, column = divmod(int(keys[np.argmax(counts > 1)]), len(self.tasks))
            raise InputError(
                f"{path.name}: image {samples[row]} has '{self.tasks[column]}' in two rows; join the masks of a task in one"
            )
        self._check_sizes()

    @cached_property
    def _places(self) -> np.ndarray:
        """(images of the dataset, tasks) int32: row of the mask table; -1 if there is none."""
        places = np.full((len(self._dataset), len(self.tasks)), -1, np.int32)
        places[self._rows, self._columns] = np.arange(len(self._rows))
        return places

    @cached_property
    def _sizes_px(self) -> tuple[np.ndarray, np.ndarray]:
        return self._dataset.sizes_px()

    @cached_property
    def _absent(self) -> np.ndarray:
        return np.asarray(pc.is_null(self._table["png"]))

    def _check_sizes(self) -> None:
        heights, widths = self._sizes_px
        for row, png in zip(self._rows, self._table["png"], strict=True):
            data = png.as_buffer()
            if data is None:
                continue
            # Signature, length and name of the header, width, height (PNG specification, 11.2.2).
            head = data[:24].to_pybytes()
            size = struct.unpack(">II", head[16:24]) if len(head) == 24 and head[:4] == b"\x89PNG" else None
            if size != (widths[row], heights[row]):
                what = f"{size[0]} x {size[1]} px" if size else "no PNG"
                raise InputError(
                    f"{self._name}: mask of image {self._dataset.sample_ids([row])[0]} is {what}; the image has "
                    f"{widths[row]} x {heights[row]} px, and a mask must have the same; make the masks again for this dataset"
                )

    def presence(self, rows: np.ndarray) -> np.ndarray:
        """(n, T) float32 for dataset rows: 1 drawn, 0 looked for and not there, NaN unknown."""
        places = self._places[rows]
        return np.where(places < 0, np.nan, ~self._absent[places]).astype(np.float32)

    def read(self, row: int) -> np.ndarray:
        """(T, H, W) bool of a dataset row; empty where absent or unknown.

        Raises:
            InputError: a mask that cannot be decoded.
        """
        heights, widths = self._sizes_px
        shape = int(heights[row]), int(widths[row])
        masks = np.zeros((len(self.tasks), *shape), bool)
        for column, place in enumerate(self._places[row]):
            if place < 0 or self._absent[place]:
                continue
            decoded = cv2.imdecode(np.frombuffer(self._table["png"][int(place)].as_buffer(), np.uint8), cv2.IMREAD_GRAYSCALE)
            if decoded is None:
                sample = self._dataset.sample_ids([row])[0]
                raise InputError(f"{self._name}: mask of image {sample} cannot be decoded; make the masks again")
            masks[column] = decoded > 0
        return masks

    def tips(self, row: int, column: int) -> np.ndarray:
        """(n, 2) marked tips (y, x) in pixels of the image; n = 0 if none is known."""
        place = int(self._places[row, column])
        found = self._table["tips"][place].as_py() if place >= 0 else None
        return np.array(found or [], np.float64).reshape(-1, 2)


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) bool as a black-and-white PNG of one bit per pixel."""
    return bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1])


def write_masks(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows sample_id, task, png (None: absent), tips (None: unknown), sorted by image and task; whole or not at all."""
    ordered = sorted(rows, key=lambda row: (str(row["sample_id"]), str(row["task"])))
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(ordered, schema=MASK_SCHEMA), partial, compression="zstd")
    partial.rename(path)
