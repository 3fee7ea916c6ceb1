"""Scaling laws of a score in the number of training images (paper, 3.3): fit, interval, samples needed, gain of more data.

The unit is the encoder: seeds of a probe on one encoder are averaged before the fit, because resampling them would claim a
certainty that they do not have.

Every fit is a weighted set of forms. A named form is a set of one; `auto` weighs several by how well they extrapolate.
Intervals of a set are model-averaged tail areas (Turek and Fletcher, 2012): limits at which the weighted confidence beyond them
is half of what is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from radscale.analysis.curve_fitting import (
    Confidence,
    ExactConfidence,
    FormFit,
    Points,
    ProfileConfidence,
    fit_form,
)
from radscale.analysis.extrapolation import FormReport, judge_forms, usable_link
from radscale.analysis.scaling_forms import FORMS
from radscale.errors import InputError

LARGEST_SIZE = 1e15
"""Beyond this many samples a target counts as not reachable."""
CAUTION = 1 / 3
"""Power of the weights in intervals: which form is right is itself known from a few held-out sizes only. With the weights as
they are, 95 % intervals of `auto` at ten times the largest size covered down to 88 % of simulated truths, with their cube roots
92 to 97 % at all sizes (the paper's design of 11 encoders at 5 sizes; docs/experiment_log.md)."""
LEAST_WEIGHT = 0.01
"""Of a form that takes part in intervals."""


@dataclass(frozen=True)
class ScalingLawFit:
    """A fitted curve; see `fit_scaling_law`."""

    form: str
    """As asked for: the name of a form, or `auto`."""
    members: tuple[tuple[FormFit, float], ...]
    """Forms in use and their weights, the heaviest first; weights sum to 1."""
    larger_is_better: bool
    points: Points = field(repr=False)
    _reports: tuple[FormReport, ...] = field(repr=False, default=())

    @property
    def main_form(self) -> str:
        """The form with the greatest weight."""
        return self.members[0][0].form.name

    @property
    def formula(self) -> str:
        """Of the main form; `e` is the loss, or 1 - y for a score that rises within [0, 1]."""
        return self.members[0][0].form.formula

    @property
    def describes_error(self) -> bool:
        """Whether the parameters of the main form describe 1 - score."""
        fit = self.members[0][0]
        return fit.form.link is None and fit.link.name == "log error"

    @cached_property
    def parameters(self) -> dict[str, float]:
        """Unrounded, of the main form. Sizes are numbers of images, logarithms natural."""
        fit = self.members[0][0]
        return dict(zip(fit.form.parameters, map(float, fit.form.named(fit.theta, fit.log_x0)), strict=True))

    @property
    def num_encoders(self) -> int:
        return self.points.num_encoders

    @property
    def min_size(self) -> float:
        return float(self.points.sizes[0])

    @property
    def max_size(self) -> float:
        return float(self.points.sizes[-1])

    @property
    def residual_std(self) -> float:
        """Of one encoder about the main form's curve, in the space of that form (log score for the power law)."""
        return float(np.sqrt(self.members[0][0].variance))

    @property
    def aicc(self) -> float:
        """Corrected Akaike criterion of the main form, for the scores themselves: comparable between forms."""
        return self.members[0][0].aicc

    @cached_property
    def forms(self) -> tuple[FormReport, ...]:
        """What is known about each form on these points: AICc weight, extrapolation error, weight in `auto`."""
        return self._reports or judge_forms(self.points)

    @property
    def indistinguishable(self) -> tuple[str, ...]:
        """Forms whose AICc is within 2 of the best: these data cannot tell them apart.

        `constant` is not among them where the trend is significant: AICc's correction for a handful of encoders punishes a
        second parameter more than that.
        """
        best = min((report.aicc for report in self.forms), default=np.inf)
        trend = _trend(self.points.sizes, self.points.scores)[1] < 0.05
        close = (report.form for report in self.forms if report.aicc <= best + 2)
        return tuple(form for form in close if not (trend and form == "constant"))

    @property
    def _cautious(self) -> list[tuple[FormFit, float]]:
        """Members with the weights that intervals use."""
        kept = [(fit, weight**CAUTION) for fit, weight in self.members if weight >= LEAST_WEIGHT]
        total = sum(weight for _, weight in kept)
        return [(fit, weight / total) for fit, weight in kept]

    def predict(self, x: ArrayLike) -> np.ndarray:
        """Score at sizes x > 0, (k,)."""
        sizes = _positive(x)
        return np.asarray(sum(weight * fit.predict(sizes) for fit, weight in self.members))

    def interval(self, x: ArrayLike, level: float = 0.95, *, new_encoder: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Limits (low, high), (k,) each, at sizes x.

        Args:
            x: sizes, above 0.
            level: of the limits, between 0 and 1.
            new_encoder: False: of the curve (confidence). True: of the score of one more encoder (prediction).
        """
        sizes = _positive(x)
        parts = [(_widened(fit, sizes) if new_encoder else fit.confidence_at(sizes), weight) for fit, weight in self._cautious]
        return _tail_area_limits(parts, level)

    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Confidence limits of a parameter of the main form."""
        fit = self.members[0][0]
        if name not in fit.form.parameters:
            raise InputError(f"form '{fit.form.name}' has no parameter '{name}'; it has {', '.join(fit.form.parameters)}")
        index = fit.form.parameters.index(name)
        if fit.form.linear:
            low, high = _linear_parameter_limits(fit, index, level)
        else:
            limits = fit.confidence(fit.parameter(index)).limits(level)
            low, high = float(limits[0][0]), float(limits[1][0])
        return low, high

    def gain(self, from_size: float, to_size: float, level: float = 0.95) -> tuple[float, float, float]:
        """Change of the score between two sizes: (estimate, low, high)."""
        sizes = _positive([from_size, to_size])
        estimate = self.predict(sizes)
        parts = [(fit.confidence(fit.gain_between(*sizes.tolist())), weight) for fit, weight in self._cautious]
        low, high = _tail_area_limits(parts, level)
        return float(estimate[1] - estimate[0]), float(low[0]), float(high[0])

    def samples_needed(
        self, target: float, level: float = 0.95, *, larger_is_better: bool | None = None
    ) -> tuple[float, float, float]:
        """Images from which on the curve is at least as good as `target`: (estimate, low, high).

        The limits are the sizes at which the limits of the curve reach the target, which is the test inversion that covers as
        the interval of the curve does. Infinity means never: beyond 1e15 images, or a curve that gets worse with more data.
        1 means that a single image would be enough.

        Args:
            target: score (or loss) to reach.
            level: of the limits.
            larger_is_better: None as in the fit; False for a loss.
        """
        if not np.isfinite(target):
            raise InputError(f"target {target}: give a finite score to reach")
        better = self.larger_is_better if larger_is_better is None else larger_is_better
        if larger_is_better is None and target > self.points.flat.max():
            # Falling values that are asked to exceed all that was seen are scores that get worse, not losses.
            better = True
        sign = 1.0 if better else -1.0

        known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

        def limits(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Worse and better limit, better is larger; the first grid serves both questions."""
            key = sizes.tobytes()
            if key not in known:
                low, high = self.interval(sizes, level)
                known[key] = (low, high) if better else (-high, -low)
            return known[key]

        estimate = size_that_reaches(lambda sizes: sign * self.predict(sizes), sign * target, for_good=True)
        low = size_that_reaches(lambda sizes: limits(sizes)[1], sign * target, for_good=False)
        high = size_that_reaches(lambda sizes: limits(sizes)[0], sign * target, for_good=True)
        # Intervals of `auto` weigh the forms with more caution than the estimate, which can then lie outside of them.
        return estimate, min(low, estimate), max(high, estimate)

    def explain(self) -> str:
        """In a sentence: which forms are in use and why."""
        if self.form != "auto":
            others = [name for name in self.indistinguishable if name != self.form]
            told = f"; AICc cannot tell it from {', '.join(others)}" if others else ""
            return f"{self.form}, as asked{told}"
        shares = ", ".join(f"{fit.form.name} {100 * weight:.0f} %" for fit, weight in self.members if weight >= 0.01)
        by_form = {report.form: report for report in self.forms}
        num_origins = by_form[self.main_form].num_origins
        if not num_origins:
            return f"{shares}: by AICc alone, as too few sizes are left to hold any out"
        error = by_form[self.main_form].extrapolation_error
        return (
            f"{shares}: weighed by their errors when the largest sizes are held out ({num_origins} x; "
            f"{self.main_form}: {error:.2g} {by_form[self.main_form].error_unit}) and by AICc"
        )


def _positive(x: ArrayLike) -> np.ndarray:
    values = np.atleast_1d(np.asarray(x, dtype=np.float64))
    if not (values > 0).all():
        raise InputError(f"size {values.min():g}: sizes must be above 0")
    return values


def _widened(fit: FormFit, sizes: np.ndarray) -> Confidence:
    """Confidence of the curve with the spread of one encoder about it on top."""
    known = fit.confidence_at(sizes)
    if isinstance(known, ExactConfidence):
        return ExactConfidence(known.link, known.centre, np.sqrt(known.error**2 + fit.variance), known.degrees_of_freedom)
    centre = fit.predict(sizes)
    spread = np.sqrt(fit.variance) * np.exp(-fit.link.log_slope(centre))
    roots = np.linspace(-1, 1, 41) * float(stats.t.ppf(0.9995, known.degrees_of_freedom))
    distance = np.stack([known.value(root) for root in roots], axis=1) - centre[:, None]
    wider = centre[:, None] + np.sign(roots) * np.hypot(distance, roots * spread[:, None])
    return ProfileConfidence(wider, np.broadcast_to(roots, wider.shape), known.degrees_of_freedom)


def _linear_parameter_limits(fit: FormFit, index: int, level: float) -> tuple[float, float]:
    """The parameters of linear forms are linear in theta, or (alpha of the power law) the exponential of such a one."""
    weights = np.zeros(len(fit.theta))
    weights[index] = 1.0
    if index == 0 and len(fit.theta) == 2:
        weights[1] = -fit.log_x0
    centre = float(weights @ fit.theta)
    half = float(stats.t.ppf(0.5 + level / 2, fit.degrees_of_freedom) * np.sqrt(weights @ fit.covariance() @ weights))
    low, high = centre - half, centre + half
    return (float(np.exp(low)), float(np.exp(high))) if fit.form.parameters[index] == "alpha" else (low, high)


def _tail_area_limits(parts: Sequence[tuple[Confidence, float]], level: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits beyond which the weighted confidence is (1 - level) / 2 on either side."""
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it must be between 0 and 1, e.g. 0.95")
    every = [part.limits(level) for part, _ in parts]
    if len(parts) == 1:
        return every[0]
    lows, highs = np.array([low for low, _ in every]), np.array([high for _, high in every])
    return (
        _solve_mixture(parts, (1 - level) / 2, lows.min(axis=0), lows.max(axis=0)),
        _solve_mixture(parts, (1 + level) / 2, highs.min(axis=0), highs.max(axis=0)),
    )


def _solve_mixture(parts: Sequence[tuple[Confidence, float]], share: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Bisection: the weighted share of confidence below a value rises with the value, and members bracket it."""
    for _ in range(50):
        middle = 0.5 * (low + high)
        below = sum(weight * part.cumulative(middle) for part, weight in parts)
        low, high = np.where(below < share, middle, low), np.where(below < share, high, middle)
    return 0.5 * (low + high)


def size_that_reaches(curve: Callable[[np.ndarray], np.ndarray], target: float, *, for_good: bool) -> float:
    """Smallest size at which `curve` reaches the target, or (for_good) from which on it stays there, up to `LARGEST_SIZE`.

    The size is bracketed on a grid from 1 on, the bracket on finer ones, and what is left is interpolated in log size.
    Infinity: never. 1: everywhere.
    """
    sizes = np.geomspace(1.0, LARGEST_SIZE, 46)
    place = _first_reaching(curve(sizes) >= target, for_good)
    if place == 0:
        return 1.0
    if place == len(sizes):
        return float("inf")
    for _ in range(2):
        # The bracket stands: a limit that wavers on a finer grid moves the answer within it, not out of it.
        sizes = np.geomspace(sizes[place - 1], sizes[place], 9)
        values = curve(sizes)
        place = int(np.clip(_first_reaching(values >= target, for_good), 1, len(sizes) - 1))
    before, after = values[place - 1], values[place]
    share = (target - before) / (after - before) if after > before else 0.5
    return float(sizes[place - 1] * (sizes[place] / sizes[place - 1]) ** float(np.clip(share, 0.0, 1.0)))


def _first_reaching(reached: np.ndarray, for_good: bool) -> int:
    """Index of the first True, or (for_good) of the first after the last False; the length if there is none."""
    if for_good:
        short = np.flatnonzero(~reached)
        return int(short[-1]) + 1 if short.size else 0
    return int(np.argmax(reached)) if reached.any() else len(reached)


def fit_scaling_law(
    sizes: ArrayLike,
    scores: ArrayLike,
    form: str = "power",
    groups: Sequence[object] | None = None,
    *,
    larger_is_better: bool | None = None,
) -> ScalingLawFit:
    """Fit a scaling law to scores of encoders.

    Args:
        sizes: (n,) training images, above 0.
        scores: (n,) e.g. AUPRC in [0, 1], or a loss.
        form: "power" (the paper's alpha x^k), "constant", "log_linear", "logit_linear", "saturating" (a limit approached as
            x^-k), "power_offset" (M2), "m3", "logistic", "m4", "bnsl", or "auto": several, weighed by how well each predicts
            the largest sizes from the smaller ones.
        groups: (n,) encoder of each score; scores of one encoder are averaged. None: every score is an encoder.
        larger_is_better: None decides from the data: False only if scores fall with size, significantly (p < 0.05).

    Raises:
        InputError: unknown form, values that are not finite, one size only, too few encoders or sizes for the form, or scores
            that the form cannot describe.
    """
    points = _points(sizes, scores, groups, larger_is_better)
    better = _larger_is_better(points) if larger_is_better is None else larger_is_better
    if form == "auto":
        reports = judge_forms(points)
        chosen = sorted((report for report in reports if report.weight > 0), key=lambda r: -r.weight)
        if not chosen:
            _check_enough("power", points)
            raise InputError(
                f"score {points.flat.min():g}: auto weighs forms in log score (log error for scores in [0, 1]) and "
                "cannot describe it; use log_linear or saturating"
            )
        return ScalingLawFit("auto", tuple((_found(r), r.weight) for r in chosen), better, points, reports)
    if form not in FORMS:
        raise InputError(f"form '{form}' is not known; allowed: {', '.join(FORMS)}, auto")
    _check_enough(form, points)
    link = usable_link(FORMS[form], points)
    if link is None:
        wrong = points.flat[np.argmin(points.flat)] if form != "logit_linear" else _outside(points.flat)
        raise InputError(f"score {wrong:g}: form '{form}' cannot describe it; use log_linear or saturating, or rescale scores")
    return ScalingLawFit(form, ((fit_form(FORMS[form], points, link), 1.0),), better, points)


def _found(report: FormReport) -> FormFit:
    assert report.fit is not None
    return report.fit


def _outside(scores: np.ndarray) -> float:
    return float(scores[(scores <= 0) | (scores >= 1)][0])


def _check_enough(form: str, points: Points) -> None:
    num_sizes, needed = len(points.sizes), FORMS[form].num_parameters
    if num_sizes < 2:
        raise InputError(f"all encoders have size {points.sizes[0]:g}; a scaling law needs at least two sizes")
    if num_sizes < needed:
        raise InputError(
            f"{num_sizes} sizes for the {needed} parameters of '{form}'; at least {needed} sizes are needed: add sizes, or use "
            "a simpler form"
        )
    if points.num_encoders < needed + 1:
        raise InputError(
            f"{points.num_encoders} encoders for the {needed} parameters of '{form}'; at least {needed + 1} are needed to know "
            "how sure the fit is: add encoders, or use a simpler form"
        )


def _points(sizes: ArrayLike, scores: ArrayLike, groups: Sequence[object] | None, larger_is_better: bool | None) -> Points:
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise InputError(f"sizes of shape {x.shape} and scores of shape {y.shape}: give two vectors of one length")
    wrong = np.flatnonzero(~np.isfinite(x) | ~np.isfinite(y) | (x <= 0))
    if wrong.size:
        raise InputError(
            f"row {wrong[0]} ({wrong.size} such rows): size {x[wrong[0]]} and score {y[wrong[0]]}; sizes above 0 and finite "
            "scores are needed"
        )
    if groups is None:
        encoders = list(zip(x, y, strict=True))
    else:
        if len(groups) != len(x):
            raise InputError(f"{len(groups)} groups for {len(x)} scores: give one encoder per score")
        members: dict[tuple[object, float], list[float]] = {}
        for group, size, score in zip(groups, x, y, strict=True):
            members.setdefault((group, size), []).append(float(score))
        encoders = [(size, float(np.mean(sorted(values)))) for (_, size), values in members.items()]
    by_size: dict[float, list[float]] = {}
    for size, score in encoders:
        by_size.setdefault(float(size), []).append(float(score))
    ordered = sorted(by_size)
    # Sorted, so that the order of the rows does not reach the last digit.
    groups_of_scores = [np.array(sorted(by_size[size])) for size in ordered]
    slope, _ = _trend(np.array(ordered), groups_of_scores)
    rising = slope > 0 if larger_is_better is None else larger_is_better
    return Points(np.array(ordered), groups_of_scores, rising)


def _trend(sizes: np.ndarray, scores: list[np.ndarray]) -> tuple[float, float]:
    """Slope of the score over log size, and its two-sided p-value (1 where there is no telling)."""
    if len(sizes) < 2:
        return 0.0, 1.0
    x = np.repeat(np.log(sizes), [len(group) for group in scores])
    y = np.concatenate(scores)
    if len(x) < 3:
        return float(np.polyfit(x, y, 1)[0]), 1.0
    result = stats.linregress(x, y)
    return float(result.slope), float(result.pvalue)


def _larger_is_better(points: Points) -> bool:
    slope, p_value = _trend(points.sizes, points.scores)
    return not (slope < 0 and p_value < 0.05)
