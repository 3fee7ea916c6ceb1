"""Metrics against scikit-learn and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from radscale.metrics import average_precision, dice_score, hausdorff_distance, roc_auc


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Targets with both classes and scores with many ties."""
    n = draw(st.integers(2, 60))
    targets = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    targets[:2] = [0, 1]
    levels = draw(st.integers(1, 12))
    scores = np.array(draw(st.lists(st.integers(0, levels), min_size=n, max_size=n))) / levels
    return targets, scores


@given(samples())
@settings(max_examples=300, deadline=None)
def test_ranking_metrics_are_scikit_learns(data: tuple[np.ndarray, np.ndarray]) -> None:
    targets, scores = data
    assert average_precision(targets, scores) == pytest.approx(average_precision_score(targets, scores), abs=1e-12)
    assert roc_auc(targets, scores) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


@given(samples(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_weights_are_scikit_learns(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    targets, scores = data
    weight = np.random.default_rng(seed).integers(0, 4, len(targets)).astype(float)
    weight[:2] = 1
    expected = average_precision_score(targets, scores, sample_weight=weight)
    assert average_precision(targets, scores, sample_weight=weight) == pytest.approx(expected, abs=1e-12)


def test_overlap_and_distance() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((40, 50)) < 0.02, rng.random((40, 50)) < 0.02
    assert dice_score(a, b) == pytest.approx(f1_score(a.ravel(), b.ravel()), abs=1e-12)
    points = np.argwhere(a), np.argwhere(b)
    expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    assert hausdorff_distance(a, b) == pytest.approx(expected, abs=1e-9)
