"""Label tables with four states, and the task tables that training and evaluation use (DESIGN: 1, 0 or NaN = unknown)."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from radscale.datasets.dataset import Dataset
from radscale.datasets.manifest import LABEL_SCHEMA
from radscale.errors import InputError

LEVELS = ("study", "sample")
STATES = ("positive", "negative", "uncertain")


def slug(value: str) -> str:
    """A task name: lower case, words joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", value.strip().lower()).strip("_")


def read_label_table(path: str | Path, only: pyarrow.compute.Expression | None = None) -> pa.Table:
    """A label table from its file, or from the `labels.parquet` of a folder.

    Args:
        path: file or folder.
        only: rows to take, chosen while reading: of millions of images few labels are positive.

    Raises:
        InputError: no such table, or columns or states that it must not have.
    """
    file = Path(path)
    file = file / "labels.parquet" if file.is_dir() else file
    try:
        names = pq.read_schema(file).names
    except FileNotFoundError:
        raise InputError(f"{file}: no label table; make one with `radscale extract`, or ingest with label columns") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a Parquet table ({str(error).splitlines()[0]}); give a label table") from None
    missing = [name for name in LABEL_SCHEMA.names if name not in names]
    if missing:
        raise InputError(f"{file}: no column {missing[0]}; found {', '.join(names)}")
    table = pq.read_table(file, filters=only)
    for name, allowed in (("level", LEVELS), ("state", STATES)):
        found = [value for value in pa.compute.unique(table[name]).to_pylist() if value not in allowed]
        if found:
            raise InputError(
                f"{file}: {name} is {found[0]!r}; it must be one of {', '.join(allowed)}; "
                "correct the table, or leave these rows out"
            )
    return table


@dataclass(frozen=True)
class TaskTable:
    """Targets of images: 1, 0 or NaN (unknown: masked in training and evaluation)."""

    tasks: list[str]
    rows: np.ndarray
    """(n,) rows of the dataset's manifest."""
    targets: np.ndarray
    """(n, T) float32."""


def check_ids(dataset: Dataset, label_table: pa.Table) -> None:
    """Whose labels are these? Some ids may be of excluded images, and are left out with a warning.

    Raises:
        InputError: none of the ids is in the dataset.
    """
    strange = 0
    for level, name in zip(LEVELS, ("study_id", "sample_id"), strict=True):
        ids = pa.compute.unique(label_table["id"].filter(pa.compute.equal(label_table["level"], level)))
        strange += int(
            pa.compute.sum(pa.compute.invert(pa.compute.is_in(ids, dataset.column(name).combine_chunks()))).as_py() or 0
        )
    total = len(pa.compute.unique(label_table["id"]))
    # Not one of them is printed: an id that the dataset does not have may be a hospital's own.
    line = f"label table: {strange:,} of its {total:,} ids are not in {dataset.path.name}"
    if total and strange >= total:
        raise InputError(f"{line}; give the table that was made for this dataset, with its pseudonyms")
    if strange:
        warnings.warn(f"{line}; their labels are left out", stacklevel=2)


def task_table(
    dataset: Dataset,
    label_table: pa.Table,
    tasks: Sequence[str],
    *,
    rows: np.ndarray,
    not_mentioned: Literal["negative", "unknown"] = "negative",
    uncertain: Literal["unknown", "positive", "negative"] = "unknown",
    engine: str | None = None,
) -> TaskTable:
    """Targets of `tasks` for the images in `rows`.

    A statement about a study holds for all its images; one about the image itself comes first. What is not mentioned counts
    as negative (the paper's reading) only where somebody looked: in studies with a report, or with any statement.

    Raises:
        InputError: a task that the label table never mentions, with those that it does; two statements of one engine about a
            study, or about an image, that contradict each other.
    """
    known = sorted(set(label_table["task"].to_pylist()))
    missing = [task for task in tasks if task not in known]
    if missing:
        raise InputError(f"task '{missing[0]}' is not in the label table; it has {', '.join(known) or 'no tasks'}")
    values = {"positive": 1.0, "negative": 0.0, "uncertain": {"unknown": np.nan, "positive": 1.0, "negative": 0.0}[uncertain]}
    samples = dataset.manifest["sample_id"].take(rows).to_pylist()
    studies = dataset.manifest["study_id"].take(rows).to_pylist()
    by_sample: dict[str, list[int]] = {}
    by_study: dict[str, list[int]] = {}
    for index, (sample, study) in enumerate(zip(samples, studies, strict=True)):
        by_sample.setdefault(sample, []).append(index)
        by_study.setdefault(study, []).append(index)

    seen = np.zeros(len(rows), dtype=bool)
    for study in dataset.reports()["study_id"].to_pylist():
        seen[by_study.get(study, [])] = True
    targets = np.full((len(rows), len(tasks)), np.nan, dtype=np.float32)
    stated = np.zeros(targets.shape, dtype=bool)
    column = {task: index for index, task in enumerate(tasks)}
    table = label_table if engine is None else label_table.filter(pa.compute.equal(label_table["engine"], engine))
    for level, places in (("study", by_study), ("sample", by_sample)):
        part = table.filter(pa.compute.equal(table["level"], level))
        said: dict[str, np.ndarray] = {}  # by engine: number of the state + 1, at the first image of each id
        names = ("id", "task", "state", "engine")
        for key, task, state, who in zip(*(part[name].to_pylist() for name in names), strict=True):
            hits = places.get(key)
            if hits is None:
                continue
            seen[hits] = True
            if task in column:
                number = STATES.index(state) + 1
                before = said.setdefault(who, np.zeros(targets.shape, np.int8))
                first = int(before[hits[0], column[task]])
                if first not in (0, number):
                    raise InputError(
                        f"label table: '{task}' of {level} {key} is {STATES[first - 1]} in one row and {state} in another, "
                        f"both by {who}; keep one of them"
                    )
                before[hits[0], column[task]] = number
                targets[hits, column[task]] = values[state]
                stated[hits, column[task]] = True
    if not_mentioned == "negative":
        targets[~stated & seen[:, None]] = 0.0
    return TaskTable(list(tasks), np.asarray(rows), targets)
