"""What the next samples bring, task by task, and what they cost: where more data pays, and where it does not.

An average over tasks hides that some tasks have stopped gaining and others gain most of what is gained (paper, conclusion);
the plan therefore lists every task beside the average.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from radscale.analysis.results_table import AVERAGE, Curve
from radscale.analysis.scaling_law import ScalingLawFit, fit_scaling_law
from radscale.errors import InputError

MIN_GAIN = 0.005
"""Gain that is worth having, by default half a point."""


@dataclass(frozen=True)
class TaskPlan:
    """What more data is expected to bring on one task."""

    evaluation: str
    arm: str
    task: str
    verdict: str
    """ "pays": the gain is at least `min_gain` and its lower limit is above 0; "saturated": even its upper limit is below
    `min_gain`; "unclear": neither is shown; "no fit": see `note`."""
    current_size: float = math.nan
    """The largest size with a score, from which the gain counts."""
    current: float = math.nan
    """Score of the curve there."""
    gain: float = math.nan
    """Improvement (for a loss, how much it falls)."""
    low: float = math.nan
    high: float = math.nan
    cost_per_point: float = math.nan
    """Cost of the additional samples by hundredths gained; infinite where no gain is expected."""
    samples_for_gain: float = math.nan
    """Additional samples for a gain of `min_gain`, by the estimate."""
    form: str = ""
    """In use, the heaviest form of `auto`."""
    note: str = ""

    @property
    def is_average(self) -> bool:
        return self.task == AVERAGE

    @property
    def saturated(self) -> bool:
        return self.verdict == "saturated"


def plan_data(
    curves: Iterable[Curve],
    more: float,
    *,
    form: str = "auto",
    min_gain: float = MIN_GAIN,
    cost_per_sample: float | None = None,
    larger_is_better: bool = True,
    best_score: float | None = None,
    level: float = 0.95,
) -> list[TaskPlan]:
    """Expected gain of `more` samples on each curve.

    Args:
        curves: scores by task and arm (`results_table`).
        more: additional samples, above 0.
        form: of `fit_scaling_law`.
        min_gain: gain that is worth having, in units of the score.
        cost_per_sample: in any currency; None: no costs.
        larger_is_better: False for losses.
        best_score: where the score ends (1 for an AUPRC), whatever a law says; None: it has no end.
        level: of the limits.

    Raises:
        InputError: numbers that make no sense. A curve that cannot be fitted is a row with a note instead.
    """
    for name, value in (("more", more), ("min_gain", min_gain)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value:g}; it must be a number above 0")
    if cost_per_sample is not None and not (math.isfinite(cost_per_sample) and cost_per_sample >= 0):
        raise InputError(f"cost_per_sample is {cost_per_sample:g}; it must be 0 or more")
    if best_score is None:
        best_score = math.inf if larger_is_better else -math.inf
    return [_plan(curve, more, form, min_gain, cost_per_sample, larger_is_better, best_score, level) for curve in curves]


def _plan(
    curve: Curve,
    more: float,
    form: str,
    min_gain: float,
    cost: float | None,
    larger_is_better: bool,
    best_score: float,
    level: float,
) -> TaskPlan:
    who = (curve.evaluation, curve.arm, curve.task)
    try:
        fit = fit_scaling_law(curve.sizes, curve.scores, form, curve.encoders, larger_is_better=larger_is_better)
    except InputError as error:
        return TaskPlan(*who, verdict="no fit", note=str(error))
    size = fit.max_size
    gain, low, high = fit.gain(size, size + more, level)
    if not larger_is_better:
        gain, low, high = -gain, -high, -low
    current = float(fit.predict(size)[0])
    room = max(best_score - current if larger_is_better else current - best_score, 0.0)
    gain, low, high = (min(value, room) for value in (gain, low, high))
    return TaskPlan(
        *who,
        verdict=_verdict(gain, low, high, min_gain),
        current_size=size,
        current=current,
        gain=gain,
        low=low,
        high=high,
        cost_per_point=math.nan if cost is None else (cost * more / (100 * gain) if gain > 0 else math.inf),
        samples_for_gain=_samples_for(fit, size, min_gain) if room >= min_gain else math.inf,
        form=fit.main_form,
    )


def _verdict(gain: float, low: float, high: float, min_gain: float) -> str:
    if gain >= min_gain and low > 0:
        return "pays"
    return "saturated" if high < min_gain else "unclear"


def _samples_for(fit: ScalingLawFit, size: float, min_gain: float) -> float:
    sign = 1.0 if fit.larger_is_better else -1.0
    target = float(fit.predict(size)[0]) + sign * min_gain
    return max(fit.samples_needed(target, larger_is_better=fit.larger_is_better)[0] - size, 0.0)
