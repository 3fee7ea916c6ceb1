"""Tests beside the bootstrap: Holm's correction, DeLong, exchange of scores between models, Wilcoxon over tasks."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

import numba
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from radscale.analysis.resampling import stream_key
from radscale.metrics.classification import check_binary


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction over tasks."""
    corrected, running = {}, 0.0
    for index, (task, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - index) * p_value))
        corrected[task] = running
    return corrected


def replicates_for_holm(num_tasks: int, alpha: float = 0.05) -> int:
    """Fewest replicates with which the smallest p-value, 2 / (B + 1), survives Holm's correction at `alpha`."""
    return math.ceil(round(2 * num_tasks / alpha, 6)) - 1


@dataclass(frozen=True)
class DeLong:
    """Difference of two AUROC with DeLong's variance."""

    auroc_a: float
    auroc_b: float
    standard_error: float
    z: float
    p_value: float
    """NaN if the placements do not vary at all although the areas differ."""


def delong(targets: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike, groups: ArrayLike | None = None) -> DeLong:
    """Test of equal AUROC on the same samples (DeLong, DeLong and Clarke-Pearson, 1988).

    Several runs of a model: its AUROC is the mean over runs, whose placements are means too. With patients, placements are
    summed within each (Obuchowski, 1997). Nothing is resampled, so this checks the bootstrap from another side.

    Args:
        targets: (n,) 0 or 1.
        scores_a: (runs, n) or (n,).
        scores_b: likewise.
        groups: (n,) patients; None takes samples as independent.

    Raises:
        InputError: unequal lengths, one class, values that are not finite.
    """
    placements = []
    positive = np.zeros(0, dtype=bool)
    for scores in (scores_a, scores_b):
        rows = []
        for row in np.atleast_2d(np.asarray(scores)):
            positive, vector = check_binary(targets, row)
            rows.append(_placements(positive, vector))
        placements.append(np.mean(rows, axis=0))
    a, b = (values[positive].mean() for values in placements)
    centred = placements[0] - placements[1]
    centred[positive] -= centred[positive].mean()
    centred[~positive] -= centred[~positive].mean()
    clusters = np.arange(positive.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    num_clusters = int(clusters.max()) + 1
    sums, holds = [], []
    for chosen in (positive, ~positive):
        sums.append(np.bincount(clusters[chosen], centred[chosen], num_clusters) / chosen.sum())
        holds.append(int((np.bincount(clusters[chosen], minlength=num_clusters) > 0).sum()))
    # One cluster with a class gives no estimate of that class's share of the variance.
    parts = [
        count / (count - 1) * (values**2).sum() if count > 1 else math.nan for values, count in zip(sums, holds, strict=True)
    ]
    covariance = 2 * num_clusters / (num_clusters - 1) * (sums[0] * sums[1]).sum() if num_clusters > 1 else math.nan
    variance = max(0.0, sum(parts) + covariance) if math.isfinite(sum(parts) + covariance) else math.nan
    error = math.sqrt(variance)
    difference = float(a - b)
    if error > 1e-15:
        z = difference / error
        return DeLong(float(a), float(b), error, z, float(2 * stats.norm.sf(abs(z))))
    same = abs(difference) < 1e-15
    return DeLong(float(a), float(b), error, 0.0 if same else math.nan, 1.0 if same else math.nan)


def _placements(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) share of the other class that a sample is rightly ranked against; ties count half."""
    ranks = stats.rankdata(scores)
    placements = np.empty(scores.size)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    placements[positive] = (ranks[positive] - stats.rankdata(scores[positive])) / num_negative
    placements[~positive] = 1 - (ranks[~positive] - stats.rankdata(scores[~positive])) / num_positive
    return placements


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _exchanged_precision(ranks_a, ranks_b, positive, exchange, cell):  # type: ignore[no-untyped-def]
    """Mean AUPRC of a minus that of b, after a's and b's ranks (runs, n) were exchanged where `exchange` of the cell is 1."""
    num_runs, n = ranks_a.shape
    difference = 0.0
    true = np.zeros((2, 2 * n), np.int32)
    false = np.zeros((2, 2 * n), np.int32)
    for run in range(num_runs):
        true[:] = 0
        false[:] = 0
        for i in range(n):
            swap = exchange[cell[i]]
            if positive[i]:
                true[swap, ranks_a[run, i]] += 1
                true[1 - swap, ranks_b[run, i]] += 1
            else:
                false[swap, ranks_a[run, i]] += 1
                false[1 - swap, ranks_b[run, i]] += 1
        for side in range(2):
            seen_true = 0
            seen_false = 0
            area = 0.0
            for rank in range(2 * n):
                gained = true[side, rank]
                seen_true += gained
                seen_false += false[side, rank]
                if gained:
                    area += seen_true / (seen_true + seen_false) * gained
            difference += (area if side == 0 else -area) / seen_true
    return difference / num_runs


def permutation_test(
    targets: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    num_permutations: int = 1000,
    seed: int = 0,
    name: str = "",
    num_workers: int | None = None,
) -> float:
    """p-value of equal AUPRC when the two models' scores of a case may be exchanged, two-sided, (+1) / (P + 1).

    Scores are ranked within each run first, since models may score on different scales. Unequal numbers of runs are paired by
    repeating each model's runs, which leaves its mean as it is.

    Args:
        targets: (n,) 0 or 1.
        scores_a: (runs, n) or (n,).
        scores_b: likewise.
        groups: (n,) patients, whose samples are exchanged together; None exchanges sample by sample.
        num_permutations: P.
        seed: of the exchanges.
        name: of the task, part of the stream's key.
        num_workers: threads; the number does not depend on it.

    Raises:
        InputError: unequal lengths, one class, values that are not finite.
    """
    sides = []
    positive = np.zeros(0, dtype=bool)
    for scores in (scores_a, scores_b):
        rows = []
        for row in np.atleast_2d(np.asarray(scores)):
            positive, vector = check_binary(targets, row)
            # Twice the mean rank, from 0 for the highest score: equal scores share a place.
            rows.append((2 * stats.rankdata(-vector)).astype(np.int32) - 2)
        sides.append(np.stack(rows))
    num_pairs = math.lcm(*(len(side) for side in sides))
    a, b = (np.tile(side, (num_pairs // len(side), 1)) for side in sides)
    cell = np.arange(positive.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    num_cells = int(cell.max()) + 1
    observed = _exchanged_precision(a, b, positive, np.zeros(num_cells, np.uint8), cell)

    def extreme(index: int) -> bool:
        rng = np.random.default_rng([int(stream_key("exchange", seed, name)), index])
        coins = rng.integers(0, 2, num_cells, dtype=np.uint8)
        # Equal in exact arithmetic may differ by rounding.
        return bool(abs(_exchanged_precision(a, b, positive, coins, cell)) >= abs(observed) - 1e-12)

    with ThreadPoolExecutor(num_workers or cpu_count() or 1) as pool:
        count = sum(pool.map(extreme, range(num_permutations)))
    return (count + 1) / (num_permutations + 1)


def wilcoxon_over_tasks(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed ranks: is the difference centred on zero over tasks? Takes tasks as independent.

    NaN with fewer than two tasks; 1 if all differences are zero.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2:
        return math.nan
    if not values.any():
        return 1.0
    return float(stats.wilcoxon(values).pvalue)
