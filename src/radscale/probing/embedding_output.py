"""Files of embeddings: written in parts, so that a killed run loses one part and memory holds one part, then joined."""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from safetensors import safe_open

from radscale.errors import InputError

EXCLUSION_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "uint8": "U8"}
METADATA_KEY = "radscale"


@dataclass
class Part:
    """Results of some consecutive images, and what became of those that could not be used."""

    ids: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """By name: one array (b, ...) per batch."""
    excluded: list[dict[str, str]] = field(default_factory=list)
    """Rows id, reason, detail."""


class OutputFormat(Protocol):
    """How parts are written, and how they become one file."""

    part_suffix: str

    def write_part(self, path: Path, part: Part) -> None: ...

    def join(self, parts: Sequence[Path], out: Path) -> None: ...


class ParquetOutput:
    """Columns id, view, one list of float32 per vector, one float32 per label.

    Args:
        vectors: name -> length.
        labels: names of the columns of `scores`.
        metadata: kept in the file under `radscale`, as JSON.
    """

    part_suffix = ".parquet"

    def __init__(self, vectors: Mapping[str, int], labels: Sequence[str], metadata: Mapping[str, Any]) -> None:
        self.vectors, self.labels = dict(vectors), list(labels)
        columns = [("id", pa.string()), ("view", pa.string())]
        columns += [(name, pa.list_(pa.float32(), length)) for name, length in self.vectors.items()]
        columns += [(label, pa.float32()) for label in self.labels]
        self.schema = pa.schema(columns, metadata={METADATA_KEY: json.dumps(metadata)})

    def write_part(self, path: Path, part: Part) -> None:
        columns = [pa.array(part.ids, pa.string()), pa.array(part.views, pa.string())]
        for name, length in self.vectors.items():
            values = pa.array(_joined(part.arrays[name], (length,)).ravel())
            columns.append(pa.FixedSizeListArray.from_arrays(values, length))
        if self.labels:
            scores = _joined(part.arrays["scores"], (len(self.labels),))
            columns += [pa.array(np.ascontiguousarray(column)) for column in scores.T]
        self._write(path, [pa.Table.from_arrays(columns, schema=self.schema)])

    def join(self, parts: Sequence[Path], out: Path) -> None:
        self._write(out, (pq.read_table(path, schema=self.schema) for path in parts))

    def _write(self, path: Path, tables: Iterable[pa.Table]) -> None:
        # No dictionaries: every value of an embedding is another.
        with pq.ParquetWriter(path, self.schema, compression="zstd", use_dictionary=["view"]) as writer:
            for table in tables:
                writer.write_table(table)


class CsvOutput(ParquetOutput):
    """The same without vectors, as text."""

    def join(self, parts: Sequence[Path], out: Path) -> None:
        with pa.csv.CSVWriter(out, self.schema) as writer:
            for path in parts:
                writer.write_table(pq.read_table(path, schema=self.schema))


class SafetensorsOutput:
    """One tensor (n, ...) per feature, `scores` (n, labels), and `ids`: UTF-8 bytes, a newline after each id.

    Args:
        arrays: name -> dtype and shape of one image's result.
        metadata: kept in the file under `radscale`, as JSON.
    """

    part_suffix = ".safetensors"

    def __init__(self, arrays: Mapping[str, tuple[np.dtype, tuple[int, ...]]], metadata: Mapping[str, Any]) -> None:
        # Wide types first: every tensor then starts at a multiple of its element size.
        self.arrays = dict(sorted(arrays.items(), key=lambda item: -item[1][0].itemsize))
        self.metadata = {METADATA_KEY: json.dumps(metadata)}

    def write_part(self, path: Path, part: Part) -> None:
        ids = np.frombuffer("".join(f"{name}\n" for name in part.ids).encode(), np.uint8)
        lengths = {**dict.fromkeys(self.arrays, len(part.ids)), "ids": len(ids)}
        self._write(path, lengths, lambda name: iter([ids] if name == "ids" else part.arrays.get(name, [])))

    def join(self, parts: Sequence[Path], out: Path) -> None:
        lengths = dict.fromkeys([*self.arrays, "ids"], 0)
        for path in parts:
            with safe_open(path, "numpy") as file:
                for name in lengths:
                    lengths[name] += file.get_slice(name).get_shape()[0]

        def pieces(name: str) -> Iterator[np.ndarray]:
            for path in parts:
                with safe_open(path, "numpy") as file:
                    yield file.get_tensor(name)

        self._write(out, lengths, pieces)

    def _write(self, path: Path, lengths: Mapping[str, int], pieces: Any) -> None:
        """The format is a length, a JSON header and the bytes: the library writes only what is in memory as a whole."""
        header: dict[str, Any] = {"__metadata__": self.metadata}
        offset = 0
        for name, (dtype, shape) in {**self.arrays, "ids": (np.dtype(np.uint8), ())}.items():
            size = lengths[name] * int(np.prod(shape)) * dtype.itemsize
            header[name] = {
                "dtype": SAFETENSORS_NAMES[dtype.name],
                "shape": [lengths[name], *shape],
                "data_offsets": [offset, offset + size],
            }
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in header:
                if name != "__metadata__":
                    for piece in pieces(name):
                        file.write(np.ascontiguousarray(piece).data.cast("B") if piece.size else b"")


def make_output(
    suffix: str,
    arrays: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    labels: Sequence[str],
    metadata: Mapping[str, Any],
) -> OutputFormat:
    """The format that a file name's suffix stands for.

    Args:
        suffix: ".parquet", ".csv" or ".safetensors"; see `check_output`.
        arrays: name -> dtype and shape of one image's result.
        labels: columns of `scores`.
        metadata: how they were made.
    """
    if suffix == ".safetensors":
        return SafetensorsOutput(arrays, {**metadata, "labels": list(labels)})
    vectors = {name: shape[0] for name, (_, shape) in arrays.items() if name != "scores"}
    return (CsvOutput if suffix == ".csv" else ParquetOutput)(vectors, labels, metadata)


def check_output(out: Path, features: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse what a format cannot hold, before anything is computed.

    Raises:
        InputError: an unknown suffix, patch features in a table, vectors in a CSV, a label that is named like a column.
    """
    suffix = out.suffix
    if suffix not in (".parquet", ".safetensors", ".csv"):
        raise InputError(f"--out {out}: the name must end in .parquet, .safetensors or .csv (scores of --labels only)")
    maps = [name for name in features if name in ("patches", "maps")]
    if suffix != ".safetensors" and maps:
        raise InputError(f"--features {maps[0]}: a {suffix} file holds one vector per image; write {maps[0]} to .safetensors")
    if suffix == ".csv" and (features or not labels):
        raise InputError(f"--out {out}: a CSV holds the scores of --labels only; write embeddings to .parquet or .safetensors")
    clash = next((label for label in labels if label in ("id", "view", *features)), None)
    if clash is not None:
        raise InputError(f"--labels: '{clash}' is the name of another column; write it differently, e.g. with a capital")


def exclusion_table(rows: Sequence[Mapping[str, str]]) -> pa.Table:
    """Rows id, reason (a closed list, docs/data_format.md), detail."""
    return pa.Table.from_pylist(list(rows), EXCLUSION_SCHEMA)


def write_exclusions(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def read_exclusions(parts: Sequence[Path]) -> pa.Table:
    """One table from those of the parts."""
    return pa.concat_tables([EXCLUSION_SCHEMA.empty_table(), *(pq.read_table(path) for path in parts)])


def _joined(batches: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(batches) if batches else np.empty((0, *shape), np.float32)
