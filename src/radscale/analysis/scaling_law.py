"""Scaling laws of a score in the number of training images (paper, 3.3): fit, interval, samples needed.

The unit is the encoder: seeds of a probe on one encoder are averaged before the fit, because resampling them would claim a
certainty that they do not have. This version fits forms that are linear after a transformation, by least squares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from radscale.errors import InputError

FORMS = ("power", "log_linear", "constant")
LARGEST_SIZE = 1e15
"""Beyond this many samples a target counts as not reachable."""


@dataclass(frozen=True)
class ScalingLawFit:
    """A fitted curve. `form` power: score = alpha * n^k; log_linear: intercept + slope * ln n; constant: its level."""

    form: str
    parameters: dict[str, float]
    """Unrounded."""
    num_encoders: int
    min_size: float
    max_size: float
    residual_std: float
    """In the fitted space: of log score for power, of the score otherwise."""
    aicc: float
    """Corrected Akaike criterion in the space of scores; comparable between forms."""
    _coefficients: np.ndarray
    _covariance: np.ndarray
    _degrees_of_freedom: int

    def predict(self, x: ArrayLike) -> np.ndarray:
        """Score at sizes x > 0."""
        return self._to_score(self._design(x) @ self._coefficients)

    def interval(self, x: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Confidence limits (low, high) of the curve at sizes x; they widen away from the data."""
        design = self._design(x)
        centre = design @ self._coefficients
        half = self._quantile(level) * np.sqrt(np.einsum("ij,jk,ik->i", design, self._covariance, design))
        return self._to_score(centre - half), self._to_score(centre + half)

    def parameter_interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Confidence limits of a parameter."""
        index = list(self.parameters).index(name)
        half = self._quantile(level) * float(np.sqrt(self._covariance[index, index]))
        low, high = self._coefficients[index] - half, self._coefficients[index] + half
        return (float(np.exp(low)), float(np.exp(high))) if name == "alpha" else (float(low), float(high))

    def samples_needed(
        self, target: float, level: float = 0.95, *, larger_is_better: bool = True
    ) -> tuple[float, float, float]:
        """Images from which on the curve is at least as good as `target`: (estimate, low, high).

        Infinity means never: a curve that gets worse with more data reaches no target from above. The limits are the same
        question asked of the upper and of the lower limit of the curve. 1 means that a single image would be enough.

        Args:
            target: score (or loss) to reach.
            level: of the limits.
            larger_is_better: False for a loss.
        """
        sizes = np.geomspace(1, LARGEST_SIZE, 4001)
        low, high = self.interval(sizes, level)
        curve = self.predict(sizes)
        if not larger_is_better:
            low, high, curve, target = -high, -low, -curve, -target
        return (_last_entry(sizes, curve, target), _first_size(sizes, high, target), _last_entry(sizes, low, target))

    def _quantile(self, level: float) -> float:
        return float(stats.t.ppf(0.5 + level / 2, self._degrees_of_freedom))

    def _design(self, x: ArrayLike) -> np.ndarray:
        values = np.atleast_1d(np.asarray(x, dtype=np.float64))
        if not (values > 0).all():
            raise InputError(f"size {values.min()}: sizes must be above 0")
        return _design(values, self.form)

    def _to_score(self, values: np.ndarray) -> np.ndarray:
        return np.exp(values) if self.form == "power" else values


def _design(x: np.ndarray, form: str) -> np.ndarray:
    ones = np.ones_like(x)
    return ones[:, None] if form == "constant" else np.stack([ones, np.log(x)], axis=1)


def _first_size(sizes: np.ndarray, values: np.ndarray, target: float) -> float:
    """Smallest size from which on `values` reaches the target, between grid points by interpolation in log size."""
    reached = np.flatnonzero(values >= target)
    if not reached.size:
        return float("inf")
    return _interpolate(sizes, values, target, int(reached[0]))


def _last_entry(sizes: np.ndarray, values: np.ndarray, target: float) -> float:
    """Smallest size from which on `values` stays at or above the target."""
    short = np.flatnonzero(values < target)
    if not short.size:
        return float(sizes[0])
    index = int(short[-1]) + 1
    return float("inf") if index == len(sizes) else _interpolate(sizes, values, target, index)


def _interpolate(sizes: np.ndarray, values: np.ndarray, target: float, index: int) -> float:
    if index == 0:
        return float(sizes[0])
    share = (target - values[index - 1]) / (values[index] - values[index - 1])
    return float(sizes[index - 1] * (sizes[index] / sizes[index - 1]) ** share)


def fit_scaling_law(
    sizes: ArrayLike, scores: ArrayLike, form: str = "power", groups: Sequence[object] | None = None
) -> ScalingLawFit:
    """Fit a scaling law to scores of encoders.

    Args:
        sizes: (n,) training images, above 0.
        scores: (n,) e.g. AUPRC; above 0 for the power law.
        form: "power" (the paper's alpha * n^k), "log_linear", "constant", or "auto" (least AICc of the three).
        groups: (n,) encoder of each score; scores of one encoder are averaged. None: every score is an encoder.

    Raises:
        InputError: unknown form, one size only, or too few encoders for the form.
    """
    x, y = _encoder_points(sizes, scores, groups)
    if form == "auto":
        return min((_fit(x, y, name) for name in FORMS), key=lambda fit: fit.aicc)
    if form not in FORMS:
        raise InputError(f"form '{form}' is not available; this version fits {', '.join(FORMS)} and auto")
    return _fit(x, y, form)


def _encoder_points(sizes: ArrayLike, scores: ArrayLike, groups: Sequence[object] | None) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"sizes of shape {x.shape} and scores of shape {y.shape}: give two vectors of one length")
    wrong = np.flatnonzero(~np.isfinite(x) | ~np.isfinite(y) | (x <= 0))
    if wrong.size:
        raise InputError(
            f"row {wrong[0]}: size {x[wrong[0]]} and score {y[wrong[0]]}; sizes above 0 and finite scores are needed"
        )
    if groups is None:
        return x, y
    if len(groups) != len(x):
        raise InputError(f"{len(groups)} groups for {len(x)} scores: give one encoder per score")
    members: dict[tuple[object, float], list[float]] = {}
    for group, size, score in zip(groups, x, y, strict=True):
        members.setdefault((group, size), []).append(score)
    return np.array([size for _, size in members]), np.array([np.mean(values) for values in members.values()])


def _fit(x: np.ndarray, y: np.ndarray, form: str) -> ScalingLawFit:
    num_parameters = 1 if form == "constant" else 2
    num_sizes = len(np.unique(x))
    if num_sizes < 2:
        raise InputError(f"all encoders have size {x[0]:g}; a scaling law needs at least two sizes")
    if len(x) < num_parameters + 1:
        raise InputError(f"{len(x)} encoders for {num_parameters} parameters; at least {num_parameters + 1} are needed")
    if form == "power" and not (y > 0).all():
        raise InputError(f"score {y.min():g}: a power law needs scores above 0; use log_linear")
    design = _design(x, form)
    response = np.log(y) if form == "power" else y
    gram_inverse = np.linalg.inv(design.T @ design)
    coefficients = gram_inverse @ design.T @ response
    residuals = response - design @ coefficients
    freedom = len(x) - num_parameters
    variance = float(residuals @ residuals) / freedom
    fitted = np.exp(design @ coefficients) if form == "power" else design @ coefficients
    parameters = {
        "power": lambda c: {"alpha": float(np.exp(c[0])), "k": float(c[1])},
        "log_linear": lambda c: {"intercept": float(c[0]), "slope": float(c[1])},
        "constant": lambda c: {"level": float(c[0])},
    }[form](coefficients)
    return ScalingLawFit(
        form=form,
        parameters=parameters,
        num_encoders=len(x),
        min_size=float(x.min()),
        max_size=float(x.max()),
        residual_std=float(np.sqrt(variance)),
        aicc=_aicc(y - fitted, num_parameters + 1),
        _coefficients=coefficients,
        _covariance=variance * gram_inverse,
        _degrees_of_freedom=freedom,
    )


def _aicc(residuals: np.ndarray, num_parameters: int) -> float:
    """Of normal residuals; the number of parameters counts their variance. Infinite where the correction has no meaning."""
    n = len(residuals)
    if n - num_parameters - 1 <= 0:
        return float("inf")
    likelihood = n * np.log(max(float(residuals @ residuals) / n, 1e-300))
    return float(likelihood + 2 * num_parameters + 2 * num_parameters * (num_parameters + 1) / (n - num_parameters - 1))
