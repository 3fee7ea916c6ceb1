"""Results in, tables out: what the commands `fit` and `plan-data` print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radscale.analysis.data_plan import TaskPlan
from radscale.analysis.fit_comparison import Estimate, compare_exponents, crossover, mean_over_seeds, size_that_beats
from radscale.analysis.results_table import Curve, ResultsTable
from radscale.analysis.scaling_law import ScalingLawFit, fit_scaling_law
from radscale.analysis.text_tables import Column, TextTable, p_value
from radscale.errors import InputError

EXTRAPOLATION = 10.0
"""How far beyond the largest size curves are drawn."""
NUM_CURVE_POINTS = 60


@dataclass(frozen=True)
class FittedCurve:
    """One curve of a table and its law."""

    curve: Curve
    fit: ScalingLawFit


def fit_curves(table: ResultsTable, form: str, *, larger_is_better: bool = True) -> list[FittedCurve]:
    """A law for every curve of the table.

    Raises:
        InputError: a curve that cannot be fitted, named.
    """
    fitted = []
    for curve in table.curves:
        try:
            fit = fit_scaling_law(curve.sizes, curve.scores, form, curve.encoders, larger_is_better=larger_is_better)
        except InputError as error:
            raise InputError(f"{table.name}, {curve.name}: {error}") from None
        fitted.append(FittedCurve(curve, fit))
    return fitted


def size_text(value: float) -> str:
    """A number of images in words that fit a table: 120, 6.9k, 3.7M, 16G, `never`."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "never"
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _number(value: Any) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def fit_table(
    fitted: Sequence[FittedCurve], table: ResultsTable, *, target: float | None, beats: str | None, level: float = 0.95
) -> TextTable:
    """Parameters with limits, what the forms are worth, and the samples needed.

    Args:
        fitted: from `fit_curves`.
        table: where open weights stand.
        target: score to reach.
        beats: arm of size 0 to beat; its own spread over seeds counts.
        level: of all limits.
    """
    rows = []
    for item in fitted:
        fit = item.fit
        sizes = np.array([fit.max_size])
        low, high = fit.interval(sizes, level)
        row: dict[str, Any] = {
            "evaluation": item.curve.evaluation,
            "task": item.curve.task,
            "arm": item.curve.arm,
            "form": fit.main_form if fit.form == "auto" else fit.form,
            "num_encoders": fit.num_encoders,
            "min_size": fit.min_size,
            "max_size": fit.max_size,
            "at_largest": float(fit.predict(sizes)[0]),
            "at_largest_low": float(low[0]),
            "at_largest_high": float(high[0]),
            "largest_size_error": next((r.largest_size_error for r in fit.forms if r.form == fit.main_form), math.nan),
            "indistinguishable": ", ".join(name for name in fit.indistinguishable if name != fit.main_form),
            "explanation": fit.explain(),
        }
        # With three parameters or more, each trades for the others: their limits say little, the curve's say it all.
        limits = level if len(fit.parameters) < 3 else None
        row["parameters"] = ", ".join(_parameter_text(fit, name, limits) for name in fit.parameters)
        if target is not None:
            row |= _needed("needed", Estimate(*fit.samples_needed(target, level)))
        if beats is not None:
            row |= _needed("beats", size_that_beats(fit, mean_over_seeds(table.reference(beats, item.curve), level), level))
        rows.append(row)
    columns = [
        *([Column("evaluation", "evaluation", align="left")] if any(row["evaluation"] for row in rows) else []),
        *([Column("task", "task", align="left")] if any(row["task"] for row in rows) else []),
        Column("arm", "arm", align="left"),
        Column("form", "form", align="left"),
        Column("encoders", "num_encoders"),
        Column("parameters", "parameters", align="left"),
        Column("at largest size", "at_largest", _number),
        Column(f"{100 * level:g} %", ("at_largest_low", "at_largest_high"), _number),
        Column("held-out error", "largest_size_error", _number),
    ]
    keys = ["evaluation", "task", "arm", "form", "num_encoders", "min_size", "max_size", "parameters", "at_largest"]
    keys += ["at_largest_low", "at_largest_high", "largest_size_error", "indistinguishable", "explanation"]
    for prefix, title in (
        ("needed", f"images for {target:g}" if target is not None else ""),
        ("beats", f"images to beat {beats}"),
    ):
        if prefix in rows[0]:
            columns += [
                Column(title, prefix, size_text),
                Column(f"{100 * level:g} %", (f"{prefix}_low", f"{prefix}_high"), size_text),
            ]
            keys += [prefix, f"{prefix}_low", f"{prefix}_high"]
    notes = [
        "held-out error: prediction minus score at the largest size, from the smaller ones alone",
        "sizes outside the data's are extrapolated; `never`: not up to 1e15 images",
        *(f"{item.curve.name}: {item.fit.explain()}" for item in fitted[:12]),
        *(_falling_note(item) for item in fitted if _falls(item.fit)),
    ]
    return TextTable(f"Scaling laws of {table.score} in {table.name}", columns, rows, keys, notes=notes)


def _parameter_text(fit: ScalingLawFit, name: str, level: float | None) -> str:
    if level is None:
        return f"{name} = {fit.parameters[name]:.4g}"
    low, high = fit.parameter_interval(name, level)
    return f"{name} = {fit.parameters[name]:.4g} [{low:.4g}, {high:.4g}]"


def _needed(prefix: str, estimate: Estimate) -> dict[str, float]:
    return {prefix: estimate.value, f"{prefix}_low": estimate.low, f"{prefix}_high": estimate.high}


def _falls(fit: ScalingLawFit) -> bool:
    ends = fit.predict([fit.min_size, fit.max_size])
    return bool(fit.larger_is_better and ends[1] < ends[0])


def _falling_note(item: FittedCurve) -> str:
    return f"{item.curve.name}: falls with more data; if it is a loss, say --lower-is-better"


def comparison_table(fitted: Sequence[FittedCurve], level: float = 0.95) -> TextTable | None:
    """Every pair of arms on one task: ratio of exponents, whether they are parallel, where they cross. None without a pair."""
    rows = []
    for index, first in enumerate(fitted):
        for second in fitted[index + 1 :]:
            if (first.curve.evaluation, first.curve.task) != (second.curve.evaluation, second.curve.task):
                continue
            crossing = crossover(first.fit, second.fit, level)
            leader = first if crossing.leader == "a" else second
            shown = math.isfinite(crossing.size.high)
            row: dict[str, Any] = {
                "evaluation": first.curve.evaluation,
                "task": first.curve.task,
                "a": first.curve.arm,
                "b": second.curve.arm,
                "leader": leader.curve.arm if shown else f"({leader.curve.arm}: not shown)",
            }
            row |= _needed("from_size", crossing.size)
            if first.fit.form == second.fit.form == "power":
                exponents = compare_exponents(first.fit, second.fit, level)
                row |= _needed("ratio", exponents.ratio) | {"p_equal": exponents.p_equal}
                row |= _needed("multiplier_ratio", exponents.multiplier_ratio)
            rows.append(row)
    if not rows:
        return None
    percent = f"{100 * level:g} %"
    columns = [
        *([Column("evaluation", "evaluation", align="left")] if any(row["evaluation"] for row in rows) else []),
        *([Column("task", "task", align="left")] if any(row["task"] for row in rows) else []),
        Column("a", "a", align="left"),
        Column("b", "b", align="left"),
        Column("k of a / k of b", "ratio", _number),
        Column(percent, ("ratio_low", "ratio_high"), _number),
        Column("p (same k)", "p_equal", p_value),
        Column("a / b if same k", "multiplier_ratio", _number),
        Column("ahead with more data", "leader", align="left"),
        Column("from", "from_size", size_text),
        Column(percent, ("from_size_low", "from_size_high"), size_text),
    ]
    keys = ["evaluation", "task", "a", "b", "leader"]
    for prefix in ("from_size", "ratio", "multiplier_ratio"):
        keys += [prefix, f"{prefix}_low", f"{prefix}_high"]
    notes = ["from: images from which on the arm named is ahead for good, by the curves; not shown: their limits allow either"]
    return TextTable("Arms against each other", columns, rows, [*keys, "p_equal"], notes=notes)


def curve_rows(fit: ScalingLawFit, level: float = 0.95, *, num_points: int = NUM_CURVE_POINTS) -> list[dict[str, Any]]:
    """A law with its limits, from the smallest size to `EXTRAPOLATION` times the largest."""
    sizes = np.geomspace(fit.min_size, EXTRAPOLATION * fit.max_size, num_points)
    low, high = fit.interval(sizes, level)
    return [
        {"subset_size": float(size), "estimate": float(value), "low": float(below), "high": float(above)}
        | {"extrapolated": bool(size > fit.max_size)}
        for size, value, below, above in zip(sizes, fit.predict(sizes), low, high, strict=True)
    ]


def scaling_rows(fitted: Sequence[FittedCurve], level: float = 0.95) -> dict[str, list[dict[str, Any]]]:
    """`points` and `curves` for a figure of one task's arms (html_report.figures.scaling_figure)."""
    points, curves = [], []
    for item in fitted:
        arm = item.curve.arm
        points += [
            {"arm": arm, "subset_size": float(size), "replicate": encoder, "score": float(score)}
            for size, score, encoder in zip(item.curve.sizes, item.curve.scores, item.curve.encoders, strict=True)
        ]
        curves += [{"arm": arm, **row} for row in curve_rows(item.fit, level)]
    return {"points": points, "curves": curves}


def reference_rows(item: FittedCurve, table: ResultsTable, beats: str | None, level: float = 0.95) -> list[dict[str, Any]]:
    """Open weights of a curve's task as lines of a figure: the one to beat, or all that the table has."""
    key = (item.curve.evaluation, item.curve.task)
    names = [beats] if beats else [arm for evaluation, arm, task in table.references if (evaluation, task) == key]
    rows = []
    for name in dict.fromkeys(names):
        value, low, high = mean_over_seeds(table.reference(name, item.curve), level)
        rows.append({"label": name, "score": value, "low": low, "high": high})
    return rows


def data_plan_table(plans: Sequence[TaskPlan], more: float, min_gain: float, *, with_costs: bool) -> TextTable:
    """Tasks by what more data brings, the largest gain first, the average at the end."""
    order = sorted(plans, key=lambda plan: (plan.evaluation, plan.arm, plan.is_average, -_or(plan.gain, -math.inf)))
    rows = [{**vars(plan), "bold": {"task", "gain"} if plan.verdict == "pays" else set()} for plan in order]
    several = {name: len({getattr(plan, name) for plan in plans}) > 1 for name in ("evaluation", "arm")}
    columns = [
        *([Column("evaluation", "evaluation", align="left")] if several["evaluation"] else []),
        *([Column("arm", "arm", align="left")] if several["arm"] else []),
        Column("task", "task", align="left"),
        Column("images now", "current_size", size_text),
        Column("score now", "current", _number),
        Column(f"gain of {size_text(more)} more", "gain", _signed),
        Column("95 %", ("low", "high"), _signed),
        Column("verdict", "verdict", align="left"),
        Column(f"images for {min_gain:+g}", "samples_for_gain", size_text),
        *([Column("cost per point", "cost_per_point", _cost)] if with_costs else []),
        Column("form", "form", align="left"),
    ]
    keys = ["evaluation", "arm", "task", "current_size", "current", "gain", "low", "high", "verdict", "samples_for_gain"]
    keys += ["cost_per_point", "form", "note"]
    notes = [
        f"pays: a gain of at least {min_gain:g} is expected and one above 0 is shown; saturated: the upper limit is below "
        f"{min_gain:g}; unclear: neither",
        *_spread_note(plans),
        *(f"{plan.task or plan.arm}: {plan.note}" for plan in plans if plan.note),
    ]
    return TextTable(f"What {size_text(more)} more images bring", columns, rows, keys, notes=notes)


def _spread_note(plans: Sequence[TaskPlan]) -> list[str]:
    notes = []
    for key in dict.fromkeys((plan.evaluation, plan.arm) for plan in plans):
        tasks = [
            plan for plan in plans if (plan.evaluation, plan.arm) == key and not plan.is_average and plan.verdict != "no fit"
        ]
        average = next((plan for plan in plans if (plan.evaluation, plan.arm) == key and plan.is_average), None)
        if average is None or len(tasks) < 2 or math.isnan(average.gain):
            continue
        best, worst = max(tasks, key=lambda plan: plan.gain), min(tasks, key=lambda plan: plan.gain)
        counts = ", ".join(f"{sum(plan.verdict == v for plan in tasks)} {v}" for v in ("pays", "unclear", "saturated"))
        notes.append(
            f"{key[1]}: the average of {_signed(average.gain)} stands for {_signed(worst.gain)} ({worst.task}) to "
            f"{_signed(best.gain)} ({best.task}); of {len(tasks)} tasks: {counts}"
        )
    return notes


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _signed(value: float) -> str:
    return "" if math.isnan(value) else f"{round(value, 4) + 0.0:+.4f}"  # no negative zero


def _cost(value: float) -> str:
    if math.isnan(value):
        return ""
    return "no gain" if math.isinf(value) else f"{value:,.0f}"
