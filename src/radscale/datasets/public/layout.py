"""What the published layouts share: files by name, tables by their columns, and the form in which a reader hands over a set."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from radscale.datasets.files import files_below
from radscale.datasets.labels import slug
from radscale.datasets.tables import CsvTable, read_columns, read_csv
from radscale.errors import InputError

ReadersRule = Literal["majority", "any", "unanimous"]
Masks = Mapping[str, Callable[[tuple[int, int]], np.ndarray]]
"""Task to a function that draws it: shape (H, W) of the original image -> (H, W) bool."""

SAME_NAMES = {
    "edema": "pulmonary_edema",
    "effusion": "pleural_effusion",
    "enlarged_pa": "enlarged_pulmonary_artery",
    "ild": "interstitial_lung_disease_pattern",
    "normal": "no_finding",
}
"""Published names of findings that the closed list calls otherwise: one name across sets, so that they can be compared."""


@dataclass(frozen=True)
class PublicOptions:
    """Choices that a published set leaves to its user."""

    readers_rule: ReadersRule = "majority"
    """Several readers per image: positive if most of them say so, if any does, or "unanimous" (disagreement is uncertain)."""


@dataclass(frozen=True)
class PublicImage:
    """One image of a published set."""

    row: Mapping[str, str]
    """Roles (`ingest.IngestConfig.columns`) to values; `image` is relative to the folder."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Engine -> task -> state (`labels.STATES`); a task without a state is not mentioned."""
    part: str = ""
    """Of the official split: train, validation or test; empty if the set has none."""
    report_file: str = ""
    """Relative path of its report, or empty."""
    masks: Masks = field(default_factory=dict)
    excluded: str = ""
    """Why the publisher itself says not to use it, or empty."""


@dataclass(frozen=True)
class Mark:
    """A table by which a layout is known."""

    patterns: tuple[str, ...]
    """Of file names, relative to the folder; one of them is there, plain or gzipped."""
    columns: tuple[str, ...] = ()
    """Some columns that tell it from tables of the same name in other layouts; empty for files that are no tables."""


@dataclass(frozen=True)
class Layout:
    """How one published set lies on a disk."""

    name: str
    title: str
    marks: tuple[Mark, ...]
    """All of them are there."""
    read: Callable[["PublicFolder", PublicOptions], list[PublicImage]]
    level: Literal["study", "sample"] = "sample"
    """What its labels speak of."""


class PublicFolder:
    """A published folder: its tables by pattern, its images by name wherever the archives were unpacked below it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, pattern: str) -> Path | None:
        """The file of a pattern, plain or gzipped; None if there is none.

        Raises:
            InputError: several fit.
        """
        found = published_files(self.path, pattern)
        names = {path.name.removesuffix(".gz") for path in found}
        if len(names) > 1:
            raise InputError(f"{pattern}: {', '.join(path.name for path in found)} all fit; keep one of them in the folder")
        return found[0] if found else None

    def table(self, pattern: str, columns: Iterable[str], *, keep: Iterable[str] | None = None) -> CsvTable:
        """The table of a pattern; `keep` names the columns to hold in memory where a table has many more.

        Raises:
            InputError: no such table, or a column of `columns` is not in it.
        """
        path = self.find(pattern)
        if path is None:
            raise InputError(f"no `{pattern}` in the folder; put the published table there")
        table = read_csv(path, keep=keep)
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise InputError(
                f"{path.name}: no column '{missing[0]}'; found {', '.join(table.columns[:12])}; put the published table there"
            )
        return table

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """File names, with and without their suffix, to the first relative path that has it."""
        found: dict[str, str] = {}
        for path in sorted(files_below(self.path)):
            name = path.rpartition("/")[2]
            found.setdefault(name, path)
            stem, dot, suffix = name.rpartition(".")
            if dot and suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(stem, path)
        return found

    def image(self, name: str, expected: str) -> str:
        """Relative path of an image by its file name, else by its name without suffix (resized copies have another one);
        `expected` where it is not there."""
        stem, dot, suffix = name.rpartition(".")
        by_stem = self._by_name.get(stem) if dot and suffix.lower() in IMAGE_SUFFIXES else None
        return self._by_name.get(name) or by_stem or expected


IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "dcm", "dicom", "tif", "tiff")


def task_name(published: str) -> str:
    """The task of a published label: `Pleural_Thickening` -> `pleural_thickening`, `Effusion` -> `pleural_effusion`."""
    task = slug(published)
    return SAME_NAMES.get(task, task)


def binary_states(row: Mapping[str, str], columns: Mapping[str, str], table: str) -> dict[str, str]:
    """Task -> state of the label columns (column -> task) of a row: 1, 0, -1 (uncertain); blank is not mentioned.

    Raises:
        InputError: any other value.
    """
    states = {}
    for column, task in columns.items():
        text = row[column].strip()
        if not text:
            continue
        state = BINARY_STATES.get(text.removesuffix(".0"))
        if state is None:
            # Not the value: a column that is no label may hold names.
            raise InputError(
                f"{table}: column '{column}' holds a value of {len(text)} characters that is none of 1, 0, -1 (uncertain), "
                "blank; put the published table there"
            )
        states[task] = state
    return states


BINARY_STATES = {"1": "positive", "0": "negative", "-1": "uncertain"}


def require_unique(keys: Iterable[str], what: str, table: str) -> None:
    """Raises InputError if a key occurs twice; says how many do, not which."""
    twice = sum(count > 1 for count in Counter(keys).values())
    if twice:
        raise InputError(
            f"{table}: {twice:,} values of {what} occur twice; an image has one row, so restore the published table"
        )


def detect_layout(folder: Path, layouts: Mapping[str, Layout], name: str) -> Layout:
    """The layout called `name`, or with "auto" the one whose marks the folder has.

    Raises:
        InputError: no layout or several, or a folder that is not of the layout.
    """
    fitting = [layout for layout in layouts.values() if not missing_marks(folder, layout)]
    if name == "auto":
        if len(fitting) != 1:
            what = "the tables of " + " and of ".join(layout.title for layout in fitting) if fitting else "no known layout"
            raise InputError(f"{folder}: {what}; say which it is with `layout`: {', '.join(layouts)}")
        return fitting[0]
    layout = layouts[name]
    missing = missing_marks(folder, layout)
    if missing:
        other = f"it looks like layout {fitting[0].name}" if fitting else "put the published tables there"
        raise InputError(f"{folder}: no {missing[0]}, which {layout.title} has; {other}")
    return layout


def layout_hint(folder: Path, layouts: Mapping[str, Layout]) -> str:
    """What to say of a folder that was not read as a published set, but looks like one; else empty."""
    fitting = [layout for layout in layouts.values() if not missing_marks(folder, layout)]
    return f"; the folder looks like {fitting[0].title}: read it with `layout: {fitting[0].name}`" if fitting else ""


def missing_marks(folder: Path, layout: Layout) -> list[str]:
    """Descriptions of the marks that a folder lacks."""
    missing = []
    for mark in layout.marks:
        found = next((path for pattern in mark.patterns for path in published_files(folder, pattern)), None)
        names = " or ".join(f"`{pattern}`" for pattern in mark.patterns)
        if found is None:
            missing.append(names)
        elif mark.columns and not set(mark.columns) <= {column.strip() for column in read_columns(found)}:
            missing.append(f"{names} with the columns {', '.join(mark.columns)}")
    return missing


def published_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern, plain or gzipped."""
    return sorted(path for path in {*folder.glob(pattern), *folder.glob(pattern + ".gz")} if path.is_file())


def official_parts(folder: PublicFolder, files: Mapping[str, str]) -> dict[str, str]:
    """Name -> part from text files with one name a line (file -> part); empty if none of them is there.

    Raises:
        InputError: only some of the files are there, or a name is in two of them.
    """
    found = {name: folder.find(name) for name in files}
    if not any(found.values()):
        return {}
    parts: dict[str, str] = {}
    twice = 0
    for name, path in found.items():
        if path is None:
            raise InputError(f"no `{name}` in the folder, but {next(filter(None, found.values())).name}; both make the split")
        for line in path.read_text(encoding="utf-8").split():
            twice += parts.get(line, files[name]) != files[name]
            parts[line] = files[name]
    if twice:
        raise InputError(f"{' and '.join(files)}: {twice:,} images are in both; restore the published lists")
    return parts
