"""What an ingest has done so far, so that it goes on after a kill at any moment and ends with the same bytes.

Every input becomes one row, in the order of the inputs. Rows are written at least every second, as Parquet files named after
the inputs they hold, after the pixels that they name are safe on disk. Small files are joined to one per `PART_ROWS` inputs.
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PART_ROWS = 8192
COMMIT_ROWS = 512
COMMIT_SECONDS = 1.0


class Journal:
    """Rows of a schema in numbered Parquet files of a folder.

    Args:
        folder: its own; only its owner may read it, since rows hold what the finished tables do not (names to be scrubbed).
        schema: of the rows.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._rows: list[dict[str, Any]] = []
        self._last_commit = time.monotonic()
        self._parts = self._whole_parts()
        self.num_rows = self._parts[-1][1] if self._parts else 0
        """Inputs whose rows are safe."""
        if self.num_rows % PART_ROWS == 0:
            self._join_last()  # a kill may have come between the last row of a part and this

    def _whole_parts(self) -> list[tuple[int, int, Path]]:
        """(first row, row after the last, file) without gaps; what a kill left unfinished or already joined is removed."""
        found = []
        for path in self.folder.iterdir():
            if path.suffix == ".parquet":
                first, after = map(int, path.stem.split("-"))
                found.append((first, -after, path))
            else:
                path.unlink()
        parts: list[tuple[int, int, Path]] = []
        for first, negative, path in sorted(found):
            if first == (parts[-1][1] if parts else 0):
                parts.append((first, -negative, path))
            else:
                path.unlink()
        return parts

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def is_due(self) -> bool:
        """Whether `commit` should be called."""
        late = time.monotonic() - self._last_commit >= COMMIT_SECONDS
        full = (self.num_rows + len(self._rows)) % PART_ROWS == 0
        return bool(self._rows) and (late or full or len(self._rows) >= COMMIT_ROWS)

    def commit(self) -> None:
        """Make the rows safe. Pixels that they name must be on disk before."""
        if self._rows:
            self._write(self.num_rows, pa.Table.from_pylist(self._rows, self.schema))
            self._rows = []
            # Parts end at fixed inputs, so that their tables do not depend on when the run was killed.
            if self.num_rows % PART_ROWS == 0:
                self._join_last()
        self._last_commit = time.monotonic()

    def close(self) -> None:
        """Join what is left."""
        self.commit()
        self._join_last()

    def _join_last(self) -> None:
        """Make one file of those that hold the last `PART_ROWS` inputs, or what there is of them."""
        first = (self.num_rows - 1) // PART_ROWS * PART_ROWS
        parts = [part for part in self._parts if part[0] >= first]
        if len(parts) > 1:
            table = pa.concat_tables([pq.read_table(path) for _, _, path in parts])
            del self._parts[-len(parts) :]
            self._write(parts[0][0], table)
            for _, _, path in parts:
                path.unlink()

    def _write(self, first: int, table: pa.Table) -> None:
        after = first + table.num_rows
        path = self.folder / f"{first:010d}-{after:010d}.parquet"
        write_durably(path, table)
        self._parts.append((first, after, path))
        self.num_rows = after

    @property
    def files(self) -> list[Path]:
        """In the order of the inputs."""
        return [path for _, _, path in self._parts]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The safe rows, `PART_ROWS` inputs at a time."""
        for path in self.files:
            yield pq.read_table(path, columns=None if columns is None else list(columns))


def write_durably(path: Path, table: pa.Table) -> None:
    """Whole or not at all, whoever is killed and whenever the power fails."""
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder safe against a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
