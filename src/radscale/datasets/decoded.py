"""One input of an ingest, decoded, and what its sources share: the steps from pixels to the bytes of a shard."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from radscale.datasets.exclusions import Excluded
from radscale.datasets.labels import STATES
from radscale.datasets.png import encode_png
from radscale.errors import InputError

SECTIONS = ("indication", "comparison", "findings", "impression")
CARE_SETTINGS = ("inpatient", "outpatient", "emergency")


@dataclass
class Decoded:
    """What a worker hands back for one input. Ids are pseudonyms already, dates shifted."""

    source: str
    """Pseudonym of the input's path."""
    excluded: tuple[str, str] | None = None
    png: bytes = b""
    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    """Width, height."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Columns of `manifest.JOURNAL_SCHEMA`."""

    @classmethod
    def verdict(cls, source: str, verdict: Excluded) -> "Decoded":
        return cls(source, excluded=(verdict.reason, str(verdict)))

    def encode(self, image: np.ndarray) -> None:
        """Take a (H, W) uint8 image."""
        self.png = encode_png(image)
        self.sha256 = hashlib.sha256(self.png).hexdigest()
        self.size = (image.shape[1], image.shape[0])

    def row(self) -> dict[str, Any]:
        """Of the journal, without the place in a shard."""
        if self.excluded is not None:
            return {"source": self.source, "reason": self.excluded[0], "detail": self.excluded[1]}
        return {
            **self.fields,
            "source": self.source,
            "width_px": self.size[0],
            "height_px": self.size[1],
            "size_bytes": len(self.png),
            "sha256": self.sha256,
        }


class LabelRow(NamedTuple):
    """One statement of a label table."""

    level: str
    id: str
    task: str
    state: str
    engine: str


def label_row(engine: str, level: str, key: str, task: str, value: str) -> LabelRow:
    """The statement that a cell of a label column makes.

    Raises:
        InputError: it is none of the values of a label.
    """
    text = value.strip().lower()
    states = {"1": "positive", "1.0": "positive", "0": "negative", "0.0": "negative", "-1": "uncertain", "-1.0": "uncertain"}
    state = states.get(text, text)
    if state not in STATES:
        raise InputError(
            # Not the value: a column that is no label may hold names.
            f"label column '{task}': a value of {len(text)} characters is none of 1, 0, -1 (uncertain), blank,"
            f" {', '.join(STATES)}; correct it or leave the column out"
        )
    return LabelRow(level, key, task, state, engine)
