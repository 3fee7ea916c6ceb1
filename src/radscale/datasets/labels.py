"""Label tables with four states, and the task tables that training and evaluation use (DESIGN: 1, 0 or NaN = unknown)."""

import re
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
    missing = [name for name in LABEL_SCHEMA.names if name not in names]
    if missing:
        raise InputError(f"{file}: no column {missing[0]}; found {', '.join(names)}")
    return pq.read_table(file, filters=only)


@dataclass(frozen=True)
class TaskTable:
    """Targets of images: 1, 0 or NaN (unknown: masked in training and evaluation)."""

    tasks: list[str]
    rows: np.ndarray
    """(n,) rows of the dataset's manifest."""
    targets: np.ndarray
    """(n, T) float32."""


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
        InputError: a task that the label table never mentions, with those that it does.
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
        for key, task, state in zip(*(part[name].to_pylist() for name in ("id", "task", "state")), strict=True):
            hits = places.get(key)
            if hits is None:
                continue
            seen[hits] = True
            if task in column:
                targets[hits, column[task]] = values[state]
                stated[hits, column[task]] = True
    if not_mentioned == "negative":
        targets[~stated & seen[:, None]] = 0.0
    return TaskTable(list(tasks), np.asarray(rows), targets)
