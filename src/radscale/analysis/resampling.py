"""Bootstrap draws of a test set and the ranking metrics of each draw: compiled kernels and nothing else.

A draw is a table of counts: how often each sample was drawn. AUPRC and AUROC follow from the counts and from the order of the
scores, so that scores are sorted once and no resampled copy is ever made. 64 replicates stand side by side in a row of counts,
one cache line, and are scored in one walk over the sorted samples.

Two facts make the draws fast and independent of workers, tasks and models:

* Throwing Poisson(n) balls into n cells gives independent Poisson(1) counts; given their sum, counts are multinomial. So each
  cell's count is drawn by itself, and the few balls too many or too few (about sqrt(n)) are taken out or thrown in at random.
  What remains is exactly n draws with replacement.
* A cell's Poisson count is a hash of (seed, replicate, identity of the sample). Whoever asks, in whatever order, gets the same
  count; and a sample that stands in several tasks is drawn alike in all of them, which the interval of a mean over tasks needs.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

import numba
import numpy as np
from numpy.typing import ArrayLike

from radscale.errors import InputError
from radscale.metrics.classification import check_binary

LANES = 64
"""Replicates per block: one cache line of one-byte counts."""
MAX_SAMPLES = (2**31 - 1) // 255
"""Of one task: sums of counts are kept in 32 bits."""
# Distribution function of Poisson(1), in 32 bits: a larger count than 12 has a probability below 2^-32.
_POISSON = np.floor(2.0**32 * np.cumsum([math.exp(-1) / math.factorial(k) for k in range(13)])).clip(0, 2**32 - 1)
POISSON_THRESHOLDS = _POISSON.astype(np.uint32)

# SplitMix64 (Steele, Lea and Flood, 2014), with Stafford's constants.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32, _11, _60 = (np.uint64(bits) for bits in (30, 27, 31, 32, 11, 60))
# Added to denominators: changes no count of 1 or more, and makes 0 / 0 zero without a branch.
_TINY = 1e-300


@numba.njit(cache=True, nogil=True, inline="always")
def _mix(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@numba.njit(cache=True, nogil=True)
def _throw_poisson(counts, cell_keys, lane_keys, thresholds):  # type: ignore[no-untyped-def]
    """Independent Poisson(1) counts (cells, LANES)."""
    random = np.empty(LANES, np.uint32)
    for i in range(cell_keys.size):
        row, key = counts[i], cell_keys[i]
        for r in range(LANES):
            random[r] = np.uint32(_mix(key + lane_keys[r]) >> _32)
        for r in range(LANES):
            count = np.uint8(0)
            for k in range(13):
                count += np.uint8(random[r] >= thresholds[k])
            row[r] = count


@numba.njit(cache=True, nogil=True)
def _settle_sum(counts, first, stop, lane_keys, salt):  # type: ignore[no-untyped-def]
    """Take out or throw in single balls until each lane of cells first..stop holds stop - first of them."""
    num_cells = stop - first
    totals = np.zeros(LANES, np.int64)
    for i in range(first, stop):
        row = counts[i]
        for r in range(LANES):
            totals[r] += row[r]
    for r in range(LANES):
        state = _mix(lane_keys[r] ^ salt)
        surplus = totals[r] - num_cells
        while surplus != 0:
            state += GOLDEN
            random = _mix(state)
            cell = first + np.int64((random >> _11) * 2.0**-53 * num_cells)
            count = counts[cell, r]
            if surplus > 0:
                # A ball at random is in a cell with probability in proportion to its count, which is at most 13 here.
                state += GOLDEN
                if count > np.uint8(_mix(state) >> _60):
                    counts[cell, r] = count - 1
                    surplus -= 1
            elif count < 255:  # never seen: 255 draws of one sample
                counts[cell, r] = count + 1
                surplus += 1


@numba.njit(cache=True, nogil=True)
def _segments(order, scores, positive, cell_of_sample, cells, bounds):  # type: ignore[no-untyped-def]
    """Cells by falling score, cut where precision counts: at the end of each group of equal scores that holds a positive.

    bounds (S, 3): end of the negatives above the group, of its negatives, and of its positives.
    """
    n = order.size
    num_segments = 0
    filled = 0
    first = 0
    while first < n:
        stop = first + 1
        num_positive = np.int64(positive[order[first]])
        while stop < n and scores[order[stop]] == scores[order[first]]:
            num_positive += positive[order[stop]]
            stop += 1
        negative_at, positive_at = filled, filled + stop - first - num_positive
        if num_positive > 0:
            bounds[num_segments, 0] = filled
            bounds[num_segments, 1] = positive_at
            bounds[num_segments, 2] = filled + stop - first
            num_segments += 1
        for k in range(first, stop):
            i = order[k]
            if positive[i]:
                cells[positive_at] = cell_of_sample[i]
                positive_at += 1
            else:
                cells[negative_at] = cell_of_sample[i]
                negative_at += 1
        filled += stop - first
        first = stop
    return num_segments


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _score_lanes(counts, cells, bounds, odds, auprc, auroc):  # type: ignore[no-untyped-def]
    """AUPRC and AUROC of each lane; AUROC is NaN where a lane lacks a class.

    odds: negatives to positives that AUPRC is standardised to; NaN leaves them as they are.
    """
    true = np.zeros(LANES, np.int32)
    false = np.zeros(LANES, np.int32)
    above = np.zeros(LANES, np.int32)
    last = np.zeros(LANES, np.int32)
    weight = np.ones(LANES)
    if odds == odds:
        for k in range(cells.size):
            row = counts[cells[k]]
            for r in range(LANES):
                false[r] += row[r]
        for s in range(bounds.shape[0]):
            for k in range(bounds[s, 1], bounds[s, 2]):
                row = counts[cells[k]]
                for r in range(LANES):
                    true[r] += row[r]
        for r in range(LANES):
            weight[r] = odds * true[r] / (false[r] - true[r])
            true[r] = 0
            false[r] = 0
    for r in range(LANES):
        auprc[r] = 0.0
        auroc[r] = 0.0
    start = 0
    for s in range(bounds.shape[0]):
        for k in range(start, bounds[s, 0]):
            row = counts[cells[k]]
            for r in range(LANES):
                false[r] += row[r]
        for r in range(LANES):
            above[r] = false[r]
        for k in range(bounds[s, 0], bounds[s, 1]):
            row = counts[cells[k]]
            for r in range(LANES):
                false[r] += row[r]
        for k in range(bounds[s, 1], bounds[s, 2]):
            row = counts[cells[k]]
            for r in range(LANES):
                true[r] += row[r]
        for r in range(LANES):
            gained = np.float64(true[r] - last[r])
            auprc[r] += true[r] / (true[r] + weight[r] * false[r] + _TINY) * gained
            auroc[r] += (np.float64(above[r]) + false[r]) * gained
            last[r] = true[r]
        start = bounds[s, 2]
    for k in range(start, cells.size):
        row = counts[cells[k]]
        for r in range(LANES):
            false[r] += row[r]
    for r in range(LANES):
        auprc[r] /= true[r]
        auroc[r] = 1.0 - auroc[r] / (2.0 * true[r] * false[r])


@numba.njit(cache=True, nogil=True)
def _hash_rows(characters, keys):  # type: ignore[no-untyped-def]
    for i in range(characters.shape[0]):
        key = GOLDEN
        for j in range(characters.shape[1]):
            if characters[i, j] != 0:
                key = _mix((key ^ np.uint64(characters[i, j])) * _MIX_1 + GOLDEN)
        keys[i] = _mix(key)


def identity_keys(ids: ArrayLike) -> np.ndarray:
    """(n,) uint64 of samples or patients: equal ids, equal keys, whatever stands beside them."""
    text = np.ascontiguousarray(np.asarray(ids).astype(np.str_))
    keys = np.empty(text.size, np.uint64)
    _hash_rows(text.view(np.uint32).reshape(text.size, -1), keys)
    return keys


def stream_key(*parts: object) -> np.uint64:
    """A random stream's key from what it belongs to, for instance seed and task."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def mix_keys(keys: np.ndarray) -> np.ndarray:
    """New keys (n,) uint64 from old ones."""
    with np.errstate(over="ignore"):
        return np.asarray(_mix.py_func(keys + GOLDEN))


@dataclass(frozen=True)
class Cells:
    """What is drawn: samples, or patients with all their samples. Drawn within two strata, so that class balance stays."""

    keys: np.ndarray
    """(C,) uint64, those with a positive first."""
    num_positive: int
    of_sample: np.ndarray
    """(n,) int32: cell of each sample."""


def cells_of(
    positive: np.ndarray, *, task: str, sample_keys: np.ndarray | None = None, group_keys: np.ndarray | None = None
) -> Cells:
    """Cells of one task's test set.

    Args:
        positive: (n,) bool.
        task: name; keeps tasks apart if nothing says which samples they share.
        sample_keys: (n,) `identity_keys`; a sample that stands in several tasks is then drawn alike in all of them.
        group_keys: (n,) of patients, drawn whole: those with a positive sample and those without are two strata.
    """
    if group_keys is not None:
        keys, member = np.unique(group_keys, return_inverse=True)
        has_positive = np.zeros(keys.size, dtype=bool)
        has_positive[member[positive]] = True
    else:
        member = np.arange(positive.size)
        keys = stream_key(task) + member.astype(np.uint64) * GOLDEN if sample_keys is None else sample_keys
        has_positive = positive
    order = np.argsort(~has_positive, kind="stable")
    place = np.empty(order.size, np.int32)
    place[order] = np.arange(order.size, dtype=np.int32)
    return Cells(np.ascontiguousarray(keys[order]), int(has_positive.sum()), place[member])


def draw_counts(cells: Cells, lane_keys: np.ndarray, task: str, out: np.ndarray | None = None) -> np.ndarray:
    """(C, LANES) uint8: how often each cell was drawn in each replicate; each stratum's sum is its number of cells."""
    counts = np.empty((cells.keys.size, LANES), np.uint8) if out is None else out
    _throw_poisson(counts, cells.keys, lane_keys, POISSON_THRESHOLDS)
    strata = [(0, cells.num_positive), (cells.num_positive, cells.keys.size)]
    for index, (first, stop) in enumerate(strata):
        if stop > first:
            _settle_sum(counts, first, stop, lane_keys, stream_key(task, index))
    return counts


@dataclass(frozen=True)
class SortedTask:
    """One task's test set, sorted by each score vector and ready to be drawn."""

    name: str
    cells: Cells
    ranked: list[tuple[np.ndarray, np.ndarray]]
    """Of each score vector: cells by falling score (n,) int32, and bounds (S, 3) int64."""
    odds: float
    """Negatives to positives that AUPRC is standardised to, or NaN."""

    def score(self, counts: np.ndarray) -> np.ndarray:
        """(2, M, LANES): AUPRC and AUROC of each score vector in each replicate of `draw_counts`."""
        result = np.empty((2, len(self.ranked), LANES))
        for m, (cells, bounds) in enumerate(self.ranked):
            _score_lanes(counts, cells, bounds, self.odds, result[0, m], result[1, m])
        return result

    def score_drawn(self, lane_keys: np.ndarray) -> np.ndarray:
        """(2, M, LANES) of LANES replicates."""
        lane_keys = lane_keys.copy()
        counts = None
        while True:
            counts = draw_counts(self.cells, lane_keys, self.name, counts)
            result = self.score(counts)
            # Only where every patient has a positive can a draw be without negatives; it is then drawn again.
            lacking = np.isnan(result[1, 0])
            if not lacking.any():
                return result
            lane_keys[lacking] = mix_keys(lane_keys[lacking])

    def score_observed(self) -> np.ndarray:
        """(2, M) of the test set itself: everything drawn once."""
        return self.score(np.ones((self.cells.keys.size, LANES), np.uint8))[:, :, 0]


def rank_scores(positive: np.ndarray, scores: np.ndarray, cell_of_sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells by falling score (n,) int32, and the bounds (S, 3) of `_segments`."""
    order = np.argsort(scores)[::-1].astype(np.int32)
    cells = np.empty(order.size, np.int32)
    bounds = np.empty((int(positive.sum()), 3), np.int64)
    num_segments = _segments(order, scores, positive, cell_of_sample, cells, bounds)
    return cells, bounds[:num_segments].copy()


@dataclass(frozen=True)
class TaskVectors:
    """One task's test set and the score vectors to evaluate on it."""

    name: str
    targets: ArrayLike
    """(n,) 0 or 1."""
    scores: Sequence[ArrayLike]
    """M vectors (n,); larger means more likely positive."""
    sample_keys: np.ndarray | None = None
    """(n,) `identity_keys` of the samples: those that tasks share are drawn alike. None: tasks are drawn independently."""
    group_keys: np.ndarray | None = None
    """(n,) of patients, to draw whole patients."""
    prevalence: float | None = None
    """AUPRC is standardised to it: negatives are weighted until each draw has this share of positives."""


def sort_task(task: TaskVectors, pool: Executor) -> SortedTask:
    """Check one task's test set and sort it by each score vector.

    Raises:
        InputError: unequal lengths, one class, values that are not finite.
    """
    vectors = [np.asarray(vector) for vector in task.scores]
    vectors = [v if v.dtype in (np.float32, np.float64) else v.astype(np.float64) for v in vectors]
    positive = np.zeros(0, dtype=bool)
    for vector in vectors:
        try:
            positive, _ = check_binary(task.targets, vector)
        except InputError as error:
            raise InputError(f"task '{task.name}': {error}") from None
    if positive.size > MAX_SAMPLES:
        raise InputError(
            f"task '{task.name}': {positive.size} samples; at most {MAX_SAMPLES} are supported, draw a random part"
        )
    for name, keys in (("samples", task.sample_keys), ("groups", task.group_keys)):
        if keys is not None and keys.shape != positive.shape:
            raise InputError(f"task '{task.name}': {keys.size} {name} for {positive.size} targets; give one for each")
    if task.sample_keys is not None and np.unique(task.sample_keys).size != positive.size:
        repeated = positive.size - np.unique(task.sample_keys).size
        raise InputError(f"task '{task.name}': {repeated} samples repeat an id; give each sample once")
    cells = cells_of(positive, task=task.name, sample_keys=task.sample_keys, group_keys=task.group_keys)
    ranked = list(pool.map(lambda vector: rank_scores(positive, vector, cells.of_sample), vectors))
    odds = math.nan if task.prevalence is None else (1 - task.prevalence) / task.prevalence
    return SortedTask(task.name, cells, ranked, odds)


def replicate_keys(seed: int, num_replicates: int) -> np.ndarray:
    """(blocks, LANES) uint64: key of each replicate, the last block filled up."""
    num_blocks = -(-num_replicates // LANES)
    keys = stream_key("replicates", seed) + np.arange(num_blocks * LANES, dtype=np.uint64) * GOLDEN
    return mix_keys(keys).reshape(num_blocks, LANES)


@dataclass(frozen=True)
class TaskReplicates:
    """AUPRC and AUROC of one task's score vectors: first axis is the metric, last the M vectors."""

    observed: np.ndarray
    """(2, M) on the test set itself."""
    drawn: np.ndarray
    """(2, num_replicates, M)."""


def resample(
    tasks: Iterable[TaskVectors], *, num_replicates: int, seed: int, num_workers: int | None = None
) -> Iterator[TaskReplicates]:
    """Score every draw of every task, task by task.

    Args:
        tasks: taken one at a time, so that not all need to be in memory.
        num_replicates: B.
        seed: decides all draws.
        num_workers: threads; None takes all cores. The numbers do not depend on it.
    """
    if num_replicates < 1:
        raise InputError(f"num_replicates is {num_replicates}; it must be 1 or more")
    keys = replicate_keys(seed, num_replicates)
    running: list[tuple[Future[np.ndarray], list[Future[np.ndarray]]]] = []

    def collect() -> TaskReplicates:
        observed, blocks = running.pop(0)
        drawn = np.concatenate([block.result() for block in blocks], axis=2)[:, :, :num_replicates]
        return TaskReplicates(observed.result(), drawn.transpose(0, 2, 1))

    with ThreadPoolExecutor(num_workers or cpu_count() or 1) as pool:
        for task in tasks:
            # While one task's last blocks run, the next task is sorted.
            ready = sort_task(task, pool)
            running.append(
                (pool.submit(ready.score_observed), [pool.submit(ready.score_drawn, lane_keys) for lane_keys in keys])
            )
            if len(running) > 1:
                yield collect()
        while running:
            yield collect()
