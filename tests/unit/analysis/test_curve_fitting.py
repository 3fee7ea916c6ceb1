"""Least squares against scipy, t limits against the textbook, profiles against constrained minimisation."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq, least_squares

from radscale.analysis import fit_scaling_law
from radscale.analysis.curve_fitting import FormFit, profile

pytestmark = pytest.mark.filterwarnings("error")

PAPER = np.repeat([30_000.0, 50_000.0, 100_000.0, 1e6, 3.5e6], [3, 3, 3, 1, 1])
"""The paper's design: three encoders at the small sizes, one at the large ones."""
AT = np.array([30_000.0, 300_000.0, 3.5e6, 35e6])
LONG = np.geomspace(300, 3e6, 14)


def _noisy(curve: np.ndarray, share: float, seed: int) -> np.ndarray:
    return curve * (1 + share * np.random.default_rng(seed).normal(size=len(curve)))


CURVES = {
    "loss that levels off twice": (LONG, _noisy(1.3 + 0.6 / (1 + (LONG / 2e4) ** 0.5), 0.004, 0)),
    "loss": (LONG, _noisy(0.2 + 8 * LONG**-0.4, 0.02, 1)),
    "score": (LONG, _noisy(0.75 - 0.35 / (1 + (LONG / 2e4) ** 0.5), 0.004, 2)),
    "broken loss": (LONG, _noisy(0.1 + 3 * LONG**-0.1 * (1 + (LONG / 3e4) ** 2) ** -0.2, 0.003, 3)),
    "paper": (PAPER, _noisy(0.447 * PAPER**0.012, 0.004, 4)),
    "paper, saturating": (PAPER, _noisy(0.54 - 0.4 * PAPER**-0.2, 0.002, 5)),
}
# The valleys of forms of four parameters and more are long and flat: along them the sum of squares changes by per mille. A
# sharp break of BNSL between any two points is a minimum of its own; such minima lie close together and describe the noise.
EXCESS = {"saturating": 1e-3, "power_offset": 1e-3, "logistic": 1e-3, "m3": 0.01, "m4": 0.02, "bnsl": 0.15}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("form", EXCESS)
def test_sum_of_squares_is_as_low_as_scipys_from_many_random_starts(form: str, curve: str) -> None:
    sizes, scores = CURVES[curve]
    if form in ("m4", "bnsl") and len(np.unique(sizes)) == 5:
        pytest.skip("as many parameters as sizes")
    fit = fit_scaling_law(sizes, scores, form=form).members[0][0]
    root = np.sqrt(fit.weights)
    rng = np.random.default_rng(6)
    low, high = fit.bounds
    inside = np.where(np.isfinite(low), low, fit.theta - 3), np.where(np.isfinite(high), high, fit.theta + 3)
    starts = [fit.theta + scale * rng.normal(size=len(low)) for scale in (0.1, 0.3, 1, 1, 3, 3)]
    starts += [rng.uniform(*inside) for _ in range(6)]
    found = [
        2
        * least_squares(
            lambda theta: root * (fit.form.curve(theta[None], fit.u)[0][0] - fit.z),
            np.clip(start, low + 1e-9, high - 1e-9),
            jac=lambda theta: root[:, None] * fit.form.curve(theta[None], fit.u)[1][0],
            bounds=(low, high),
            x_scale="jac",
            max_nfev=150,
        ).cost
        for start in starts
    ]
    ours = float((root * (fit.form.curve(fit.theta[None], fit.u)[0][0] - fit.z) ** 2 * root).sum())
    assert ours <= min(found) * (1 + EXCESS[form]) + 1e-15


EXACT: dict[str, tuple[Callable[[np.ndarray], np.ndarray], dict[str, float]]] = {
    "constant": (lambda x: 0.5 + 0 * x, {"level": 0.5}),
    "power": (lambda x: 0.447 * x**0.012, {"alpha": 0.447, "k": 0.012}),
    "log_linear": (lambda x: 0.3 + 0.02 * np.log(x), {"intercept": 0.3, "slope": 0.02}),
    "logit_linear": (lambda x: 1 / (1 + np.exp(2 - 0.2 * np.log(x))), {"intercept": -2, "slope": 0.2}),
    "saturating": (lambda x: 0.7 - 0.9 * x**-0.2, {"limit": 0.7, "amplitude": 0.9, "k": 0.2}),
    "power_offset": (lambda x: 3 * x**-0.3 + 0.4, {"beta": 3, "c": -0.3, "epsilon": 0.4}),
    "m3": (lambda x: 3 * (1 / x + 1e-5) ** 0.3 + 0.1, {"beta": 3, "c": 0.3, "epsilon": 0.1, "gamma": 1e-5}),
    "logistic": (
        lambda x: 0.4 + 1.6 * 0.02 * x**-0.5 / (1e-4 + 0.02 * x**-0.5),
        {"beta": 200, "c": -0.5, "epsilon_inf": 0.4, "epsilon_0": 2.0},
    ),
}


@pytest.mark.parametrize("form", EXACT)
def test_curve_without_noise_is_recovered(form: str) -> None:
    curve, parameters = EXACT[form]
    fit = fit_scaling_law(LONG, curve(LONG), form=form)
    assert fit.parameters == pytest.approx(parameters, rel=1e-3)
    np.testing.assert_allclose(fit.predict([1e7, 1e8]), curve(np.array([1e7, 1e8])), rtol=1e-4)


def test_curves_of_five_and_six_parameters_are_recovered_as_curves() -> None:
    """Their parameters can be traded for one another; the curve cannot."""
    broken = 0.1 + 3 * LONG**-0.1 * (1 + (LONG / 3e4) ** 2) ** -0.2
    np.testing.assert_allclose(fit_scaling_law(LONG, broken, form="bnsl").predict(LONG), broken, rtol=1e-3)
    error = np.geomspace(0.41, 1.9, 30)
    size = (200 ** (-1 / -0.5)) * ((error - 0.4) / (2.0 - error) ** 0.7) ** (1 / -0.5)
    np.testing.assert_allclose(fit_scaling_law(size, error, form="m4").predict(size), error, rtol=1e-3)


def _design(form: str, sizes: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(sizes)] + [np.log(sizes)] * (form != "constant"), axis=1)


SPACES: dict[str, tuple[Callable, Callable]] = {
    "constant": (lambda y: y, lambda z: z),
    "power": (np.log, np.exp),
    "log_linear": (lambda y: y, lambda z: z),
    "logit_linear": (lambda y: np.log(y / (1 - y)), lambda z: 1 / (1 + np.exp(-z))),
}


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("form", SPACES)
def test_limits_of_linear_forms_are_the_textbooks(form: str, level: float) -> None:
    scores = 0.447 * PAPER**0.012 + 0.003 * np.random.default_rng(7).normal(size=11)
    to_space, back = SPACES[form]
    design, new = _design(form, PAPER), _design(form, AT)
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ to_space(scores)
    freedom = 11 - design.shape[1]
    variance = np.sum((to_space(scores) - design @ coefficients) ** 2) / freedom
    t = stats.t.ppf(0.5 + level / 2, freedom)
    fit = fit_scaling_law(PAPER, scores, form=form)
    for new_encoder in (False, True):
        half = t * np.sqrt(variance * (np.einsum("ki,ij,kj->k", new, inverse, new) + new_encoder))
        low, high = fit.interval(AT, level, new_encoder=new_encoder)
        np.testing.assert_allclose(low, back(new @ coefficients - half), rtol=1e-8)
        np.testing.assert_allclose(high, back(new @ coefficients + half), rtol=1e-8)
    for index, name in enumerate(fit.parameters):
        half = t * np.sqrt(variance * inverse[index, index])
        expected = np.array([coefficients[index] - half, coefficients[index] + half])
        expected = np.exp(expected) if name == "alpha" else expected
        assert fit.parameter_interval(name, level) == pytest.approx(tuple(expected), rel=1e-7)
    assert fit.residual_std == pytest.approx(np.sqrt(variance))


def test_gain_of_the_log_linear_form_is_its_slope() -> None:
    scores = 0.3 + 0.02 * np.log(PAPER) + 0.003 * np.random.default_rng(8).normal(size=11)
    fit = fit_scaling_law(PAPER, scores, form="log_linear")
    low, high = fit.parameter_interval("slope")
    expected = np.log(10) * np.array([fit.parameters["slope"], low, high])
    assert fit.gain(1e6, 1e7) == pytest.approx(tuple(expected), rel=1e-3)


@pytest.mark.parametrize("form", SPACES)
def test_profile_of_a_linear_form_is_exact_t(form: str) -> None:
    scores = 0.447 * PAPER**0.012 + 0.003 * np.random.default_rng(9).normal(size=11)
    fit = fit_scaling_law(PAPER, scores, form=form).members[0][0]
    exact, profiled = fit.confidence_at(AT), profile(fit, fit.score_at(AT))
    for level in (0.5, 0.8, 0.95, 0.99):
        width = np.subtract(*exact.limits(level)[::-1])
        for ours, expected in zip(profiled.limits(level), exact.limits(level), strict=True):
            np.testing.assert_array_less(np.abs(ours - expected) / width, 1e-3)


def _least_squares_given_value(value: float, size: float, scores: np.ndarray, k: np.ndarray) -> float:
    """Least sum of squares of limit - amplitude x^-k (limit at most 1) with the given value at `size`, over a grid of k."""
    there = (size / 3e5) ** -k[:, None]
    column = there - (PAPER / 3e5) ** -k[:, None]
    amplitude = column @ (scores - value) / (column**2).sum(axis=1)
    amplitude = np.minimum(amplitude, (1 - value) / there[:, 0])
    return float(((scores - value - amplitude[:, None] * column) ** 2).sum(axis=1).min())


@pytest.mark.parametrize("truth", [(0.54, 0.4, 0.2), (0.54, 20.0, 0.6)])
def test_profile_limits_are_those_of_constrained_minimisation(truth: tuple[float, float, float]) -> None:
    limit, amplitude, exponent = truth
    scores = limit - amplitude * PAPER**-exponent + 0.001 * np.random.default_rng(10).normal(size=11)
    law = fit_scaling_law(PAPER, scores, form="saturating")
    fit = law.members[0][0]
    k = np.geomspace(1e-3, 5, 3000)
    allowed = fit.sum_of_squares * (1 + stats.t.ppf(0.975, 8) ** 2 / 8)
    low, high = law.interval(AT)
    for size, ours_low, ours_high, centre in zip(AT, low, high, law.predict(AT), strict=True):

        def excess(value: float, size: float = size) -> float:
            return _least_squares_given_value(value, size, scores, k) - allowed

        width = ours_high - ours_low
        naive_low = brentq(excess, centre - 2 * width, centre, xtol=1e-9)
        naive_high = brentq(excess, centre, centre + 2 * width, xtol=1e-9)
        assert ours_low == pytest.approx(naive_low, abs=0.01 * (naive_high - naive_low))
        assert ours_high == pytest.approx(naive_high, abs=0.01 * (naive_high - naive_low))


@pytest.mark.parametrize("form", ["saturating", "power_offset", "logistic"])
def test_gradients_of_functionals_are_central_differences(form: str) -> None:
    fit: FormFit = fit_scaling_law(LONG, CURVES["score"][1], form=form).members[0][0]
    functionals = [fit.score_at(AT), *(fit.parameter(index) for index in range(fit.form.num_parameters))]
    for functional in functionals:
        gradient = functional(fit.theta[None], None)[1][0]
        for index in range(len(fit.theta)):
            step = np.zeros_like(fit.theta)
            step[index] = 1e-5
            up, down = (functional((fit.theta + s * step)[None], None)[0][0] for s in (1, -1))
            np.testing.assert_allclose(gradient[:, index], (up - down) / 2e-5, rtol=1e-4, atol=1e-6)


def test_prediction_of_a_new_encoder_is_wider_by_its_spread() -> None:
    scores = 0.54 - 0.4 * PAPER**-0.2 + 0.002 * np.random.default_rng(11).normal(size=11)
    fit = fit_scaling_law(PAPER, scores, form="saturating")
    t = stats.t.ppf(0.975, 8)
    for side in (0, 1):
        curve = np.abs(fit.interval(AT)[side] - fit.predict(AT))
        encoder = np.abs(fit.interval(AT, new_encoder=True)[side] - fit.predict(AT))
        np.testing.assert_allclose(encoder, np.hypot(curve, t * fit.residual_std), rtol=0.02)


def test_aicc_is_that_of_the_normal_likelihood_of_the_scores() -> None:
    scores = CURVES["paper"][1]
    for form, (to_space, _) in SPACES.items():
        design = _design(form, PAPER)
        z = to_space(scores)
        residual = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
        sd = np.sqrt(np.mean(residual**2))
        slope = {"power": 1 / scores, "logit_linear": 1 / (scores * (1 - scores))}.get(form, np.ones(11))
        log_likelihood = np.sum(stats.norm.logpdf(residual, scale=sd) + np.log(slope))
        count = design.shape[1] + 1
        expected = -2 * log_likelihood + 2 * count + 2 * count * (count + 1) / (11 - count - 1)
        # The criterion leaves out the constant of the normal density, which is the same for every form.
        assert fit_scaling_law(PAPER, scores, form=form).aicc + 11 * (1 + np.log(2 * np.pi)) == pytest.approx(expected)


def test_interval_does_not_pass_the_bound_of_the_limit() -> None:
    """A rising score in [0, 1] saturates at 1 at most; the profile ends there and is not continued."""
    fit = fit_scaling_law(PAPER, np.minimum(1.0, 0.9 + 0.02 * np.arange(11)), form="saturating")
    assert (fit.interval(AT)[1][2:] <= 1 + 1e-6).all()
