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
    # Few distinct values in many rows: 2 million images with 31 tasks each are 62 million rows.
    table = pq.read_table(file, filters=only, read_dictionary=["level", "id", "task", "state", "engine"])
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
    strange, aside = 0, dataset.set_aside()
    for level, name in zip(LEVELS, ("study_id", "sample_id"), strict=True):
        ids = pa.compute.unique(label_table["id"].filter(pa.compute.equal(label_table["level"], level)))
        known = pa.chunked_array([*dataset.column(name).chunks, *([] if aside is None else aside[name].chunks)])
        strange += int(pa.compute.sum(pa.compute.invert(pa.compute.is_in(ids, known.combine_chunks()))).as_py() or 0)
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
    known = sorted(pa.compute.unique(label_table["task"]).to_pylist())
    missing = [task for task in tasks if task not in known]
    if missing:
        raise InputError(f"task '{missing[0]}' is not in the label table; it has {', '.join(known) or 'no tasks'}")
    table = label_table if engine is None else label_table.filter(pa.compute.equal(label_table["engine"], engine))
    with_report = dataset.reports(["study_id"])["study_id"].combine_chunks()
    ids, of_image = _distinct(dataset.column("study_id"), rows)
    states, mentioned = _statements(table, "study", ids, tasks)
    mentioned |= pa.compute.is_in(ids, with_report).to_numpy(zero_copy_only=False)
    state, seen = states[of_image], mentioned[of_image]
    ids, of_image = _distinct(dataset.column("sample_id"), rows)
    states, mentioned = _statements(table, "sample", ids, tasks)
    own = states[of_image]
    state = np.where(own > 0, own, state)
    seen |= mentioned[of_image]
    if not_mentioned == "negative":
        state[(state == 0) & seen[:, None]] = 1 + STATES.index("negative")
    unsure = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}[uncertain]
    values = np.array([np.nan, *({"positive": 1.0, "negative": 0.0, "uncertain": unsure}[name] for name in STATES)], np.float32)
    return TaskTable(list(tasks), np.asarray(rows), values[state])


def _distinct(column: pa.ChunkedArray, rows: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Distinct ids of some rows, and (n,) which one each row has."""
    ids = column.take(pa.array(rows)).combine_chunks().dictionary_encode()
    return ids.dictionary, ids.indices.to_numpy()


def _places(column: pa.ChunkedArray, values: pa.Array) -> np.ndarray:
    """(n,) where in `values` each entry of a column stands, -1 for nowhere."""
    if not pa.types.is_dictionary(column.type):
        return np.asarray(pa.compute.index_in(column, values).fill_null(-1))
    if not column.num_chunks:
        return np.empty(0, np.int32)
    column = column.unify_dictionaries()
    of_word = pa.compute.index_in(column.chunk(0).dictionary, values).fill_null(-1).to_numpy()
    return np.concatenate([of_word[chunk.indices.to_numpy()] for chunk in column.chunks])


def _statements(table: pa.Table, level: str, ids: pa.Array, tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What a label table says at one level.

    Returns:
        (U, T) int8 states of U ids, 0 for nothing said, else 1 + the place in `STATES`; of several engines the last row counts.
        (U,) bool: the table says anything of this id, be it of another task.

    Raises:
        InputError: two statements of one engine about a task of one id that contradict each other.
    """
    part = table.filter(pa.compute.equal(table["level"], level))
    place, task, state = (
        _places(part[name], values)
        for name, values in (("id", ids), ("task", pa.array(tasks, pa.string())), ("state", pa.array(STATES)))
    )
    mentioned = np.zeros(len(ids), dtype=bool)
    mentioned[place[place >= 0]] = True
    states = np.zeros((len(ids), len(tasks)), dtype=np.int8)
    known = (place >= 0) & (task >= 0)
    for engine in pa.compute.unique(part["engine"]).to_pylist():
        mine = np.flatnonzero(known & pa.compute.equal(part["engine"], engine).to_numpy())
        said = np.zeros_like(states)
        said[place[mine], task[mine]] = 1 + state[mine]
        against = mine[said[place[mine], task[mine]] != 1 + state[mine]]
        if len(against):
            row = int(against[0])
            raise InputError(
                f"label table: '{tasks[task[row]]}' of {level} {ids[int(place[row])]} is {STATES[state[row]]} in one row and "
                f"{STATES[said[place[row], task[row]] - 1]} in another, both by {engine}; keep one of them"
            )
    states[place[known], task[known]] = 1 + state[known]
    return states, mentioned
