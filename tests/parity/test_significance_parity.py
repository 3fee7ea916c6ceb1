"""DeLong and the exchange test against naive rewrites of their definitions, SciPy and scikit-learn."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from radscale.analysis.significance import delong, permutation_test, wilcoxon_over_tasks


def example(n: int = 60, runs: int = 1, decimals: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (np.arange(n) % 3 == 0).astype(int)
    shared = rng.normal(size=n)
    a, b = (np.round(shared + rng.normal(size=(runs, n)) + skill * targets, decimals) for skill in (1.5, 0.5))
    return targets, a, b


def naive_delong(targets: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference and standard error from all pairs of a positive with a negative, as in the paper of 1988."""
    v10, v01, areas = [], [], []
    for runs in (a, b):
        pairs = np.mean(
            [
                [[1.0 if x > y else 0.5 if x == y else 0.0 for y in row[targets == 0]] for x in row[targets == 1]]
                for row in runs
            ],
            axis=0,
        )
        v10.append(pairs.mean(axis=1))
        v01.append(pairs.mean(axis=0))
        areas.append(pairs.mean())
    covariance = np.cov(v10) / (targets == 1).sum() + np.cov(v01) / (targets == 0).sum()
    contrast = np.array([1, -1])
    return areas[0] - areas[1], float(np.sqrt(contrast @ covariance @ contrast))


@pytest.mark.parametrize(("runs", "decimals"), [(1, 8), (1, 0), (3, 1)])
def test_delong_is_the_sum_over_all_pairs(runs: int, decimals: int) -> None:
    targets, a, b = example(runs=runs, decimals=decimals)
    found = delong(targets, a, b)
    difference, error = naive_delong(targets, a, b)
    assert found.auroc_a == pytest.approx(np.mean([roc_auc_score(targets, row) for row in a]), abs=1e-12)
    assert found.auroc_a - found.auroc_b == pytest.approx(difference, abs=1e-12)
    assert found.standard_error == pytest.approx(error, abs=1e-12)
    assert found.p_value == pytest.approx(2 * stats.norm.cdf(-abs(difference / error)), abs=1e-12)


def naive_obuchowski(targets: np.ndarray, a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> float:
    """Standard error with clusters, written out as in Obuchowski (1997), equations 4 to 7."""
    m, n = int(targets.sum()), int((1 - targets).sum())
    theta, x, y = [], [], []
    for row in (a, b):
        pairs = np.array([[1.0 if p > q else 0.5 if p == q else 0.0 for q in row[targets == 0]] for p in row[targets == 1]])
        theta.append(pairs.mean())
        x.append(pairs.mean(axis=1))
        y.append(pairs.mean(axis=0))
    clusters = sorted(set(groups.tolist()))
    positive_of = [groups[targets == 1] == c for c in clusters]
    negative_of = [groups[targets == 0] == c for c in clusters]
    i10, i01, i = sum(p.any() for p in positive_of), sum(q.any() for q in negative_of), len(clusters)

    def covariance(r: int, s: int) -> float:
        s10 = sum((x[r][p].sum() - p.sum() * theta[r]) * (x[s][p].sum() - p.sum() * theta[s]) for p in positive_of)
        s01 = sum((y[r][q].sum() - q.sum() * theta[r]) * (y[s][q].sum() - q.sum() * theta[s]) for q in negative_of)
        s11 = sum(
            (x[r][p].sum() - p.sum() * theta[r]) * (y[s][q].sum() - q.sum() * theta[s])
            for p, q in zip(positive_of, negative_of, strict=True)
        )
        s11_swapped = sum(
            (x[s][p].sum() - p.sum() * theta[s]) * (y[r][q].sum() - q.sum() * theta[r])
            for p, q in zip(positive_of, negative_of, strict=True)
        )
        part10 = i10 / ((i10 - 1) * m) * s10 / m
        part01 = i01 / ((i01 - 1) * n) * s01 / n
        return part10 + part01 + i / (i - 1) * (s11 + s11_swapped) / (m * n)

    return float(np.sqrt(covariance(0, 0) + covariance(1, 1) - 2 * covariance(0, 1)))


def test_clustered_delong_is_obuchowskis() -> None:
    targets, a, b = example(n=48)
    groups = np.arange(48) // 4
    assert delong(targets, a, b, groups).standard_error == pytest.approx(
        naive_obuchowski(targets, a[0], b[0], groups), abs=1e-12
    )
    alone = delong(targets, a, b, np.arange(48))
    # With one sample per cluster the covariance term is zero, so this is DeLong's own.
    assert alone.standard_error == pytest.approx(delong(targets, a, b).standard_error, abs=1e-12)


def test_delong_of_equal_scores_is_no_difference() -> None:
    targets, a, _ = example()
    assert delong(targets, a, a).p_value == 1.0
    assert np.isnan(delong(targets, targets, np.zeros(60)).p_value)


def test_exchange_test_counts_all_exchanges() -> None:
    """Few cases: every exchange is enumerated with scikit-learn, and the drawn p-value must agree within its error."""
    targets, a, b = example(n=9, runs=2, decimals=0, seed=4)
    ranks = [np.array([stats.rankdata(row) for row in side]) for side in (a, b)]

    def difference(coins: np.ndarray) -> float:
        sides = [np.where(coins, ranks[1], ranks[0]), np.where(coins, ranks[0], ranks[1])]
        means = [np.mean([average_precision_score(targets, row) for row in side]) for side in sides]
        return float(means[0] - means[1])

    observed = abs(difference(np.zeros(9, bool)))
    exact = np.mean([abs(difference(np.array(coins, bool))) >= observed - 1e-12 for coins in product((0, 1), repeat=9)])
    found = permutation_test(targets, a, b, num_permutations=4000)
    assert abs(found - exact) < 5 * np.sqrt(exact * (1 - exact) / 4000) + 1 / 4000
    assert found == permutation_test(targets, a, b, num_permutations=4000, num_workers=1)
    assert permutation_test(targets, a, a, num_permutations=20) == 1.0


def test_whole_patients_are_exchanged() -> None:
    targets, a, b = example(n=12)
    one_patient = permutation_test(targets, a, b, np.zeros(12), num_permutations=50)
    assert one_patient == 1.0  # both exchanges are as extreme as what was observed


def test_wilcoxon_is_scipys_and_bears_degenerate_input() -> None:
    differences = [0.1, 0.3, -0.05, 0.2, 0.4]
    assert wilcoxon_over_tasks(differences) == stats.wilcoxon(differences).pvalue
    assert wilcoxon_over_tasks([0.0, 0.0]) == 1.0
    assert np.isnan(wilcoxon_over_tasks([0.1]))
