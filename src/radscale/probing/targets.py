"""Which tasks of a task set can be probed, on which images, with which targets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from radscale.datasets import Dataset, task_table
from radscale.datasets.labels import check_ids
from radscale.datasets.splits import check_patients_apart
from radscale.errors import InputError
from radscale.probing.config import ProbeConfig
from radscale.probing.task_sets import resolve_tasks

SHUFFLE_STREAM = 1


@dataclass(frozen=True)
class LabelledImages:
    """Manifest rows (n,) and their targets (n, T): 1, 0 or NaN."""

    rows: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class TaskSetPlan:
    """The tasks of a set that can be evaluated, and the labelled images of both splits."""

    name: str
    tasks: list[str]
    train: LabelledImages
    test: LabelledImages


def describe_task(plan: TaskSetPlan, task: str) -> str:
    """Counts and prevalence of a task in both splits, in words."""
    parts = []
    for split, images in (("train", plan.train), ("test", plan.test)):
        targets = images.targets[:, plan.tasks.index(task)]
        known = int((~np.isnan(targets)).sum())
        parts.append(f"{int(np.nansum(targets)):,} of {known:,} {split} images ({np.nanmean(targets):.1%})")
    return f"{task}: positive in " + ", ".join(parts)


def plan_task_sets(
    config: ProbeConfig, dataset: Dataset, label_table: pa.Table
) -> tuple[list[TaskSetPlan], list[dict[str, str]]]:
    """Choose tasks and images of each task set, and list the tasks left out (task_set, task, reason).

    Raises:
        InputError: no image of the chosen views, or a task set of which nothing can be evaluated.
    """
    train_rows = _thin(select_images(dataset, "train", config.views), config.max_train)
    test_rows = select_images(dataset, "test", config.views)
    patients = dataset.column("patient_id")
    check_patients_apart(*(patients.take(pa.array(rows)) for rows in (train_rows, test_rows)))
    table = _one_engine(label_table, config.engine)
    check_ids(dataset, table)
    labelled = set(pc.unique(table["task"]).to_pylist())
    plans, excluded = [], []
    for name, tasks in _wanted_task_sets(config).items():
        keys = resolve_tasks(tasks, labelled)
        present = [task for task in keys if task in labelled]
        targets = _targets(config, dataset, table, present, (train_rows, test_rows))
        train, test = targets[: len(train_rows)], targets[len(train_rows) :]
        usable, reasons = usable_tasks(present, train, test, config.min_positives)
        reasons = {task: reasons.get(task, "not in the label table") for task in keys if task not in usable}
        if not usable:
            first = next(iter(reasons.items()), ("", ""))
            raise InputError(
                f"task set '{name}': none of its {len(keys)} tasks can be evaluated ({': '.join(first)}); "
                "check the label table, or choose other tasks"
            )
        columns = [present.index(task) for task in usable]
        plans.append(
            TaskSetPlan(name, usable, _labelled(train_rows, train[:, columns]), _labelled(test_rows, test[:, columns]))
        )
        excluded += [{"task_set": name, "task": task, "reason": reason} for task, reason in reasons.items()]
    return plans, excluded


def _one_engine(table: pa.Table, engine: str | None) -> pa.Table:
    """The statements of one engine: what rules, models and people say is never mixed in one number.

    Raises:
        InputError: several engines and none chosen, or one that the table does not have.
    """
    engines = sorted(pc.unique(table["engine"]).to_pylist())
    if engine is None and len(engines) > 1:
        raise InputError(f"engine: the label table mixes {', '.join(engines)}; choose one")
    if engine is not None and engine not in engines:
        raise InputError(f"engine: '{engine}' is not in the label table; it has {', '.join(engines) or 'no rows'}")
    return table.filter(pc.equal(table["engine"], engine)) if len(engines) > 1 else table


def usable_tasks(tasks: Sequence[str], train: np.ndarray, test: np.ndarray, minimum: int) -> tuple[list[str], dict[str, str]]:
    """Tasks with at least `minimum` positives and negatives in both target arrays (n, T); the reasons of the others."""
    usable, reasons = [], {}
    for column, task in enumerate(tasks):
        lacking = [
            f"{count} {word} in {split}"
            for split, targets in (("train", train), ("test", test))
            for word, value in (("positives", 1), ("negatives", 0))
            if (count := int((targets[:, column] == value).sum())) < minimum
        ]
        if lacking:
            reasons[task] = f"{', '.join(lacking)}; at least {minimum} needed"
        else:
            usable.append(task)
    return usable, reasons


def _wanted_task_sets(config: ProbeConfig) -> dict[str, str | tuple[str, ...]]:
    if config.task_sets is not None:
        return config.task_sets
    return {config.tasks if isinstance(config.tasks, str) else "tasks": config.tasks or ()}


def _targets(
    config: ProbeConfig, dataset: Dataset, table: pa.Table, tasks: list[str], splits: tuple[np.ndarray, ...]
) -> np.ndarray:
    """(n, T) targets of the images of all splits; with `shuffle_labels` those of other images of the same split."""
    rows = np.concatenate(splits)
    if not tasks:
        return np.zeros((len(rows), 0), np.float32)
    targets = task_table(
        dataset, table, tasks, rows=rows, not_mentioned=config.not_mentioned, uncertain=config.uncertain
    ).targets
    if config.shuffle_labels:
        parts = np.split(targets, np.cumsum([len(split) for split in splits])[:-1])
        shuffles = [np.random.default_rng([config.seeds[0], SHUFFLE_STREAM, part]) for part in range(len(parts))]
        targets = np.concatenate([rng.permutation(part) for rng, part in zip(shuffles, parts, strict=True)])
    return targets


def _labelled(rows: np.ndarray, targets: np.ndarray) -> LabelledImages:
    """Leave out images without a known target."""
    known = ~np.isnan(targets).all(axis=1)
    return LabelledImages(rows[known], targets[known])


def select_images(dataset: Dataset, split: str, views: Sequence[str]) -> np.ndarray:
    """Manifest rows of a split with one of the views, in manifest order.

    Raises:
        InputError: there is none; the views that the split does have are named.
    """
    rows = dataset.select(split=split, view=tuple(views))
    if not len(rows):
        found = Counter(dataset.columns("view", rows=dataset.select(split=split))["view"].to_pylist())
        present = ", ".join(f"{view} ({count:,})" for view, count in sorted(found.items())) or "no image"
        raise InputError(
            f"views: no {split} image is {' or '.join(views)}; that split has {present}; set `views` or split anew"
        )
    return rows


def _thin(rows: np.ndarray, limit: int | None) -> np.ndarray:
    if limit is None or len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(0).permutation(rows)[:limit])
