import math

import numpy as np
import pytest
from scipy import stats

from radscale.analysis import fit_scaling_law
from radscale.errors import InputError

SIZES = np.array([100, 100, 100, 300, 300, 300, 1000, 3000])


def test_exact_power_law_is_recovered() -> None:
    fit = fit_scaling_law(SIZES, 0.2 * SIZES**0.1)
    assert fit.parameters == pytest.approx({"alpha": 0.2, "k": 0.1})
    assert fit.predict(10_000)[0] == pytest.approx(0.2 * 10_000**0.1)
    estimate, low, high = fit.samples_needed(0.5)
    assert estimate == pytest.approx(2.5**10, rel=1e-3)
    assert low == pytest.approx(high, rel=1e-3)


def test_slope_and_interval_are_those_of_linear_regression() -> None:
    rng = np.random.default_rng(0)
    scores = 0.2 * SIZES**0.1 * np.exp(0.05 * rng.normal(size=8))
    fit = fit_scaling_law(SIZES, scores)
    expected = stats.linregress(np.log(SIZES), np.log(scores))
    half = stats.t.ppf(0.975, 6) * expected.stderr
    assert fit.parameters["k"] == pytest.approx(expected.slope)
    assert fit.parameter_interval("k") == pytest.approx((expected.slope - half, expected.slope + half))


def test_interval_covers_the_curve_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 0.2 * np.array([1000.0, 30_000.0]) ** 0.1
    inside = np.zeros(2)
    for _ in range(2000):
        low, high = fit_scaling_law(SIZES, 0.2 * SIZES**0.1 * np.exp(0.03 * rng.normal(size=8))).interval([1000, 30_000])
        inside += (low <= truth) & (truth <= high)
    np.testing.assert_allclose(inside / 2000, 0.95, atol=0.02)  # four standard errors


def test_samples_needed_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(1000):
        fit = fit_scaling_law(SIZES, 0.2 * SIZES**0.1 * np.exp(0.03 * rng.normal(size=8)))
        _, low, high = fit.samples_needed(0.2 * 2000**0.1)
        inside += low <= 2000 <= high
    assert inside / 1000 == pytest.approx(0.95, abs=0.03)


def test_a_falling_curve_reaches_nothing_above_it() -> None:
    fit = fit_scaling_law(SIZES, 0.5 * SIZES**-0.05)
    assert fit.samples_needed(0.6) == (math.inf, math.inf, math.inf)


def test_loss_is_reached_from_above() -> None:
    fit = fit_scaling_law(SIZES, 5.0 * SIZES**-0.2)
    assert fit.samples_needed(1.0, larger_is_better=False)[0] == pytest.approx(5**5, rel=1e-3)


def test_seeds_of_an_encoder_do_not_buy_certainty() -> None:
    rng = np.random.default_rng(3)
    per_encoder = 0.2 * SIZES**0.1 * np.exp(0.05 * rng.normal(size=8))
    seeds, encoders = 5, np.arange(8)
    repeated = np.repeat(per_encoder, seeds), np.repeat(SIZES, seeds), np.repeat(encoders, seeds)
    grouped = fit_scaling_law(repeated[1], repeated[0], groups=list(repeated[2]))
    alone = fit_scaling_law(SIZES, per_encoder)
    assert grouped.num_encoders == 8
    assert grouped.parameter_interval("k") == pytest.approx(alone.parameter_interval("k"))


@pytest.mark.parametrize("curve", [lambda n: 0.2 * n**0.08, lambda n: 0.1 + 0.03 * np.log(n), lambda n: 0.5 + 0 * n])
def test_auto_extrapolates_tenfold(curve) -> None:
    sizes = np.geomspace(100, 1e6, 12)
    noise = 1e-4 * np.random.default_rng(4).normal(size=12)
    fit = fit_scaling_law(sizes, curve(sizes) + noise, form="auto")
    assert fit.predict(1e7)[0] == pytest.approx(curve(1e7), abs=2e-3)


@pytest.mark.parametrize(
    ("sizes", "scores", "form", "message"),
    [
        ([100, 100, 100], [1, 2, 3], "power", "at least two sizes"),
        ([100, 200], [1, 2], "power", "at least 3"),
        ([100, 200, 0], [1, 2, 3], "power", "row 2"),
        ([100, 200, 300], [1, 2, math.nan], "power", "row 2"),
        ([100, 200, 300], [1, 2, -3], "power", "log_linear"),
        ([100, 200, 300], [1, 2, 3], "broken", "not known; allowed: constant, power"),
        ([100, 200, 300], [1, 2], "power", "one length"),
    ],
)
def test_bad_input(sizes: list[float], scores: list[float], form: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_scaling_law(sizes, scores, form=form)
