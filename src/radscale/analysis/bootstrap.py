"""Hierarchical paired bootstrap (paper, A.8): are two models different, per task and over tasks?

For each replicate the test set of a task is drawn anew, within its classes, and every model and seed is scored on that same
draw. Seeds are averaged within a model; the difference between models is what the intervals are about.

What differs from the paper, on purpose: samples that tasks share are drawn alike in all of them when their ids are known. The
paper draws each task by itself, which leaves every task's interval the same but makes the interval of the mean over tasks too
narrow where tasks are scored on the same images.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from radscale.analysis.resampling import (
    TaskVectors,
    cells_of,
    draw_counts,
    identity_keys,
    replicate_keys,
    resample,
    stream_key,
)
from radscale.analysis.significance import holm, replicates_for_holm
from radscale.errors import InputError

METRICS = ("auprc", "auroc")


@dataclass(frozen=True)
class Difference:
    """A difference between two models."""

    mean: float
    """Over the replicates: what the paper reports."""
    low: float
    high: float
    """2.5th and 97.5th percentile (linear interpolation) of the replicates, unless another level was asked for."""
    p_value: float
    """Two-sided: twice the smaller share of replicates on either side of zero, (+1) / (B + 1). NaN for the pooled result, whose
    replicates are not of one quantity."""
    p_holm: float = math.nan
    """Corrected for the number of tasks; only for single tasks."""
    observed: float = math.nan
    """On the test set itself: the estimate to print beside both models' scores, whose difference it is."""
    standard_error: float = math.nan
    """Standard deviation of the replicates."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero (the paper's rule)."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Estimate:
    """A model's own score."""

    observed: float
    low: float
    high: float


@dataclass(frozen=True)
class BootstrapResult:
    """What `paired_bootstrap` found."""

    per_task: dict[str, Difference]
    pooled: Difference
    """The paper's "micro": replicates of all tasks in one heap. Its interval is mostly the spread between tasks: it includes
    zero as soon as the difference has the other sign in one task of twenty."""
    macro: Difference
    """Mean over tasks, replicate by replicate. Its interval is the uncertainty of the average over these tasks."""
    num_replicates: int
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a reader should know, for instance that too few replicates were drawn for Holm's correction."""


@dataclass(frozen=True)
class TaskScores:
    """One task's test set as every arm scored it."""

    task: str
    targets: np.ndarray
    """(n,) 0 or 1."""
    scores: Mapping[str, np.ndarray]
    """{arm: (runs, n)}; the number of runs may differ between arms."""
    sample_keys: np.ndarray | None = None
    """(n,) `resampling.identity_keys` of the samples, None if unknown."""
    patient_keys: np.ndarray | None = None
    units: Mapping[str, np.ndarray] | None = None
    """{arm: (runs,)}: runs of one unit (seeds of an encoder) are drawn together if runs are resampled. None: each alone."""
    prevalence: float | None = None
    """AUPRC is standardised to it; None leaves AUPRC as it is."""


@dataclass(frozen=True)
class ArmReplicates:
    """Scores of several arms on the same draws, in one metric."""

    observed: dict[str, dict[str, float]]
    """{task: {arm: mean over runs}}."""
    drawn: dict[str, dict[str, np.ndarray]]
    """{task: {arm: (B,)}}."""
    level: float = 0.95

    @property
    def num_replicates(self) -> int:
        """B."""
        return len(next(iter(next(iter(self.drawn.values())).values())))

    def difference(self, a: str, b: str) -> BootstrapResult:
        """Arm a minus arm b."""
        drawn = {task: arms[a] - arms[b] for task, arms in self.drawn.items()}
        observed = {task: arms[a] - arms[b] for task, arms in self.observed.items()}
        return combine_tasks(drawn, observed, self.level)

    def estimate(self, arm: str, task: str | None = None) -> Estimate:
        """Score of an arm in a task, or its mean over tasks."""
        tasks = list(self.drawn) if task is None else [task]
        drawn = np.mean([self.drawn[name][arm] for name in tasks], axis=0)
        low, high = _interval(drawn, self.level)
        return Estimate(float(np.mean([self.observed[name][arm] for name in tasks])), low, high)

    def best_arms(self, arms: Iterable[str], task: str | None = None) -> tuple[str, dict[str, Difference]]:
        """The best arm and each arm's difference to it; bold is the best and every arm not significantly different from it.

        This is the rule behind the bold numbers of the paper's tables. `task` None: the mean over tasks.
        """
        names = list(arms)
        best = max(names, key=lambda arm: self.estimate(arm, task).observed)
        differences = {}
        for arm in names:
            result = self.difference(arm, best)
            differences[arm] = result.macro if task is None else result.per_task[task]
        return best, differences


def bold_arms(differences: Mapping[str, Difference]) -> set[str]:
    """Arms to print bold, from the differences of `ArmReplicates.best_arms`."""
    return {arm for arm, difference in differences.items() if not difference.significant}


def bootstrap_arms(
    tasks: Iterable[TaskScores],
    *,
    num_replicates: int = 500,
    seed: int = 0,
    by_patient: bool = False,
    resample_seeds: bool = False,
    level: float = 0.95,
    num_workers: int | None = None,
) -> dict[str, ArmReplicates]:
    """Scores of all arms on shared draws: {"auprc": ..., "auroc": ...}.

    Args:
        tasks: taken one at a time.
        num_replicates: bootstrap samples B (the paper: 500).
        seed: decides all draws.
        by_patient: draw patients with all their samples, within those who have a positive and those who have none.
        resample_seeds: draw each arm's runs too, the same in all tasks: intervals then speak about training again, not only
            about another test set. With three runs this second level is itself rough.
        level: of the intervals.
        num_workers: threads; the numbers do not depend on it.

    Raises:
        InputError: no tasks, unequal lengths, one class, values that are not finite.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it must be between 0 and 1, for instance 0.95")
    facts: list[tuple[TaskScores, dict[str, slice]]] = []

    def vectors() -> Iterator[TaskVectors]:
        for task in tasks:
            if by_patient and task.patient_keys is None:
                raise InputError(f"task '{task.task}': no patients are known; give patient_id or resample images")
            rows, first = {}, 0
            for arm, matrix in task.scores.items():
                rows[arm] = slice(first, first + len(matrix))
                first += len(matrix)
            # Scores themselves are not kept: only facts of each task.
            facts.append((replace(task, targets=np.empty(0), scores={arm: np.empty(0) for arm in task.scores}), rows))
            stacked = [row for matrix in task.scores.values() for row in matrix]
            groups = task.patient_keys if by_patient else None
            yield TaskVectors(task.task, task.targets, stacked, task.sample_keys, groups, task.prevalence)

    observed: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in METRICS}
    drawn: dict[str, dict[str, dict[str, np.ndarray]]] = {metric: {} for metric in METRICS}
    results = resample(vectors(), num_replicates=num_replicates, seed=seed, num_workers=num_workers)
    for index, result in enumerate(results):
        task, rows = facts[index]
        for axis, metric in enumerate(METRICS):
            observed[metric][task.task] = {arm: float(result.observed[axis, chosen].mean()) for arm, chosen in rows.items()}
            drawn[metric][task.task] = {
                arm: _mean_over_runs(result.drawn[axis, :, chosen], arm, task, seed if resample_seeds else None)
                for arm, chosen in rows.items()
            }
    if not facts:
        raise InputError("no tasks given; give at least one task with its targets")
    return {metric: ArmReplicates(observed[metric], drawn[metric], level) for metric in METRICS}


@dataclass(frozen=True)
class ImageValues:
    """One task's test images with a measurement of each, as every arm made them."""

    task: str
    present: np.ndarray
    """(n,) bool: what is looked for is there. Images are drawn within those with it and those without."""
    values: Mapping[str, np.ndarray]
    """{arm: (runs, n)}; NaN where an image has nothing to measure in that run."""
    sample_keys: np.ndarray | None = None
    """(n,) `resampling.identity_keys`: images that tasks share are drawn alike."""


def bootstrap_image_means(
    tasks: Iterable[ImageValues], *, num_replicates: int = 500, seed: int = 0, level: float = 0.95
) -> ArmReplicates:
    """The mean over images, averaged over runs, of every arm on shared draws: A.8 for measurements of single images.

    Args:
        tasks: of one measure.
        num_replicates: bootstrap samples B.
        seed: decides all draws.
        level: of the intervals.

    Raises:
        InputError: no tasks, or a run without a single measurement.
    """
    observed: dict[str, dict[str, float]] = {}
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for task in tasks:
        cells = cells_of(task.present, task=task.task, sample_keys=task.sample_keys)
        blocks = [
            draw_counts(cells, lane_keys, task.task)[cells.of_sample] for lane_keys in replicate_keys(seed, num_replicates)
        ]
        counts = np.concatenate(blocks, axis=1)[:, :num_replicates].astype(np.float64)
        observed[task.task], drawn[task.task] = {}, {}
        for arm, values in task.values.items():
            known = ~np.isnan(values)
            if not known.any(axis=1).all():
                raise InputError(f"task '{task.task}', arm '{arm}': no image with a measurement; leave the task out")
            filled = np.where(known, values, 0.0).astype(np.float64)
            observed[task.task][arm] = float((filled.sum(axis=1) / known.sum(axis=1)).mean())
            # A draw may miss every measured image of a run only where hardly any is; such a draw takes the run's own mean.
            total = known @ counts
            means = np.divide(
                filled @ counts,
                total,
                where=total > 0,
                out=np.repeat((filled.sum(axis=1) / known.sum(axis=1))[:, None], counts.shape[1], axis=1),
            )
            drawn[task.task][arm] = means.mean(axis=0)
    if not observed:
        raise InputError("no tasks given; give at least one task with its measurements")
    return ArmReplicates(observed, drawn, level)


def _mean_over_runs(values: np.ndarray, arm: str, task: TaskScores, seed: int | None) -> np.ndarray:
    """(B,) from (B, runs): the mean, or the mean of runs drawn with replacement."""
    if seed is None:
        return values.mean(axis=1)
    num_runs = values.shape[1]
    units = np.arange(num_runs) if task.units is None else np.unique(task.units[arm], return_inverse=True)[1]
    num_units = int(units.max()) + 1
    rng = np.random.default_rng(int(stream_key("runs", seed, arm)))
    # One number per replicate and place: tasks with equal runs draw equally.
    chosen = (rng.random((len(values), num_units)) * num_units).astype(np.int64)
    times = (chosen[:, :, None] == np.arange(num_units)).sum(axis=1)[:, units]
    return np.asarray((values * times).sum(axis=1) / times.sum(axis=1))


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
    """(num_replicates, M) AUPRC of M score vectors on the same draws of one task's test set.

    Args:
        targets: (n,) 0 or 1.
        scores: (M, n).
        num_replicates: B.
        seed: with the task's name and the replicate it decides the draw, whatever the number of workers.
        task: name of the task.
        groups: (n,) patients, to draw whole patients; else samples within each class.
        num_workers: threads; None takes all cores.
    """
    keys = None if groups is None else identity_keys(groups)
    vectors = TaskVectors(task, targets, list(np.atleast_2d(scores)), group_keys=keys)
    (result,) = resample([vectors], num_replicates=num_replicates, seed=seed, num_workers=num_workers)
    return result.drawn[0]


def bootstrap_mean(
    values: ArrayLike, groups: ArrayLike, *, num_replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean of measurements that come in groups, with the percentile interval from drawing whole groups.

    Args:
        values: (n,) finite.
        groups: (n,) patient of each; with one patient the interval is a point.
        num_replicates: B.
        seed: decides the draws.
        level: of the interval.

    Raises:
        InputError: no values, values that are not finite, or another number of groups.
    """
    array, members = np.asarray(values, np.float64), np.asarray(groups)
    if array.ndim != 1 or not array.size or array.shape != members.shape or not np.isfinite(array).all():
        raise InputError(f"values {array.shape} and groups {members.shape}: give as many of each, at least one, without NaN")
    _, member = np.unique(members, return_inverse=True)
    sums, counts = np.bincount(member, weights=array), np.bincount(member)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(sums.size, np.full(sums.size, 1 / sums.size), size=num_replicates)
    low, high = _interval((drawn @ sums) / (drawn @ counts), level)
    return Estimate(float(array.mean()), low, high)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def summarise_differences(differences: np.ndarray, level: float = 0.95, observed: float = math.nan) -> Difference:
    """Mean, percentile interval and p-value of bootstrap differences (any shape, flattened)."""
    values = differences.ravel()
    low, high = _interval(values, level)
    below, above = int((values <= 0).sum()), int((values >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (len(values) + 1))
    error = float(values.std(ddof=1)) if values.size > 1 else math.nan
    return Difference(float(values.mean()), low, high, p_value, observed=observed, standard_error=error)


def minimum_detectable_difference(standard_error: float, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided test at `level` shows with probability `power`, by the normal approximation.

    Args:
        standard_error: of the paired difference between two models on this test set; what the test set, its size and its
            prevalence decide.
        level: of the intervals.
        power: share of test sets of this kind on which the interval would exclude zero.
    """
    return float((stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)) * standard_error)


def combine_tasks(differences: Mapping[str, np.ndarray], observed: Mapping[str, float], level: float = 0.95) -> BootstrapResult:
    """Per task, pooled and macro results from bootstrap differences {task: (B,)} and observed ones {task: number}."""
    per_task = {task: summarise_differences(values, level, observed[task]) for task, values in differences.items()}
    corrected = holm({task: result.p_value for task, result in per_task.items()})
    per_task = {task: replace(result, p_holm=corrected[task]) for task, result in per_task.items()}
    stacked = np.stack(list(differences.values()))
    mean = float(np.mean([observed[task] for task in differences]))
    num_tasks, num_replicates = stacked.shape
    needed = replicates_for_holm(num_tasks, 1 - level)
    notes: tuple[str, ...] = ()
    if num_replicates < needed:
        notes = (
            f"{num_replicates} replicates are too few for Holm's correction over {num_tasks} tasks: no p could fall to "
            f"{1 - level:.2g}, however large a difference; draw {needed} or more",
        )
    return BootstrapResult(
        per_task=per_task,
        pooled=replace(summarise_differences(stacked, level, mean), p_value=math.nan),
        macro=summarise_differences(stacked.mean(axis=0), level, mean),
        num_replicates=num_replicates,
        notes=notes,
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
    *,
    sample_ids: ArrayLike | Mapping[str, ArrayLike] | None = None,
    resample_seeds: bool = False,
    metric: str = "auprc",
) -> BootstrapResult:
    """Differences a - b, per task and over tasks (paper, A.8).

    Args:
        targets: {task: (n,)} 0 or 1.
        scores_a: {task: (seeds, n) or (n,)} of model a.
        scores_b: likewise of model b; the number of seeds may differ.
        num_replicates: bootstrap samples (the paper: 500). Holm's correction over T tasks needs 40 T - 1 or more.
        seed: decides all draws.
        groups: patients, (n,) for all tasks or {task: (n,)}; whole patients are then drawn, the same in all tasks. None
            resamples images, as the paper does.
        level: of the intervals.
        num_workers: threads; the numbers do not depend on it.
        sample_ids: (n,) or {task: (n,)}; a sample that tasks share is then drawn alike in all of them, and the macro interval
            covers what their errors have in common. None draws tasks independently, as the paper does.
        resample_seeds: draw the seeds too (second level).
        metric: "auprc" or "auroc".

    Raises:
        InputError: different tasks, unequal lengths, one class, values that are not finite.
    """
    if not targets:
        raise InputError("no tasks given; give at least one task with its targets")
    if metric not in METRICS:
        raise InputError(f"metric '{metric}'; choose one of {', '.join(METRICS)}")
    for name, scores in (("scores_a", scores_a), ("scores_b", scores_b)):
        different = set(scores) ^ set(targets)
        if different:
            raise InputError(f"{name}: task '{sorted(different)[0]}' is not in both targets and scores; give the same tasks")

    def keys_of(ids: ArrayLike | Mapping[str, ArrayLike] | None, task: str) -> np.ndarray | None:
        chosen = ids[task] if isinstance(ids, Mapping) else ids
        return None if chosen is None else identity_keys(chosen)

    def tasks() -> Iterator[TaskScores]:
        for task, y in targets.items():
            a, b = np.atleast_2d(scores_a[task]), np.atleast_2d(scores_b[task])
            if a.shape[1] != b.shape[1]:
                raise InputError(f"task '{task}': {a.shape[1]} scores of a and {b.shape[1]} of b; both need the same samples")
            yield TaskScores(task, np.asarray(y), {"a": a, "b": b}, keys_of(sample_ids, task), keys_of(groups, task))

    replicates = bootstrap_arms(
        tasks(),
        num_replicates=num_replicates,
        seed=seed,
        by_patient=groups is not None,
        resample_seeds=resample_seeds,
        level=level,
        num_workers=num_workers,
    )
    result = replicates[metric].difference("a", "b")
    for note in result.notes:
        warnings.warn(note, stacklevel=2)
    return result
