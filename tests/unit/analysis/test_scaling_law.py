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
        ([100, 200, 300], [1, math.inf, math.nan], "power", r"row 1 \(2 such rows\)"),
        ([100, math.nan, 300], [1, 2, 3], "auto", "row 1"),
        ([100, 100], [1, 2], "auto", "at least two sizes"),
        ([100, 200], [1, 2], "auto", "at least 3"),
        ([100, 200], [1, 2], "saturating", "3 parameters of 'saturating'; at least 3 sizes"),
        ([100, 200, 300], [0.1, 0.2, 0.3], "saturating", "at least 4 are needed"),
        ([100, 200, 300], [0.1, 0.2, 1.5], "logit_linear", "score 1.5"),
        ([100, 200, 300, 400], [3, 2, 1, 0], "auto", "score 0: .*log_linear"),
        ([], [], "power", "one length"),
    ],
)
def test_bad_input(sizes: list[float], scores: list[float], form: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_scaling_law(sizes, scores, form=form)


PAPER = np.repeat([30_000.0, 50_000.0, 100_000.0, 1e6, 3.5e6], [3, 3, 3, 1, 1])
"""The paper's design: three encoders at the small sizes, one at the large ones."""
FAR = np.array([30_000.0, 300_000.0, 3.5e6, 35e6])
NOISE = np.random.default_rng(10).normal(size=11)
TRUTHS = {"power": lambda x: 0.447 * x**0.012, "saturating": lambda x: 0.54 - 0.4 * x**-0.2}


def _coverage(truth: str, form: str, noise: float, num_sets: int) -> np.ndarray:
    """Shares of sets whose interval at FAR, and whose samples needed to reach the truth at 1e7, hold the truth: (5,)."""
    rng, inside = np.random.default_rng(11), np.zeros(5)
    expected, target = TRUTHS[truth](FAR), float(TRUTHS[truth](1e7))
    for _ in range(num_sets):
        fit = fit_scaling_law(PAPER, TRUTHS[truth](PAPER) + noise * rng.normal(size=11), form=form)
        low, high = fit.interval(FAR)
        inside[:4] += (low <= expected) & (expected <= high)
        estimate, fewest, most = fit.samples_needed(target)
        assert fewest <= estimate <= most
        inside[4] += fewest <= 1e7 <= most
    return inside / num_sets


def _assert_within_92_to_98(shares: np.ndarray, num_sets: int) -> None:
    """Three standard errors of a share are granted on either side."""
    assert (shares >= 0.92 - 3 * math.sqrt(0.92 * 0.08 / num_sets)).all(), shares
    assert (shares <= 0.98 + 3 * math.sqrt(0.98 * 0.02 / num_sets)).all(), shares


@pytest.mark.parametrize("noise", [0.001, 0.002, 0.006])
def test_power_law_covers_in_the_papers_design(noise: float) -> None:
    _assert_within_92_to_98(_coverage("power", "power", noise, 400), 400)


def test_saturating_form_covers_in_the_papers_design() -> None:
    _assert_within_92_to_98(_coverage("saturating", "saturating", 0.002, 40), 40)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.001, 0.002, 0.006])
@pytest.mark.parametrize(("truth", "form"), [("saturating", "saturating"), ("power", "auto"), ("saturating", "auto")])
def test_intervals_cover_in_the_papers_design(truth: str, form: str, noise: float) -> None:
    _assert_within_92_to_98(_coverage(truth, form, noise, 300), 300)


def test_seeds_at_the_large_sizes_are_one_encoder_in_the_papers_design() -> None:
    rng, inside = np.random.default_rng(12), np.zeros(4)
    encoders = [*range(9), 9, 9, 9, 10, 10, 10]
    sizes = PAPER[encoders]
    for _ in range(400):
        scores = (TRUTHS["power"](PAPER) + 0.002 * rng.normal(size=11))[encoders] + 0.0002 * rng.normal(size=15)
        fit = fit_scaling_law(sizes, scores, groups=encoders)
        low, high = fit.interval(FAR)
        inside += (low <= TRUTHS["power"](FAR)) & (TRUTHS["power"](FAR) <= high)
    assert fit.num_encoders == 11
    _assert_within_92_to_98(inside / 400, 400)


@pytest.mark.parametrize("form", ["power", "saturating", "auto"])
def test_order_of_rows_does_not_matter_to_the_last_digit(form: str) -> None:
    scores, groups = TRUTHS["saturating"](PAPER) + 0.002 * NOISE, np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    order = np.random.default_rng(13).permutation(11)
    one = fit_scaling_law(PAPER, scores, form=form, groups=list(groups))
    other = fit_scaling_law(PAPER[order], scores[order], form=form, groups=list(groups[order]))
    assert one.parameters == other.parameters
    np.testing.assert_array_equal(one.predict(FAR), other.predict(FAR))
    np.testing.assert_array_equal(one.interval(FAR), other.interval(FAR))


@pytest.mark.parametrize("form", ["power", "saturating", "auto"])
def test_unit_of_the_sizes_does_not_matter(form: str) -> None:
    scores = TRUTHS["saturating"](PAPER) + 0.002 * NOISE
    images, thousands = fit_scaling_law(PAPER, scores, form=form), fit_scaling_law(PAPER / 1000, scores, form=form)
    np.testing.assert_allclose(images.predict(FAR), thousands.predict(FAR / 1000), rtol=1e-6)
    np.testing.assert_allclose(images.interval(FAR), thousands.interval(FAR / 1000), rtol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["constant", "power", "log_linear", "saturating", "power_offset", "logistic", "auto"])
@pytest.mark.parametrize(
    ("sizes", "scores"),
    [
        pytest.param(PAPER, TRUTHS["power"](PAPER) + 0.002 * NOISE, id="paper"),
        pytest.param(PAPER, 100 * TRUTHS["power"](PAPER) + 0.2 * NOISE, id="percent"),
        pytest.param(PAPER, 5 * PAPER**-0.2 * (1 + 0.01 * NOISE), id="loss"),
        pytest.param(PAPER, np.round(TRUTHS["power"](PAPER), 2), id="ties"),
        pytest.param(PAPER, np.full(11, 0.5), id="all equal"),
        pytest.param(PAPER, np.full(11, 1.0), id="all one"),
        pytest.param(PAPER, TRUTHS["power"](PAPER) + 1e-12 * NOISE, id="noise of rounding"),
        pytest.param(np.geomspace(1, 1e12, 11), 0.9 - 0.8 * np.geomspace(1, 1e12, 11) ** -0.1 + 0.002 * NOISE, id="12 decades"),
    ],
)
def test_odd_data_give_finite_curves_without_warnings(sizes: np.ndarray, scores: np.ndarray, form: str) -> None:
    fit = fit_scaling_law(sizes, scores, form=form)
    at = np.array([sizes[0], sizes[-1], 10 * sizes[-1]])
    predicted, (low, high) = fit.predict(at), fit.interval(at)
    assert np.isfinite(predicted).all()
    tolerance = 1e-6 * np.abs(predicted)
    assert (low <= predicted + tolerance).all()
    assert (predicted <= high + tolerance).all()
    change, least, most = fit.gain(sizes[-1], 10 * sizes[-1])
    assert least - 1e-6 * abs(scores[0]) <= change <= most + 1e-6 * abs(scores[0])
    assert fit.explain()


@pytest.mark.parametrize("form", ["saturating", "auto"])
def test_target_beyond_the_limit_is_never_reached(form: str) -> None:
    fit = fit_scaling_law(PAPER, TRUTHS["saturating"](PAPER) + 1e-5 * NOISE, form=form)
    assert fit.samples_needed(0.7) == (math.inf, math.inf, math.inf)
    loss = fit_scaling_law(PAPER, 1 + 30 * PAPER**-0.4 + 1e-5 * NOISE, form=form)
    assert not loss.larger_is_better
    assert loss.samples_needed(0.5) == (math.inf, math.inf, math.inf)


def test_two_sizes_carry_a_line_but_no_more() -> None:
    fit = fit_scaling_law([100, 100, 1000, 1000], [0.50, 0.51, 0.60, 0.61], form="auto")
    assert fit.main_form == "power"
    assert "AICc alone" in fit.explain()
