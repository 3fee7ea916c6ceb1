"""From the analysis tables of one evaluation to the rows that figures draw and pages print."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict

from radscale.analysis.fit_comparison import mean_over_seeds
from radscale.analysis.measures import Measure
from radscale.html_report.tables import AnalysisTables, Row, mean

Arms = Mapping[str, Mapping[str, Any]]


def trained_arms(tables: AnalysisTables, arms: Arms) -> list[str]:
    """Arms that continue open weights and were scored here."""
    return [arm for arm, facts in arms.items() if facts["open_weights_arm"] is not None and tables.sizes(arm)]


def open_arms(tables: AnalysisTables, arms: Arms) -> list[str]:
    """Open weights that were scored here."""
    return [arm for arm, facts in arms.items() if facts["open_weights_arm"] is None and tables.sizes(arm)]


class ScalingRows(TypedDict):
    """Arguments of `figures.scaling_figure`."""

    points: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    references: list[dict[str, Any]]


def scaling_rows(tables: AnalysisTables, arms: Arms, task: str) -> ScalingRows:
    """`points`, `curves` and `references` of `figures.scaling_figure`."""
    points, curves, references = [], [], []
    for arm in trained_arms(tables, arms):
        label = arms[arm]["label"]
        points += [
            {"arm": label, "subset_size": row["subset_size"], "replicate": row["replicate"], "score": row[tables.measure.key]}
            for row in tables.results
            if (row["arm"], row["task"]) == (arm, task)
        ]
        curves += [{**row, "arm": label} for row in tables.curves if (row["arm"], row["task"]) == (arm, task)]
    for arm in open_arms(tables, arms):
        score, low, high = mean_over_seeds(tables.scores(arm, 0, task))
        references.append({"label": arms[arm]["label"], "score": score, "low": low, "high": high})
    return {"points": points, "curves": curves, "references": references}


def difference_rows(tables: AnalysisTables, arms: Arms, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each arm at its largest size against its open weights: the average, then every task."""
    rows = []
    for arm in trained_arms(tables, arms):
        size = max(tables.sizes(arm))
        for task in ("average", *names):
            row = tables.comparison((arm, size), (arms[arm]["open_weights_arm"], 0), task)
            if row is not None:
                shown = {"arm": arms[arm]["label"], "size": size, "is_average": task == "average"}
                rows.append({**row, **shown, "task": "Mean over tasks" if task == "average" else names[task]})
    return rows


def subgroup_rows(tables: AnalysisTables, arms: Arms) -> list[dict[str, Any]]:
    """Rows of the subgroups with the arms' labels."""
    return [{**row, "arm": arms[row["arm"]]["label"], "small": bool(row["small"])} for row in tables.subgroups]


def fit_of(tables: AnalysisTables, arm: str, task: str) -> Row | None:
    """The scaling law of an arm, or None where none was fitted."""
    found = next((row for row in tables.fits if (row["arm"], row["task"]) == (arm, task)), None)
    return None if found is None or found["verdict"] == "no fit" or math.isnan(found["k"]) else found


def plan_of(tables: AnalysisTables, arm: str, task: str) -> Row | None:
    """What more data brings to an arm on a task, or None where no law was fitted."""
    found = next((row for row in tables.data_plan if (row["arm"], row["task"]) == (arm, task)), None)
    return None if found is None or found["verdict"] == "no fit" or math.isnan(found["gain"]) else found


def tells(plan: Row | None, measure: Measure) -> bool:
    """Whether an expected gain says anything."""
    return plan is not None and plan["high"] - plan["low"] <= measure.widest


def data_plan_rows(tables: AnalysisTables, arms: Arms, names: Mapping[str, str], arm: str) -> list[dict[str, Any]]:
    """What more data would bring to an arm, task by task, and on average."""
    return [
        {**plan, "arm": arms[arm]["label"], "task": "Mean over tasks" if task == "average" else names[task]}
        | {"is_average": task == "average", "saturated": plan["verdict"] == "saturated"}
        for task in ("average", *names)
        if (plan := plan_of(tables, arm, task)) is not None
    ]


def cost_rows(runs: list[Row], arms: Arms) -> list[dict[str, Any]]:
    """Seconds by stage, in the order of work; pretraining arm by arm."""
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in runs:
        stage = str(row["stage"])
        parts.setdefault((stage, str(row["arm"]) if stage == "pretraining" else ""), []).append(row)
    return [
        {
            "label": stage.replace("_", " ") + (f": {arms[arm]['label']}" if arm else ""),
            "arm": arms[arm]["label"] if arm else "",
            "amount": sum(row["seconds"] for row in found),
            "detail": f"{len(found)} step{'s' if len(found) != 1 else ''}",
        }
        for (stage, arm), found in parts.items()
    ]


def gain_by_cost_rows(runs: list[Row], tables: AnalysisTables, arms: Arms) -> tuple[list[dict[str, Any]], str]:
    """What one encoder of each arm and size took, beside its difference to the open weights; and the unit of the costs."""
    rows, units = [], set()
    for arm in trained_arms(tables, arms):
        for size in tables.sizes(arm):
            found = [r for r in runs if (r["arm"], r["subset_size"]) == (arm, size) and r["achieved"] > 0]
            row = tables.comparison((arm, size), (arms[arm]["open_weights_arm"], 0), "average")
            if found and row is not None:
                units.add(str(found[0]["unit"]))
                cost = mean([r["achieved"] for r in found])
                limits = {name: row[name] for name in ("difference", "low", "high")}
                rows.append({"arm": arms[arm]["label"], "cost": cost, "label": f"{size:,} images", **limits})
    if len(units) != 1:
        return [], ""
    unit = units.pop()
    factor, name = {"flops": (1e12, "TFLOP"), "samples_seen": (1.0, "images seen"), "gpu_seconds": (3600.0, "device hours")}[
        unit
    ]
    return [{**row, "cost": row["cost"] / factor} for row in rows], name
