import math

import numpy as np
import pytest
from scipy import stats

from radscale.analysis import fit_scaling_law
from radscale.analysis.fit_comparison import compare_exponents, crossover, mean_over_seeds, overtaking_size, size_that_beats
from radscale.errors import InputError

SIZES = np.array([3e4] * 3 + [5e4] * 3 + [1e5] * 3 + [1e6, 3.5e6])
NOISE = 0.002


def noisy(alpha: float, k: float, rng: np.random.Generator, sd: float = NOISE) -> np.ndarray:
    return alpha * SIZES**k + sd * rng.standard_normal(len(SIZES))


def test_ratio_of_exponents_covers_three() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        a, b = fit_scaling_law(SIZES, noisy(0.42, 0.015, rng)), fit_scaling_law(SIZES, noisy(0.45, 0.005, rng))
        _, low, high = compare_exponents(a, b).ratio
        inside += low <= 3 <= high
    assert inside / 500 == pytest.approx(0.95, abs=0.04)  # four standard errors


def test_ratio_has_no_upper_limit_where_an_exponent_may_be_zero() -> None:
    rng = np.random.default_rng(1)
    a, b = fit_scaling_law(SIZES, noisy(0.4, 0.02, rng)), fit_scaling_law(SIZES, noisy(0.47, 0.0005, rng))
    ratio = compare_exponents(a, b).ratio
    assert ratio.high == math.inf
    assert ratio.low < abs(ratio.value)


def test_difference_of_exponents_is_welchs() -> None:
    rng = np.random.default_rng(2)
    a, b = fit_scaling_law(SIZES, noisy(0.4, 0.02, rng)), fit_scaling_law(SIZES[2:], noisy(0.45, 0.01, rng, 0.004)[2:])
    found = compare_exponents(a, b).difference
    assert found.value == pytest.approx(a.parameters["k"] - b.parameters["k"])
    width_a, width_b = (np.diff(fit.parameter_interval("k"))[0] for fit in (a, b))
    assert max(width_a, width_b) < found.high - found.low < width_a + width_b


def test_parallel_curves_share_an_exponent_as_often_as_they_should() -> None:
    rng = np.random.default_rng(3)
    p_values, covered = [], 0
    for _ in range(400):
        found = compare_exponents(*(fit_scaling_law(SIZES, noisy(alpha, 0.01, rng)) for alpha in (0.44, 0.42)))
        p_values.append(found.p_equal)
        covered += found.multiplier_ratio.low <= 0.44 / 0.42 <= found.multiplier_ratio.high
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.044)
    assert covered / 400 == pytest.approx(0.95, abs=0.044)


def test_f_test_of_one_exponent_is_that_of_nested_regressions() -> None:
    rng = np.random.default_rng(4)
    a, b = noisy(0.4, 0.02, rng), noisy(0.45, 0.018, rng)
    x, z = np.tile(np.log(SIZES), 2), np.log(np.concatenate([a, b]))
    first = np.repeat([1.0, 0.0], len(SIZES))
    total = []
    for columns in ([np.ones_like(x), first, x], [np.ones_like(x), first, x, first * x]):
        design = np.stack(columns, axis=1)
        total.append(np.linalg.lstsq(design, z, rcond=None)[1][0])
    from scipy import stats

    f = (total[0] - total[1]) / (total[1] / (len(z) - 4))
    found = compare_exponents(fit_scaling_law(SIZES, a), fit_scaling_law(SIZES, b))
    assert found.p_equal == pytest.approx(stats.f.sf(f, 1, len(z) - 4), rel=1e-6)


@pytest.mark.parametrize("form", ["power", "log_linear"])
def test_overtaking_size_covers_the_truth(form: str) -> None:
    rng = np.random.default_rng(5)
    # 0.40 n^0.020 passes 0.45 n^0.012 at (0.45 / 0.40)^(1 / 0.008) = 2.48 million images.
    truth = (0.45 / 0.40) ** (1 / 0.008)
    inside = 0
    for _ in range(200):
        a, b = (fit_scaling_law(SIZES, noisy(*law, rng), form) for law in ((0.40, 0.020), (0.45, 0.012)))
        _, low, high = overtaking_size(a, b)
        inside += low <= truth <= high
    assert 0.89 <= inside / 200 <= 1.0


def test_crossover_names_who_is_ahead_with_more_data() -> None:
    rng = np.random.default_rng(6)
    slow, fast = fit_scaling_law(SIZES, noisy(0.45, 0.012, rng, 1e-4)), fit_scaling_law(SIZES, noisy(0.40, 0.02, rng, 1e-4))
    found = crossover(slow, fast)
    assert found.leader == "b"
    assert found.size.value == pytest.approx((0.45 / 0.40) ** (1 / 0.008), rel=0.2)
    assert found.size.low < found.size.value < found.size.high
    losses = [fit_scaling_law(SIZES, 5 * SIZES**-k, larger_is_better=False) for k in (0.1, 0.2)]
    assert crossover(*losses).leader == "b"
    assert crossover(*losses).size.value == pytest.approx(1.0)


def test_an_uncertain_reference_widens_the_answer() -> None:
    rng = np.random.default_rng(7)
    fit = fit_scaling_law(SIZES, noisy(0.4, 0.02, rng))
    target = 0.4 * 4e5**0.02
    known = size_that_beats(fit, (target, target, target))
    assert known == pytest.approx(fit.samples_needed(target), rel=1e-3)
    unsure = size_that_beats(fit, (target, target - 0.004, target + 0.004))
    assert unsure.value == pytest.approx(known.value, rel=1e-6)
    assert unsure.low < known.low
    assert unsure.high > known.high


def test_only_power_laws_have_one_exponent() -> None:
    fits = [fit_scaling_law(SIZES, 0.4 * SIZES**0.02, form) for form in ("power", "log_linear")]
    with pytest.raises(InputError, match="log_linear"):
        compare_exponents(*fits)


def test_mean_over_seeds_is_students_interval_and_a_single_score_is_known() -> None:
    scores = [0.50, 0.52, 0.57]
    low, high = stats.ttest_1samp(scores, 0).confidence_interval(0.9)
    assert mean_over_seeds(scores, 0.9) == pytest.approx((np.mean(scores), low, high))
    assert mean_over_seeds([0.4]) == (0.4, 0.4, 0.4)
