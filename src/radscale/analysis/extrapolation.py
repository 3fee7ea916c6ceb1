"""Which forms describe a curve, and how much each is worth for extrapolation.

Forms that fit the data equally well can part ways beyond them. What is asked is the extrapolation, so that is what is measured:
the largest sizes are held out, several times (rolling origins), each form is fitted to the rest and predicts them. An origin
votes for a form with one over its error, later origins (nearer to the question) with more weight; AICc, which sees all of the
data but no extrapolation, is tempered to one vote among them. Where too few sizes are left to hold any out, AICc decides.
"""

from dataclasses import dataclass, field

import numpy as np

from radscale.analysis.curve_fitting import FormFit, Points, fit_form
from radscale.analysis.scaling_forms import FORMS, LOG, LOG_ERROR, Form, Link

CANDIDATES = ("power", "power_offset", "m3", "logistic", "m4", "bnsl")
"""What `auto` weighs. The other forms are near copies of these within the data (power_offset and saturating are one family; the
log-linear forms follow the power law), and would only count a shape twice."""
KEPT_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the sizes, at the rolling origins; the last origin holds out the largest size alone."""
MOST_VOTES = 4.0
"""Of all origins together: they share most of their data, so that six origins do not say six times as much as one."""
SPARE_SIZES = {2: 0, 3: 1}
"""Sizes needed beyond the number of parameters (2 for forms of four and more)."""


@dataclass(frozen=True)
class FormReport:
    """One form on one set of points."""

    form: str
    num_parameters: int
    aicc: float
    aicc_weight: float
    """exp(-AICc / 2), relative: sums to 1 over the forms of the report."""
    extrapolation_error: float
    """Typical error on held-out larger sizes (geometric mean over origins of root mean squares); NaN without an origin."""
    largest_size_error: float
    """Prediction minus mean score at the largest size, when that size alone is held out; NaN if the rest is too little."""
    error_unit: str
    """Of `extrapolation_error`: score points as shares of 1, or log score for losses."""
    num_origins: int
    weight: float
    """In `auto`; 0 for a form that it does not use."""
    fit: FormFit | None = field(default=None, repr=False)


def usable_link(form: Form, points: Points) -> Link | None:
    """The space in which the form is fitted to these scores; None if it cannot hold them."""
    link = form.link
    if link is None:
        scores = points.flat
        bounded = points.rising and scores.min() >= 0 and scores.max() < 1
        link = LOG_ERROR if bounded else LOG
    return link if link.holds(points.flat) else None


def origins(num_sizes: int) -> list[int]:
    """How many of the smallest sizes are kept at each rolling origin."""
    kept = {int(np.ceil(share * num_sizes)) for share in KEPT_SHARES} | {num_sizes - 1}
    return sorted(number for number in kept if 3 <= number < num_sizes)


def judge_forms(points: Points) -> tuple[FormReport, ...]:
    """Fit every form that these points can carry, hold out the largest sizes, and weigh the forms."""
    fits = {name: fit for name, form in FORMS.items() if (fit := _try(form, points)) is not None}
    if not fits:
        return ()
    in_log = not points.rising and points.flat.min() > 0
    kept = origins(len(points.sizes))
    last = len(points.sizes) - 1
    predicted = {
        name: {number: _predict_held_out(fit.form, points, number) for number in {*kept, last}} for name, fit in fits.items()
    }
    errors = {name: _origin_errors(predicted[name], points, kept, in_log) for name in fits}
    weights = _weights([name for name in CANDIDATES if name in fits], fits, errors)
    lowest = min(fit.aicc for fit in fits.values())
    relative = {name: np.exp(-0.5 * (fit.aicc - lowest)) if np.isfinite(fit.aicc) else 0.0 for name, fit in fits.items()}
    total = sum(relative.values()) or 1.0
    return tuple(
        FormReport(
            form=name,
            num_parameters=fit.form.num_parameters,
            aicc=fit.aicc,
            aicc_weight=float(relative[name] / total),
            extrapolation_error=_typical(errors[name]),
            largest_size_error=_largest_size_error(predicted[name][last], points),
            error_unit="log score" if in_log else "score",
            num_origins=int(np.isfinite(errors[name]).sum()),
            weight=weights.get(name, 0.0),
            fit=fit,
        )
        for name, fit in fits.items()
    )


def _try(form: Form, points: Points) -> FormFit | None:
    """None if the points are too few for the form, or scores that it cannot hold."""
    spare = SPARE_SIZES.get(form.num_parameters, 2) if form.num_parameters > 1 else 1
    link = usable_link(form, points)
    enough = len(points.sizes) >= form.num_parameters + spare and points.num_encoders > form.num_parameters
    return fit_form(form, points, link) if enough and link is not None and len(points.sizes) > 1 else None


def _predict_held_out(form: Form, points: Points, kept: int) -> np.ndarray | None:
    """(m - kept,) predictions of the larger sizes from the `kept` smallest."""
    link = usable_link(form, points)
    if link is None or kept < form.num_parameters + (1 if form.num_parameters > 2 else 0):
        return None
    return fit_form(form, points.up_to(kept), link).predict(points.sizes[kept:])


def _origin_errors(predictions: dict[int, np.ndarray | None], points: Points, kept: list[int], in_log: bool) -> np.ndarray:
    """(origins,) root mean square errors on held-out sizes; NaN where the form needs more points."""
    seen = np.array([group.mean() for group in points.scores])
    errors = np.full(len(kept), np.nan)
    for index, number in enumerate(kept):
        predicted = predictions[number]
        if predicted is not None:
            both = (np.maximum(predicted, 1e-300), seen[number:])
            predicted, observed = map(np.log, both) if in_log else both
            errors[index] = np.sqrt(np.mean((predicted - observed) ** 2))
    return errors


def _largest_size_error(predicted: np.ndarray | None, points: Points) -> float:
    return float("nan") if predicted is None else float(predicted[0] - points.scores[-1].mean())


def _typical(errors: np.ndarray) -> float:
    known = errors[np.isfinite(errors)]
    return float(np.exp(np.mean(np.log(np.maximum(known, 1e-12))))) if known.size else float("nan")


def _weights(names: list[str], fits: dict[str, FormFit], errors: dict[str, np.ndarray]) -> dict[str, float]:
    """Votes of the origins and of AICc; see the head of this file."""
    if not names:
        return {}
    criterion = np.array([fits[name].aicc for name in names])
    # A form that leaves AICc no degree of freedom is judged like the worst of the others.
    finite = criterion[np.isfinite(criterion)]
    criterion = np.where(np.isfinite(criterion), criterion, finite.max() if finite.size else 0.0)
    votes = -0.5 * (criterion - criterion.min())
    matrix = np.array([errors[name] for name in names])
    seen = np.isfinite(matrix).any(axis=0)
    if seen.any():
        matrix = matrix[:, seen]
        # A form that could not be fitted at an early origin gets the worst error there: it has shown nothing.
        matrix = np.where(np.isfinite(matrix), matrix, np.nanmax(matrix, axis=0))
        num_origins = matrix.shape[1]
        later = np.arange(1, num_origins + 1) / sum(range(1, num_origins + 1))
        floor = 1e-3 * matrix.min(axis=0, keepdims=True) + 1e-12
        votes = votes / (1 + num_origins) - min(num_origins, MOST_VOTES) * (np.log(matrix + floor) @ later)
    weights = np.exp(votes - votes.max())
    weights /= weights.sum()
    # What weighs less than a thousandth changes no figure and costs time.
    weights = np.where(weights < 1e-3, 0.0, weights)
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))
