"""Shares of an ingest, each decoded by a job of its own, and how the ingest takes over what they have done.

A part holds an unbroken run of the inputs: the rows of a journal, and shards with their pixels. Who merges reads them in the
order of the inputs as if they came from its own workers, so that the dataset is the one of a single machine. What no part has
done is decoded then; a job that failed costs time and no image.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radscale.datasets.decoded import Decoded
from radscale.datasets.journal import Journal
from radscale.datasets.manifest import JOURNAL_SCHEMA
from radscale.datasets.shards import ShardReader
from radscale.errors import InputError

PARTS = "parts"


@dataclass(frozen=True)
class Part:
    """Number `number` of `count` shares, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Of `3/16`.

        Raises:
            InputError: it is no such share.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"part is '{text}'; give NUMBER/COUNT, such as 3/16, from 1/16 to 16/16")
        return cls(int(found[1]), int(found[2]))

    def inputs(self, num_inputs: int) -> tuple[int, int]:
        """Its first input, and the one after its last."""
        return num_inputs * (self.number - 1) // self.count, num_inputs * self.number // self.count


def part_folder(work: Path, first: int, after: int) -> Path:
    """Where the inputs from `first` to before `after` are decoded to, whoever does it."""
    return work / PARTS / f"{first:010d}-{after:010d}"


@dataclass(frozen=True)
class _Done:
    """What a part has done: inputs `first` to before `after`."""

    folder: Path
    journal: Journal
    first: int
    after: int

    def items(self, start: int) -> Iterator[Decoded]:
        """Of the inputs from number `start` on, as a worker would have handed them over."""
        shards, place = ShardReader(self.folder), self.first
        for table in self.journal.tables():
            if place + table.num_rows > start:
                for row in table.slice(max(0, start - place)).to_pylist():
                    yield _item(row, shards)
            place += table.num_rows


def _item(row: dict[str, Any], shards: ShardReader) -> Decoded:
    source, reason, detail = row.pop("source"), row.pop("reason"), row.pop("detail")
    if reason is not None:
        return Decoded(source, excluded=(reason, detail))
    place = row.pop("shard"), row.pop("offset"), row.pop("size_bytes")
    item = Decoded(source, png=shards.read(*place), sha256=row.pop("sha256"), size=(row.pop("width_px"), row.pop("height_px")))
    if hashlib.sha256(item.png).hexdigest() != item.sha256:
        raise InputError(f"{shards.folder}: a part's pixels are damaged; remove this folder, and it is decoded again")
    item.fields = row
    return item


def items_of_parts(work: Path, start: int, after: int, decode: Callable[[int, int], Iterator[Decoded]]) -> Iterator[Decoded]:
    """The inputs from `start` to before `after`, in order: from the parts that hold them, else from `decode(start, after)`."""
    parts = []
    for folder in sorted((work / PARTS).glob("*")):
        journal, first = Journal(folder / "journal", JOURNAL_SCHEMA), int(folder.name.partition("-")[0])
        if journal.num_rows:
            parts.append(_Done(folder, journal, first, first + journal.num_rows))
    while start < after:
        part = next((part for part in parts if part.first <= start < part.after), None)
        if part is not None:
            yield from part.items(start)
            start = part.after
        else:
            end = min((part.first for part in parts if part.first > start), default=after)
            yield from decode(start, end)
            start = end
