"""Hierarchical paired bootstrap (paper, A.8): are two models different, per task and over tasks?

For each replicate the test set of a task is drawn anew, within its classes, and every model and seed is scored on that same
draw. Seeds are averaged within a model; the difference between models is what the intervals are about.
"""

import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

import numba
import numpy as np
from numpy.typing import ArrayLike

from radscale.errors import InputError
from radscale.metrics.classification import check_binary


@dataclass(frozen=True)
class Difference:
    """A difference between two models, in AUPRC."""

    mean: float
    low: float
    high: float
    """2.5th and 97.5th percentile (linear interpolation) of the replicates, unless another level was asked for."""
    p_value: float
    """Two-sided: twice the smaller share of replicates on either side of zero, (+1) / (B + 1)."""
    p_holm: float = float("nan")
    """Corrected for the number of tasks; only for single tasks."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero (the paper's rule)."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class BootstrapResult:
    """What `paired_bootstrap` found."""

    per_task: dict[str, Difference]
    pooled: Difference
    """The paper's "micro": replicates of all tasks in one heap. Its interval is mostly the spread between tasks."""
    macro: Difference
    """Mean over tasks, replicate by replicate. Its interval is the uncertainty of the average over these tasks."""
    num_replicates: int


@numba.njit(cache=True, nogil=True)
def _average_precision(counts, order, is_end, positive):  # type: ignore[no-untyped-def]
    """AP of resampled data: `counts` says how often each sample was drawn, `order` sorts by falling score."""
    total_positive = 0
    for i in range(counts.size):
        if positive[i]:
            total_positive += counts[i]
    true = 0
    seen = 0
    last_true = 0
    area = 0.0
    for k in range(order.size):
        i = order[k]
        c = counts[i]
        seen += c
        if positive[i]:
            true += c
        # Equal scores are one threshold: precision counts at the end of each group of ties.
        if is_end[k] and true > last_true:
            area += true / seen * (true - last_true)
            last_true = true
    return area / total_positive


@numba.njit(cache=True, nogil=True)
def _score_replicate(counts, orders, ends, positive, out):  # type: ignore[no-untyped-def]
    for m in range(orders.shape[0]):
        out[m] = _average_precision(counts, orders[m], ends[m], positive)


def bootstrap_average_precision(
    targets: ArrayLike,
    scores: ArrayLike,
    *,
    num_replicates: int,
    seed: int,
    task: str,
    groups: ArrayLike | None = None,
    num_workers: int | None = None,
) -> np.ndarray:
    """(num_replicates, M) AUPRC of M score vectors on the same resamples of one task's test set.

    Args:
        targets: (n,) 0 or 1.
        scores: (M, n).
        num_replicates: B.
        seed: of the study; with the task's name and the replicate it decides the draw, whatever the number of workers.
        task: name of the task.
        groups: (n,) patients; whole patients are then drawn (both classes in every draw), else samples within each class.
        num_workers: threads; None takes all cores.
    """
    matrix = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    positive = np.zeros(0, dtype=bool)
    for row in matrix:
        positive, _ = check_binary(targets, row)
    orders = np.argsort(-matrix, axis=1, kind="stable").astype(np.int32)
    ordered = np.take_along_axis(matrix, orders, axis=1)
    ends = np.ones(matrix.shape, dtype=bool)
    ends[:, :-1] = np.diff(ordered, axis=1) != 0
    draw = _stratified_draw(positive) if groups is None else _patient_draw(np.asarray(groups), positive)
    key = zlib.crc32(task.encode())
    result = np.empty((num_replicates, len(matrix)))

    def score(indices: range) -> None:
        for index in indices:
            counts = draw(np.random.default_rng([seed, key, index]))
            _score_replicate(counts, orders, ends, positive, result[index])

    workers = num_workers or cpu_count() or 1
    if workers == 1:
        score(range(num_replicates))
        return result
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(score, [range(first, num_replicates, workers) for first in range(workers)]))
    return result


def _stratified_draw(positive: np.ndarray):  # type: ignore[no-untyped-def]
    classes = [np.flatnonzero(positive), np.flatnonzero(~positive)]

    def draw(rng: np.random.Generator) -> np.ndarray:
        counts = np.zeros(positive.size, dtype=np.int64)
        for members in classes:
            drawn = rng.integers(0, len(members), len(members))
            counts[members] = np.bincount(drawn, minlength=len(members))
        return counts

    return draw


def _patient_draw(groups: np.ndarray, positive: np.ndarray):  # type: ignore[no-untyped-def]
    if groups.shape != positive.shape:
        raise InputError(f"groups of shape {groups.shape} for {positive.size} samples: give one patient per sample")
    _, member = np.unique(groups, return_inverse=True)
    num_groups = int(member.max()) + 1

    def draw(rng: np.random.Generator) -> np.ndarray:
        while True:
            times = np.bincount(rng.integers(0, num_groups, num_groups), minlength=num_groups)
            counts = times[member]
            # A draw without one of the classes has no AUPRC; it is drawn again, as in the stratified case by construction.
            if counts[positive].any() and counts[~positive].any():
                return np.asarray(counts, dtype=np.int64)

    return draw


def summarise_differences(differences: np.ndarray, level: float = 0.95) -> Difference:
    """Mean, percentile interval and p-value of bootstrap differences (any shape, flattened)."""
    values = differences.ravel()
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    below, above = int((values <= 0).sum()), int((values >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (len(values) + 1))
    return Difference(float(values.mean()), float(low), float(high), p_value)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction over tasks."""
    corrected, running = {}, 0.0
    for index, (task, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - index) * p_value))
        corrected[task] = running
    return corrected


def combine_tasks(differences: Mapping[str, np.ndarray], level: float = 0.95) -> BootstrapResult:
    """Per task, pooled and macro results from bootstrap differences {task: (B,)}."""
    per_task = {task: summarise_differences(values, level) for task, values in differences.items()}
    corrected = holm({task: result.p_value for task, result in per_task.items()})
    per_task = {task: Difference(r.mean, r.low, r.high, r.p_value, corrected[task]) for task, r in per_task.items()}
    stacked = np.stack(list(differences.values()))
    return BootstrapResult(
        per_task=per_task,
        pooled=summarise_differences(stacked, level),
        macro=summarise_differences(stacked.mean(axis=0), level),
        num_replicates=stacked.shape[1],
    )


def paired_bootstrap(
    targets: Mapping[str, ArrayLike],
    scores_a: Mapping[str, ArrayLike],
    scores_b: Mapping[str, ArrayLike],
    num_replicates: int = 500,
    seed: int = 0,
    groups: ArrayLike | Mapping[str, ArrayLike] | None = None,
    level: float = 0.95,
    num_workers: int | None = None,
) -> BootstrapResult:
    """Differences a - b in AUPRC, per task and over tasks (paper, A.8).

    Args:
        targets: {task: (n,)} 0 or 1.
        scores_a: {task: (seeds, n) or (n,)} of model a.
        scores_b: likewise of model b; the number of seeds may differ.
        num_replicates: bootstrap samples (the paper: 500).
        seed: decides all draws.
        groups: patients, (n,) for all tasks or {task: (n,)}; None resamples images, as the paper does.
        level: of the intervals.
        num_workers: threads; the numbers do not depend on it.

    Raises:
        InputError: different tasks, unequal lengths, one class, values that are not finite.
    """
    if not targets:
        raise InputError("no tasks given; give at least one task with its targets")
    for name, scores in (("scores_a", scores_a), ("scores_b", scores_b)):
        different = set(scores) ^ set(targets)
        if different:
            raise InputError(f"{name}: task '{sorted(different)[0]}' is not in both targets and scores; give the same tasks")
    if num_replicates < 1:
        raise InputError(f"num_replicates is {num_replicates}; it must be 1 or more")
    differences = {}
    for task, y in targets.items():
        a, b = np.atleast_2d(scores_a[task]), np.atleast_2d(scores_b[task])
        if a.shape[1] != b.shape[1]:
            raise InputError(f"task '{task}': {a.shape[1]} scores of a and {b.shape[1]} of b; both need the same samples")
        values = bootstrap_average_precision(
            y,
            np.concatenate([a, b]),
            num_replicates=num_replicates,
            seed=seed,
            task=task,
            groups=groups[task] if isinstance(groups, Mapping) else groups,
            num_workers=num_workers,
        )
        differences[task] = values[:, : len(a)].mean(axis=1) - values[:, len(a) :].mean(axis=1)
    return combine_tasks(differences, level)
