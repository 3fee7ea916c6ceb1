"""A dataset folder as its readers see it (docs/data_format.md, section 1)."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radscale.datasets.file_hash import sha256_of
from radscale.datasets.manifest import REPORTS_SCHEMA, SCHEMA_VERSION, SET_ASIDE, rank_column
from radscale.datasets.png import decode_png
from radscale.datasets.shards import ShardReader
from radscale.errors import InputError

REVIEW = "review.json"
"""What a reviewer has said of a dataset, see `review.record_review`."""


class Dataset:
    """Opens a dataset; columns and images are read on demand, so that millions of images cost some 30 bytes each.

    Raises:
        InputError: no dataset there, or one of another schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.settings: dict[str, Any] = json.loads((self.path / "dataset.json").read_text(encoding="utf-8"))
            with pq.ParquetFile(self._manifest_path) as manifest:
                self._num_rows, self.column_names = manifest.metadata.num_rows, list(manifest.schema_arrow.names)
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: not a dataset ({Path(error.filename).name} is missing); make one with `radscale ingest`"
            ) from None
        except (json.JSONDecodeError, pa.ArrowInvalid) as error:
            raise InputError(f"{path}: damaged dataset ({error}); ingest again") from None
        version = self.settings.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(f"{path}: dataset of schema_version {version!r}; this radscale reads {SCHEMA_VERSION}")
        self._reader = ShardReader(self.path)

    def __len__(self) -> int:
        return self._num_rows

    @property
    def _manifest_path(self) -> Path:
        return self.path / "manifest.parquet"

    @cached_property
    def manifest(self) -> pa.Table:
        """The whole of it, at some 400 bytes a row; `column` and `words` are for those who need a part."""
        return self._read(None)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the manifest; it is not kept."""
        return self._read([name])[name]

    def columns(self, *names: str, rows: np.ndarray | list[int]) -> pa.Table:
        """Some columns of some rows, read one after the other; they are not kept."""
        return pa.table({name: self.column(name).take(pa.array(rows)) for name in names})

    def words(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A column of few distinct strings: for each row the number of its word (-1 for none), and the words."""
        column = self._read([name], read_dictionary=[name])[name].unify_dictionaries()
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        codes = [np.asarray(chunk.indices.fill_null(-1), dtype=np.int32) for chunk in column.chunks]
        words = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        return np.concatenate([np.empty(0, np.int32), *codes]), words

    def _read(self, columns: list[str] | None, read_dictionary: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(self._manifest_path, columns=columns, read_dictionary=read_dictionary)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self._manifest_path}: damaged manifest ({error}); ingest again") from None

    @cached_property
    def _shards(self) -> tuple[np.ndarray, list[str]]:
        return self.words("shard")

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.asarray(self.column("offset"))

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.asarray(self.column("size_bytes")).astype(np.int32)

    @cached_property
    def _hashes(self) -> np.ndarray:
        """(rows,) first 8 of the 32 bytes of each SHA-256: enough to tell damage, at a quarter of the memory."""
        parts = [np.empty(0, "V8")]
        with pq.ParquetFile(self._manifest_path) as manifest:
            for batch in manifest.iter_batches(columns=["sha256"]):  # as text, all of them would take half a gigabyte
                try:
                    digits = "".join(value[:16] for value in batch["sha256"].to_pylist())
                    parts.append(np.frombuffer(bytes.fromhex(digits), "V8"))
                except (TypeError, ValueError):
                    raise InputError(
                        f"{self._manifest_path}: column sha256 holds other things than hashes; ingest again"
                    ) from None
        return np.concatenate(parts)

    @property
    def num_train(self) -> int:
        return len(self.select(split="train"))

    @property
    def num_replicates(self) -> int:
        return sum(name.startswith("rank_") for name in self.column_names)

    def select(self, split: str | None = None, view: str | tuple[str, ...] | None = None) -> np.ndarray:
        """Rows of a split and of one or several views, in manifest order."""
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in (("split", split), ("view", view)):
            if wanted is not None:
                codes, words = self.words(name)
                keep &= np.isin(codes, [words.index(word) for word in np.atleast_1d(wanted) if word in words])
        return np.flatnonzero(keep)

    def subset_rows(self, size: int, replicate: int) -> np.ndarray:
        """Rows of the nested subset of `size` training images, in the replicate's order.

        Raises:
            InputError: more images than there are, or a replicate that has no order.
        """
        name = rank_column(replicate)
        if name not in self.column_names:
            raise InputError(
                f"replicate {replicate}: the dataset has {self.num_replicates} orders; ingest with more replicates"
            )
        ranks = self.column(name).fill_null(-1).to_numpy()
        num_train = int((ranks >= 0).sum())
        if size > num_train:
            raise InputError(f"subset of {size:,} images: the dataset has {num_train:,} training images; take a smaller size")
        rows = np.empty(num_train, dtype=np.int64)
        rows[ranks[ranks >= 0]] = np.flatnonzero(ranks >= 0)
        return rows[:size]

    def read_image(self, row: int) -> np.ndarray:
        """(H, W) uint8.

        Raises:
            InputError: the shard is missing or cut, or holds other bytes than when the manifest was written.
        """
        return decode_png(self.read_bytes(row))

    def place(self, row: int) -> tuple[str, int, int]:
        """Shard, offset and size in bytes of an image's PNG."""
        codes, names = self._shards
        return names[codes[row]], int(self._offsets[row]), int(self._sizes[row])

    def read_bytes(self, row: int) -> bytes:
        """An image's PNG, with the errors of `read_image`."""
        place = self.place(row)
        data = self._reader.read(*place)
        # A fortieth of the time of decoding, and no step is ever trained on bytes that are not the manifest's.
        if hashlib.sha256(data).digest()[:8] != self._hashes[row : row + 1].tobytes():
            raise InputError(
                f"{place[0]}: image {self.sample_ids([row])[0]} is not the one of the manifest (its sha256 differs); "
                "the shard was changed after the ingest, restore it or ingest again"
            )
        return data

    def will_read(self, rows: np.ndarray | list[int]) -> None:
        """Announce images that are read next."""
        for row in rows:
            self._reader.will_read(*self.place(int(row)))

    def read_images(self, rows: np.ndarray | list[int]) -> list[np.ndarray]:
        return [self.read_image(int(row)) for row in rows]

    def sample_ids(self, rows: np.ndarray | list[int]) -> list[str]:
        return list(self.column("sample_id").take(pa.array(rows)).to_pylist())

    def reading_order(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `rows` in the order in which the images lie on disk."""
        return np.lexsort((self._offsets[rows], self._shards[0][rows]))

    def fingerprint(self, rows: np.ndarray) -> str:
        """SHA-256 that changes if any of these images or their order does."""
        return hashlib.sha256(self._hashes[rows].tobytes()).hexdigest()

    def check_unchanged(self, rows: np.ndarray) -> None:
        """Before hours are spent on these rows: the manifest is the ingest's, and the shards are there and long enough.

        Raises:
            InputError: naming the first file for which that does not hold.
        """
        recorded = self.settings.get("tables", {}).get("manifest.parquet")
        if recorded is not None and sha256_of(self._manifest_path) != recorded:
            raise InputError(
                f"{self._manifest_path}: was changed after the ingest (its sha256 differs from the one in dataset.json); "
                "restore it, or ingest again"
            )
        codes, names = self._shards
        ends = np.zeros(len(names), dtype=np.int64)
        np.maximum.at(ends, codes[rows], self._offsets[rows] + self._sizes[rows])
        counts = np.bincount(codes[rows], minlength=len(names))
        for name, end, count in zip(names, ends.tolist(), counts.tolist(), strict=True):
            if count:
                path = self.path / name
                size = path.stat().st_size if path.exists() else -1
                if size < end:
                    what = "is missing" if size < 0 else f"ends at byte {size:,}, the manifest needs {end:,}"
                    raise InputError(
                        f"{name}: {what}; {count:,} of the {len(rows):,} images asked for are in it. "
                        "Restore the shard or ingest again"
                    )

    @property
    def num_ingests(self) -> int:
        """How often files were added, the first time included."""
        return 1 + (pc.max(self.column("batch")).as_py() or 0 if "batch" in self.column_names else 0)

    @cached_property
    def review(self) -> dict[str, Any] | None:
        """What a reviewer has said of all that is in it; None if nobody has, or not of what was added since."""
        path = self.path / REVIEW
        review: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        return review if review is not None and review["num_ingests"] >= self.num_ingests else None

    def check_reviewed(self) -> None:
        """Before images are put to use.

        Raises:
            InputError: the dataset was made with `require_review`, and nobody has looked at it since files were added.
        """
        if self.settings.get("config", {}).get("require_review") and self.review is None:
            raise InputError(
                f"{self.path}: must be looked at by a person before it is used (require_review); "
                f"make the sheet with `radscale review {self.path} --out NEW_FOLDER`"
            )

    def sizes_px(self) -> tuple[np.ndarray, np.ndarray]:
        """Heights and widths of all images, (rows,) each."""
        return np.asarray(self.column("height_px")), np.asarray(self.column("width_px"))

    def set_aside(self) -> pa.Table | None:
        """Rows of images that were set aside: the manifest's columns, reason and detail; None if there never were any."""
        path = self.path / SET_ASIDE
        return pq.read_table(path) if path.exists() else None

    def reports(self, columns: list[str] | None = None) -> pa.Table:
        """One row per study with a report, all columns or some; empty if there are none."""
        path = self.path / "reports.parquet"
        table = pq.read_table(path, columns=columns) if path.exists() else REPORTS_SCHEMA.empty_table()
        return table if columns is None else table.select(columns)
