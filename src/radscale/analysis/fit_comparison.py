"""Two scaling laws, or a law and a reference, against each other: exponents, crossover, the size that beats the open weights.

Fits of different arms are taken as independent: their encoders are different ones. A difference of two quantities then has
limits by the method of variance estimates recovery (Zou and Donner, 2008), which needs nothing but the limits of each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from radscale.analysis.scaling_law import LARGEST_SIZE, ScalingLawFit, size_that_reaches
from radscale.errors import InputError


class Estimate(NamedTuple):
    """A number with its limits; infinite where there is none."""

    value: float
    low: float
    high: float


def mean_over_seeds(scores: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean of an encoder's scores, one per probe seed, with the limits of Student's t.

    Limits of a single score are that score: nothing tells its spread, so it counts as known.

    Args:
        scores: (n,), n above 0.
        level: of the limits.
    """
    values = np.asarray(scores, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, mean, mean)
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


@dataclass(frozen=True)
class ExponentComparison:
    """Exponents of two power laws; see `compare_exponents`."""

    ratio: Estimate
    """k of a by k of b (Fieller). High is infinite where k of b may be 0; low is minus infinity where nothing is known."""
    difference: Estimate
    """k of a minus k of b (Welch)."""
    p_equal: float
    """Of the F test that both arms share one exponent: large means that parallel curves are as good an account."""
    common: Estimate
    """The exponent if they share one."""
    multiplier_ratio: Estimate
    """Score of a by score of b at every size, if they share one exponent."""


def compare_exponents(a: ScalingLawFit, b: ScalingLawFit, level: float = 0.95) -> ExponentComparison:
    """Does a scale better than b ("three times better", paper 5.1), or is it only better?

    Args:
        a: a fit of form "power".
        b: likewise.
        level: of the limits.

    Raises:
        InputError: another form: only power laws have one exponent.
    """
    for fit in (a, b):
        if fit.form != "power":
            raise InputError(f"form '{fit.form}': exponents are compared between power laws; fit both with form='power'")
    slopes, errors, freedoms = zip(*(_slope(fit) for fit in (a, b)), strict=True)
    variances = np.array(errors) ** 2
    freedom = float(variances.sum() ** 2 / max((variances**2 / freedoms).sum(), 1e-300))
    freedom = float(np.clip(freedom, min(freedoms), sum(freedoms)))
    t = float(stats.t.ppf(0.5 + level / 2, freedom))
    difference = slopes[0] - slopes[1]
    half = t * float(np.sqrt(variances.sum()))
    p_equal, common, multiplier = _parallel(a, b, level)
    return ExponentComparison(
        ratio=_fieller(slopes[0], slopes[1], variances[0], variances[1], t),
        difference=Estimate(difference, difference - half, difference + half),
        p_equal=p_equal,
        common=common,
        multiplier_ratio=multiplier,
    )


def _slope(fit: ScalingLawFit) -> tuple[float, float, int]:
    law = fit.members[0][0]
    return float(law.theta[1]), float(np.sqrt(law.covariance()[1, 1])), law.degrees_of_freedom


def _fieller(a: float, b: float, variance_a: float, variance_b: float, t: float) -> Estimate:
    """Limits of a / b: all ratios r for which a - r b is not significantly different from 0."""
    ratio = a / b if b else float("inf")
    quadratic, linear, constant = b * b - t * t * variance_b, -2 * a * b, a * a - t * t * variance_a
    discriminant = linear * linear - 4 * quadratic * constant
    if quadratic > 0:
        root = float(np.sqrt(max(discriminant, 0.0)))
        return Estimate(ratio, (-linear - root) / (2 * quadratic), (-linear + root) / (2 * quadratic))
    if constant > 0 and discriminant > 0 and ratio > 0:
        # b may be zero, a is not: ratios from a lower limit on, without end (and negative ones, should b be negative).
        root = float(np.sqrt(discriminant))
        return Estimate(ratio, (-linear - root) / (2 * quadratic), float("inf"))
    return Estimate(ratio, -float("inf"), float("inf"))


def _parallel(a: ScalingLawFit, b: ScalingLawFit, level: float) -> tuple[float, Estimate, Estimate]:
    """Analysis of covariance of log score: one exponent for both, or one each."""
    x, z, is_a = [], [], []
    for fit, flag in ((a, 1.0), (b, 0.0)):
        for size, scores in zip(fit.points.sizes, fit.points.scores, strict=True):
            x += [np.log(size)] * len(scores)
            z += np.log(scores).tolist()
            is_a += [flag] * len(scores)
    size, response, first = np.array(x), np.array(z), np.array(is_a)
    centred = size - size.mean()
    shared = np.stack([np.ones_like(first), first, centred], axis=1)
    own = np.concatenate([shared, (first * centred)[:, None]], axis=1)
    coefficients, together, covariance = _regress(shared, response)
    _, apart, _ = _regress(own, response)
    freedom = len(response) - 4
    f = (together - apart) / max(apart / freedom, 1e-300)
    t = float(stats.t.ppf(0.5 + level / 2, len(response) - 3))
    half = t * np.sqrt(np.diagonal(covariance))
    common = Estimate(*(float(coefficients[2] + s * half[2]) for s in (0, -1, 1)))
    ratio = Estimate(*(float(np.exp(coefficients[1] + s * half[1])) for s in (0, -1, 1)))
    return float(stats.f.sf(f, 1, freedom)), common, ratio


def _regress(design: np.ndarray, response: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    coefficients = np.linalg.lstsq(design, response, rcond=None)[0]
    residual = response - design @ coefficients
    total = float(residual @ residual)
    variance = total / (len(response) - design.shape[1])
    return coefficients, total, variance * np.linalg.inv(design.T @ design)


Limits = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Estimate, low and high, (k,) each, better is larger."""


def _curve(fit: ScalingLawFit, sizes: np.ndarray, level: float) -> Limits:
    low, high = fit.interval(sizes, level)
    return fit.predict(sizes), low, high


def _minus(a: Limits, b: Limits) -> Limits:
    difference = a[0] - b[0]
    return (
        difference,
        difference - np.hypot(a[0] - a[1], b[2] - b[0]),
        difference + np.hypot(a[2] - a[0], b[0] - b[1]),
    )


def _size_from_which(advantage: Callable[[np.ndarray], Limits]) -> Estimate:
    """Sizes from which on an advantage is positive for good: by its estimate, its upper and its lower limit."""
    return Estimate(
        size_that_reaches(lambda sizes: advantage(sizes)[0], 0.0, for_good=True),
        size_that_reaches(lambda sizes: advantage(sizes)[2], 0.0, for_good=False),
        size_that_reaches(lambda sizes: advantage(sizes)[1], 0.0, for_good=True),
    )


def overtaking_size(a: ScalingLawFit, b: ScalingLawFit, level: float = 0.95) -> Estimate:
    """Images from which on arm a is at least as good as arm b, for good; infinity: never (up to 1e15)."""
    sign = 1.0 if a.larger_is_better else -1.0

    def advantage(sizes: np.ndarray) -> Limits:
        return _signed(_minus(_curve(a, sizes, level), _curve(b, sizes, level)), sign)

    return _size_from_which(advantage)


@dataclass(frozen=True)
class Crossover:
    """Where two arms change places; see `crossover`."""

    leader: str
    """ "a" or "b": which is ahead beyond the crossing, by the fitted curves."""
    size: Estimate
    """From which on it is ahead; a value of 1 means everywhere."""


def crossover(a: ScalingLawFit, b: ScalingLawFit, level: float = 0.95) -> Crossover:
    """Which arm is ahead with enough data, and from which size on."""
    end = np.array([LARGEST_SIZE])
    a_leads = (a.predict(end) >= b.predict(end))[0] == a.larger_is_better
    return Crossover("a", overtaking_size(a, b, level)) if a_leads else Crossover("b", overtaking_size(b, a, level))


def size_that_beats(fit: ScalingLawFit, reference: Estimate | tuple[float, float, float], level: float = 0.95) -> Estimate:
    """Images from which on an arm is at least as good as a reference that is itself uncertain (open weights, say).

    Args:
        fit: of the arm.
        reference: score of the reference and its limits, at the same level.
        level: of the limits.
    """
    value, low, high = reference
    sign = 1.0 if fit.larger_is_better else -1.0

    def advantage(sizes: np.ndarray) -> Limits:
        fixed = tuple(np.full(len(sizes), number) for number in (value, low, high))
        return _signed(_minus(_curve(fit, sizes, level), (fixed[0], fixed[1], fixed[2])), sign)

    return _size_from_which(advantage)


def _signed(limits: Limits, sign: float) -> Limits:
    return limits if sign > 0 else (-limits[0], -limits[2], -limits[1])
