"""Designs within a budget: the variance is that of least squares, and the choice is near the best of all."""

import itertools
import math

import numpy as np
import pytest

from radscale.analysis.budgeted_design import MAX_REPLICATES, prediction_variance, propose_design
from radscale.errors import InputError

SIZES = [100, 300, 1000, 3000, 10_000]


def test_the_variance_is_that_of_simulated_fits() -> None:
    rng = np.random.default_rng(0)
    design = {100: 3, 300: 2, 1000: 1, 3000: 1}
    x = np.log([size for size, count in design.items() for _ in range(count)])
    predictions = [np.polyval(np.polyfit(x, 1 + 0.2 * x + rng.normal(size=len(x)), 1), math.log(1e5)) for _ in range(4000)]
    assert np.var(predictions) == pytest.approx(prediction_variance(design, 1e5), rel=0.07)


@pytest.mark.parametrize("budget", [5_000, 15_000, 30_000])
def test_nearly_the_best_of_all_designs(budget: float) -> None:
    """Every design of four or five neighbouring sizes, counted out; runs cost their images."""
    best = math.inf
    for sizes in (SIZES[:4], SIZES[1:], SIZES):
        for counts in itertools.product(range(1, MAX_REPLICATES + 1), repeat=len(sizes)):
            design = dict(zip(sizes, counts, strict=True))
            if sum(size * count for size, count in design.items()) <= budget:
                best = min(best, prediction_variance(design, 1e5))
    found = propose_design(SIZES, lambda size: size, budget, 1e5)
    assert found.cost == sum(size * count for size, count in found.replicates.items()) <= budget
    assert found.prediction_sd**2 == pytest.approx(prediction_variance(found.replicates, 1e5))
    assert found.prediction_sd**2 <= 1.1 * best


def test_more_money_never_predicts_worse() -> None:
    spreads = [propose_design(SIZES, lambda size: size, budget, 1e5).prediction_sd for budget in (4400, 8000, 16_000, 40_000)]
    assert spreads == sorted(spreads, reverse=True)


def test_equal_compute_for_all_sizes_goes_to_the_ends() -> None:
    found = propose_design(SIZES, dict.fromkeys(SIZES, 1.0), 15, 1e6).replicates
    assert found[10_000] == MAX_REPLICATES
    assert found[1000] == 1


def test_too_little_of_anything_is_said() -> None:
    with pytest.raises(InputError, match=r"a budget of 1,000 is too small: 4 sizes with one encoder each need at least 4,400;"):
        propose_design(SIZES, lambda size: size, 1000, 1e5)
    with pytest.raises(InputError, match="3 candidate sizes"):
        propose_design(SIZES[:3], lambda size: size, 1e9, 1e5)
