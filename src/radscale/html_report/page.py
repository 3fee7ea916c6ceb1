"""The answer page: one HTML file that needs nothing else, with its figures and tables beside it for other uses."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape

from radscale.analysis.fit_tables import EXTRAPOLATION
from radscale.analysis.measures import AUPRC, DICE, HAUSDORFF, Measure
from radscale.analysis.stratification import SMALL_POSITIVES
from radscale.datasets.pictures import jpeg_uri
from radscale.html_report import figures
from radscale.html_report.answer import answers, beats, better_from, interval, smallest_p, unknowns
from radscale.html_report.held_out import held_out_rows, reversals, separation
from radscale.html_report.paper_tables import missing_tables, paper_figures, paper_table, write_paper_table
from radscale.html_report.rows import (
    Arms,
    ScalingRows,
    cost_rows,
    data_plan_rows,
    difference_rows,
    fit_of,
    gain_by_cost_rows,
    open_arms,
    plan_of,
    scaling_rows,
    subgroup_rows,
    tells,
    trained_arms,
)
from radscale.html_report.style import ArmStyle, arm_styles, font_faces, save_figure, svg_text
from radscale.html_report.tables import (
    AnalysisTables,
    Row,
    best_models,
    mean,
    read_table,
    std,
    write_csv,
    write_latex,
)


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """All that the page shows: paths of tables and pictures, and names for people."""

    title: str
    description: str
    is_phantom: bool
    created: str
    """ISO time of the analysis: the page itself looks at no clock."""
    radscale_version: str
    analysis: Path
    """Folder of the tables that `radscale.analysis.summary.summarise` wrote."""
    arms: Arms
    evaluations: Sequence[Mapping[str, Any]]
    """name, label, tasks {key: display name}, headline, note, and optionally kind ("segmentation"), task_set (a name of the
    probes' task sets), held_out (not the data that encoders were trained on), overlays (task, model, image: a sheet's file)."""
    agreement: Path | None = None
    runs: Path | None = None
    dataset_facts: Sequence[Mapping[str, Any]] = ()
    gallery: Sequence[Mapping[str, Any]] = ()
    similarity: Sequence[Mapping[str, Any]] = ()
    excluded: Sequence[Mapping[str, Any]] = ()
    budget_text: str = ""
    warnings: Sequence[str] = field(default=())


def write_report(inputs: ReportInputs, out: Path) -> Path:
    """Write report.html, figures/ (SVG, PDF) and tables/ (CSV, LaTeX) into `out`; the same inputs give the same bytes.

    Returns:
        Path of report.html.
    """
    for name in ("figures", "tables"):
        (out / name).mkdir(parents=True, exist_ok=True)
    everything = AnalysisTables.read(inputs.analysis)
    parts = {e["name"]: everything.of(e["name"], _measure(e)) for e in inputs.evaluations}
    styles = _styles(inputs.arms)
    runs = read_table(inputs.runs)
    evaluations = [_evaluation(inputs, dict(e), parts[e["name"]], runs, styles, out) for e in inputs.evaluations]
    for e in evaluations:
        e["mark_nothing"], e["overlays"] = [], [_sheet(item) for item in e.get("overlays", ())]
        if e.get("kind") == "segmentation":
            dice = everything.of(e["name"], DICE)
            e["mark_nothing"] = _mark_nothing(dice, inputs.arms)
            e["figures"] |= _dice_figure(dice, inputs.arms, e, styles, out / "figures")
            _write_score_table(out / "tables", e["name"], e["label"], _score_table(dice, inputs.arms, e["tasks"]), DICE)
    tables = [table for e in inputs.evaluations if (table := paper_table(parts[e["name"]], inputs.arms, e)) is not None]
    for table in tables:
        write_paper_table(table, out / "tables")
    headline = [e for e in evaluations if e["headline"]] or evaluations[:1]
    context = {
        "report": inputs,
        "evaluations": evaluations,
        "answered": headline + [e for e in evaluations if e not in headline],
        "unknowns": unknowns({e["label"]: parts[e["name"]] for e in inputs.evaluations}, inputs.arms),
        "paper_tables": sorted(tables, key=lambda table: table.number),
        "missing_tables": missing_tables(tables),
        "paper_figures": paper_figures(evaluations, bool(inputs.similarity)),
        "held_out": _held_out(inputs, headline, parts),
        "similarity": [_similarity(item, index, out) for index, item in enumerate(inputs.similarity)],
        "gallery": [{**item, "uri": _data_uri(Path(item["image"]))} for item in inputs.gallery],
        "agreement": _agreement(read_table(inputs.agreement)),
        "costs": _costs(runs),
        "cost_figure": _cost_figure(runs, inputs.arms, styles, out / "figures"),
        "runs": _encoder_runs(runs, inputs.arms),
        "excluded": inputs.excluded,
        "open_labels": [facts["label"] for facts in inputs.arms.values() if facts["open_weights_arm"] is None],
        "more": f"{EXTRAPOLATION:g}",
        "small_positives": SMALL_POSITIVES,
    }
    for name in AnalysisTables.names():
        write_csv(out / "tables" / f"{name}.csv", read_raw(inputs.analysis / f"{name}.csv"))
    for name, path in (("label_agreement", inputs.agreement), ("runs", inputs.runs)):
        if path is not None:
            write_csv(out / "tables" / f"{name}.csv", read_raw(path))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates = resources.files("radscale.html_report").joinpath("templates")
    style = templates.joinpath("style.css").read_text(encoding="utf-8")
    template = environment.from_string(templates.joinpath("report.html.j2").read_text(encoding="utf-8"))
    text = template.render(style=Markup(style), **context)
    # One font for all figures, with the characters that stand in them.
    text = text.replace("/* fonts */", font_faces("".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))), 1)
    path = out / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def read_raw(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV as they are."""
    import csv

    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _measure(evaluation: Mapping[str, Any]) -> Measure:
    """The headline of an evaluation: segmentations are judged by the Hausdorff distance, as in the paper."""
    return HAUSDORFF if evaluation.get("kind") == "segmentation" else AUPRC


Styles = Mapping[str, ArmStyle]
OPEN_OWN = ("open weights better", "own data better")
"""What differences below and above 0 mean where larger is better."""
LEAST_DICE = 0.01
"""Mean overlap below which a head has found nothing."""
FIGURES = ("scaling", "largest_gain", "tasks", "differences", "data_plan", "subgroups", "gain_by_cost", "dice")


def _styles(arms: Arms) -> Styles:
    """By label, the same in all figures."""
    opened = [facts["label"] for facts in arms.values() if facts["open_weights_arm"] is None]
    return arm_styles([facts["label"] for facts in arms.values() if facts["open_weights_arm"] is not None], opened)


def _held_out(
    inputs: ReportInputs, headline: Sequence[Mapping[str, Any]], parts: Mapping[str, AnalysisTables]
) -> dict[str, Any] | None:
    """The same encoders on other centres' data, beside the first headline of the own centre."""
    home = next((e for e in headline if not e.get("held_out") and e.get("kind") != "segmentation"), None)
    others = [e for e in inputs.evaluations if e.get("held_out") and parts[e["name"]].results]
    if home is None or not others:
        return None
    rows = held_out_rows(home, others, parts, inputs.arms)
    columns = [
        {
            "label": e["label"],
            "measure": parts[e["name"]].measure,
            "num_images": _num_images(parts[e["name"]]),
            "separation": separation(parts[e["name"]], inputs.arms),
        }
        for e in others
    ]
    return {"home": home["label"], "columns": columns, "rows": rows, "reversals": reversals(rows, others)}


def _num_images(tables: AnalysisTables) -> int:
    return max((int(row["num_samples"]) for row in tables.results if row["task"] != "average"), default=0)


def _segmentation_table(tables: AnalysisTables, arms: Arms) -> list[dict[str, str]]:
    """All measures of a segmentation, means over tasks, of open weights and the largest subsets."""
    shown = {"hausdorff_px": HAUSDORFF, "hd95_px": HAUSDORFF, "dice": DICE, "cldice": DICE}
    rows = []
    for arm, size in _models(tables, arms):
        found = [r for r in tables.results if (r["arm"], r["subset_size"], r["task"]) == (arm, size, "average")]
        means = {key: measure.show(mean([row[key] for row in found])) for key, measure in shown.items()}
        rows.append({"model": _model_label(arms, (arm, size)), **means})
    return rows


def _evaluation(
    inputs: ReportInputs, facts: dict[str, Any], tables: AnalysisTables, runs: list[Row], styles: Styles, out: Path
) -> dict[str, Any]:
    name, label, tasks = facts["name"], facts["label"], facts["tasks"]
    arms, folder = inputs.arms, out / "figures"
    table = _score_table(tables, arms, tasks)
    _write_score_table(out / "tables", name, label, table, tables.measure)
    plan = _data_plan(tables, arms, tasks)
    gain_task = _largest_gain(tables, arms, tasks)
    return {
        **facts,
        "kind": facts.get("kind", "classification"),
        "measure": tables.measure,
        "separation": separation(tables, inputs.arms),
        "measures": _segmentation_table(tables, arms) if facts.get("kind") == "segmentation" else [],
        "min_gain": f"{tables.measure.show(tables.measure.min_gain)} {tables.measure.unit}",
        "num_tasks": len(tables.tasks()),
        "num_images": _num_images(tables),
        "answers": answers(tables, arms, tasks),
        "summary": _summary_rows(tables, arms),
        "gain_task": tasks[gain_task] if gain_task else None,
        "figures": dict.fromkeys(FIGURES) | _figures(inputs, facts, tables, plan, gain_task, runs, styles, folder),
        "plan_arm": plan[0]["arm"] if plan else None,
        "subgroups": _subgroup_table(tables, arms),
        "table": table,
        "significance": _significance_rows(tables, arms),
        "differences": _difference_table(tables, arms, tasks),
        "smallest_p": smallest_p(tables),
        "num_starred": sum(row["p_holm"] < 0.05 for row in difference_rows(tables, arms, tasks)),
        "fits": _fit_rows(tables, arms),
        "excluded_tasks": tables.excluded_tasks,
        "num_bootstrap": int(tables.comparisons[0]["num_bootstrap"]) if tables.comparisons else 0,
    }


def _figures(
    inputs: ReportInputs,
    facts: Mapping[str, Any],
    tables: AnalysisTables,
    plan: list[dict[str, Any]],
    gain_task: str | None,
    runs: list[Row],
    styles: Styles,
    folder: Path,
) -> dict[str, Markup]:
    """Inline figures of one evaluation; a figure without data is not there."""
    arms, names, label = inputs.arms, facts["tasks"], facts["label"]
    if not trained_arms(tables, arms):
        return {}
    measure = tables.measure
    axis: dict[str, Any] = {"ylabel": measure.title, "scale": measure.scale}
    rows = scaling_rows(tables, arms, "average")
    found = {
        "scaling": (
            figures.scaling_figure(**rows, **axis, title=f"{label}: mean of {len(tables.tasks())} tasks", styles=styles),
            f"Scaling curves, {label}, mean {measure.name} over tasks. {_curves_in_words(rows, measure)}",
        )
    }
    if gain_task is not None:
        rows = scaling_rows(tables, arms, gain_task)
        found["largest_gain"] = (
            figures.scaling_figure(**rows, **axis, title=f"{label}: {names[gain_task]}", styles=styles),
            f"Scaling curves, {names[gain_task]}. {_curves_in_words(rows, measure)}",
        )
    panels = []
    for task in (task for task in names if task in tables.tasks()):
        prevalence = mean([row["prevalence"] for row in tables.results if row["task"] == task])
        title = f"{names[task]} ({100 * prevalence:.1f} %)"
        panels.append({"title": title, **scaling_rows(tables, arms, task)})
    if panels:
        grid = figures.scaling_grid(panels, **axis, styles=styles)
        found["tasks"] = grid, f"Scaling curves of {len(panels)} tasks, one panel each; the table of scores has the numbers."
    differences = difference_rows(tables, arms, names)
    if differences:
        found["differences"] = (
            figures.forest_figure(
                differences,
                title=f"{label}: largest subset minus open weights",
                xlabel=f"difference in {measure.name}, {measure.unit}",
                sides=OPEN_OWN if measure.larger_is_better else OPEN_OWN[::-1],
                scale=measure.scale,
                styles=styles,
            ),
            "Differences to the open weights per task with 95 % intervals; the table of differences has the numbers.",
        )
    if plan:
        found["data_plan"] = (
            figures.data_plan_figure(
                plan,
                title="{}: {arm}, from {current_size:,.0f} to {next_size:,.0f} images".format(label, **plan[0]),
                xlabel=f"expected gain in {measure.name}, {measure.unit}",
                scale=measure.scale,
                colour=styles[plan[0]["arm"]].colour,
            ),
            "Expected gain of each task: " + "; ".join(f"{row['task']} {interval(row, 'gain', measure)}" for row in plan) + ".",
        )
    groups = subgroup_rows(tables, arms)
    if groups:
        shown = [{**row, "variable": row["variable"].replace("_", " ")} for row in groups]
        found["subgroups"] = (
            figures.subgroup_figure(shown, title=f"{label}: subgroups", styles=styles),
            "AUPRC of each model in each subgroup with 95 % intervals; the table of subgroups has the numbers.",
        )
    costs, unit = gain_by_cost_rows(runs, tables, arms)
    if len({round(row["cost"], 9) for row in costs}) > 1:
        found["gain_by_cost"] = (
            figures.gain_by_cost_figure(
                costs,
                title=f"{label}: gain by cost",
                xlabel=f"{unit} of one encoder (log scale)",
                ylabel=f"difference to open weights, {measure.unit}"
                + ("" if measure.larger_is_better else " (below 0 is better)"),
                scale=measure.scale,
                styles=styles,
            ),
            "Difference to the open weights by cost: "
            + "; ".join(f"{row['arm']}, {row['label']}: {interval(row, measure=measure)}" for row in costs)
            + ".",
        )
    return {key: _svg(figure, alt, folder, f"{facts['name']}_{key}") for key, (figure, alt) in found.items()}


def _mark_nothing(dice: AnalysisTables, arms: Arms) -> list[str]:
    """Labels of models whose heads find next to nothing at any size: their distances say nothing of the encoders."""
    return [
        facts["label"]
        for arm, facts in arms.items()
        if (scores := [score for size in dice.sizes(arm) for score in dice.scores(arm, size, "average")])
        and max(scores) < LEAST_DICE
    ]


def _dice_figure(dice: AnalysisTables, arms: Arms, facts: Mapping[str, Any], styles: Styles, folder: Path) -> dict[str, Markup]:
    """Figure 6 of the paper."""
    if not trained_arms(dice, arms):
        return {}
    rows = scaling_rows(dice, arms, "average")
    title = f"{facts['label']}: mean of {len(dice.tasks())} tasks"
    figure = figures.scaling_figure(**rows, ylabel=DICE.title, scale=DICE.scale, title=title, styles=styles)
    alt = f"Scaling curves, {facts['label']}, mean Dice over tasks. {_curves_in_words(rows, DICE)}"
    return {"dice": _svg(figure, alt, folder, f"{facts['name']}_dice")}


def _curves_in_words(rows: ScalingRows, measure: Measure) -> str:
    """What a reader who cannot see the curves needs: means at the sizes that were tried, and the open weights."""
    scores: dict[str, dict[float, list[float]]] = {}
    for row in rows["points"]:
        scores.setdefault(row["arm"], {}).setdefault(row["subset_size"], []).append(row["score"])
    words = [
        f"{arm}: "
        + ", ".join(f"{measure.show(mean(values))} at {int(size):,} images" for size, values in sorted(found.items()))
        for arm, found in scores.items()
    ]
    return (
        "; ".join([*words, *(f"{row['label']} (open weights): {measure.show(row['score'])}" for row in rows["references"])])
        + "."
    )


def _svg(figure: Any, alt: str, folder: Path, name: str) -> Markup:
    """An inline figure. Ids inside an SVG are made unique to the page, or the figures would borrow each other's clips."""
    text = svg_text(figure)
    for suffix in ("svg", "pdf"):
        save_figure(figure, folder / f"{name}.{suffix}")
    for reference in ('id="', "url(#", 'xlink:href="#'):
        text = text.replace(reference, f"{reference}{name}-")
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))


def _cost_figure(runs: list[Row], arms: Arms, styles: Styles, folder: Path) -> Markup | None:
    rows = cost_rows(runs, arms)
    if not rows:
        return None
    alt = "Seconds by stage: " + "; ".join(f"{row['label']} {row['amount']:,.0f}" for row in rows) + "."
    return _svg(figures.cost_figure(rows, title="Where the time went", styles=styles), alt, folder, "costs")


def _models(tables: AnalysisTables, arms: Arms) -> list[tuple[str, int]]:
    """Open weights, then each arm at its largest size."""
    return [(arm, 0) for arm in open_arms(tables, arms)] + [(a, max(tables.sizes(a))) for a in trained_arms(tables, arms)]


def _size_label(size: int) -> str:
    return "open weights" if size == 0 else f"{size:,} images"


def _model_label(arms: Arms, model: tuple[str, int]) -> str:
    return f"{arms[model[0]]['label']}, {_size_label(model[1])}"


def _score_table(tables: AnalysisTables, arms: Arms, tasks: Mapping[str, str]) -> dict[str, Any]:
    """Scores with their spread, best and not significantly worse in bold; tasks as rows."""
    models, measure = _models(tables, arms), tables.measure
    rows: list[dict[str, Any]] = []
    for task in [*(task for task in tasks if task in tables.tasks()), "average"]:
        bold, untested = best_models(tables, models, task)
        cells = []
        for model in models:
            values = tables.scores(*model, task)
            cell = {"mean": measure.show(mean(values)), "std": measure.show(std(values)), "num": len(values)}
            cells.append({**cell, "bold": model in bold, "untested": model in untested})
        facts = [row for row in tables.results if row["task"] == task]
        rows.append(
            {
                "label": tasks.get(task, "Mean over tasks"),
                "prevalence": "" if task == "average" or not facts else f"{100 * facts[0]['prevalence']:.1f}",
                "positives": "" if task == "average" or not facts else f"{int(facts[0]['num_positives']):,}",
                "cells": cells,
            }
        )
    columns = [{"label": arms[arm]["label"], "size": _size_label(size)} for arm, size in models]
    return {"columns": columns, "rows": rows, "untested": any(c["untested"] for row in rows for c in row["cells"])}


def _write_score_table(folder: Path, name: str, label: str, table: dict[str, Any], measure: Measure) -> None:
    header = ["Task", "Prevalence, %", "Positives", *(f"{c['label']}, {c['size']}" for c in table["columns"])]
    rows = [
        [row["label"], row["prevalence"], row["positives"]]
        + [f"**{c['mean']}**" if c["bold"] else c["mean"] for c in row["cells"]]
        for row in table["rows"]
    ]
    caption = f"{label}: {measure.title}. Bold: best, and not significantly worse than it."
    write_latex(folder / f"{name}_{measure.key}.tex", header, rows, caption)
    plain = [dict(zip(header, [cell.strip("*") for cell in row], strict=True)) for row in rows]
    write_csv(folder / f"{name}_{measure.key}.csv", plain)


def _summary_rows(tables: AnalysisTables, arms: Arms) -> list[dict[str, str]]:
    rows, measure = [], tables.measure
    for arm in trained_arms(tables, arms):
        size, open_arm = max(tables.sizes(arm)), arms[arm]["open_weights_arm"]
        row = tables.comparison((arm, size), (open_arm, 0), "average")
        start, fit, plan = better_from(tables, arms, arm), fit_of(tables, arm, "average"), plan_of(tables, arm, "average")
        rows.append(
            {
                "arm": arms[arm]["label"],
                "open": measure.show(mean(tables.scores(open_arm, 0, "average"))),
                "size": f"{size:,}",
                "best": measure.show(mean(tables.scores(arm, size, "average"))),
                "difference": interval(row, measure=measure) if row else "–",
                "from": "not shown" if start is None else f"{start:,}",
                "beats": beats(fit) if fit else "no fit",
                "more": interval(plan, "gain", measure) if plan is not None and tells(plan, measure) else "cannot be told",
            }
        )
    return rows


def _p_value(value: float, num_bootstrap: float) -> str:
    """Three decimals; a p-value at the floor of the bootstrap is a bound."""
    if math.isnan(value):
        return "–"
    floor = 2 / (num_bootstrap + 1)
    return f"≤ {floor:.3f}" if value <= floor * (1 + 1e-6) else f"{value:.3f}"


def _significance_rows(tables: AnalysisTables, arms: Arms) -> list[dict[str, Any]]:
    """Average and pooled differences of every comparison that was made."""
    rows = []
    for row in tables.comparisons:
        if row["task"] not in ("average", "pooled"):
            continue
        a, b = (row["arm_a"], int(row["size_a"])), (row["arm_b"], int(row["size_b"]))
        rows.append(
            {
                "a": _model_label(arms, a),
                "b": _model_label(arms, b),
                "kind": "mean" if row["task"] == "average" else "pooled",
                "difference": interval(row, measure=tables.measure),
                "p": _p_value(row["p_value"], row["num_bootstrap"]),
                "significant": bool(row["significant"]),
            }
        )
    return rows


def _difference_table(tables: AnalysisTables, arms: Arms, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The forest figure in numbers."""
    return [
        {
            "task": row["task"],
            "arm": row["arm"],
            "difference": interval(row, measure=tables.measure),
            "p": _p_value(row["p_value"], row["num_bootstrap"]),
            "holm": "" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.3f}",
            "significant": bool(row["significant"]),
        }
        for row in difference_rows(tables, arms, names)
    ]


def _fit_rows(tables: AnalysisTables, arms: Arms) -> list[dict[str, str]]:
    rows = []
    for row in (row for row in tables.fits if row["task"] == "average"):
        refused = row["verdict"] == "no fit"
        sizes = f"{int(row['num_encoders'])} from {int(row['min_size']):,} to {int(row['max_size']):,} images"
        rows.append(
            {
                "arm": arms[row["arm"]]["label"],
                "note": row["note"] if refused else "",
                "alpha": tables.measure.show(row["alpha"], 2),
                "exponent": _exponent(row["k"]),
                "k": "–" if refused else "{} [{}, {}]".format(*(_exponent(row[name]) for name in ("k", "k_low", "k_high"))),
                "encoders": sizes,
                "target": tables.measure.show(row["target"]),
                "beats": beats(row),
            }
        )
    return rows


def _exponent(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}".replace("-", "−")  # no negative zero


def _data_plan(tables: AnalysisTables, arms: Arms, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows for the arm with the highest average at its largest size that has a fit."""
    ranked = sorted(
        trained_arms(tables, arms), key=lambda a: -tables.measure.sign * mean(tables.scores(a, max(tables.sizes(a)), "average"))
    )
    for arm in ranked:
        rows = data_plan_rows(tables, arms, names, arm)
        if any(not row["is_average"] for row in rows):
            return rows
    return []


def _largest_gain(tables: AnalysisTables, arms: Arms, tasks: Mapping[str, str]) -> str | None:
    """The task that gained most from the own data, over all arms at their largest size."""
    gains: dict[str, float] = {}
    for arm in trained_arms(tables, arms):
        for task in tables.tasks():
            row = tables.comparison((arm, max(tables.sizes(arm))), (arms[arm]["open_weights_arm"], 0), task)
            if row is not None and task in tasks:
                gains[task] = max(gains.get(task, -math.inf), tables.measure.sign * row["difference"])
    return max(gains, key=lambda task: gains[task]) if len(gains) > 1 else None


def _subgroup_table(tables: AnalysisTables, arms: Arms) -> list[dict[str, Any]]:
    return [
        {
            "model": _model_label(arms, (row["arm"], int(row["subset_size"]))),
            "variable": row["variable"].replace("_", " "),
            "stratum": row["stratum"],
            "auprc": f"{AUPRC.show(row['auprc'])} [{AUPRC.show(row['low'])}, {AUPRC.show(row['high'])}]",
            "auroc": AUPRC.show(row["auroc"]),
            "prevalence": f"{100 * row['prevalence']:.1f}",
            "positives": f"{int(row['num_positives']):,}",
            "tasks": f"{int(row['num_tasks'])}",
            "samples": f"{int(row['num_samples']):,}",
            "small": bool(row["small"]),
        }
        for row in tables.subgroups
    ]


def _similarity(item: Mapping[str, Any], index: int, out: Path) -> dict[str, Any]:
    picture = np.asarray(cv2.imread(str(item["image"]), cv2.IMREAD_GRAYSCALE))
    with np.load(item["maps"], allow_pickle=False) as maps:
        drawn = dict(maps)
    for suffix in ("png", "pdf"):
        figure = figures.similarity_figure(picture, item["point"], drawn)
        path = save_figure(figure, out / "figures" / f"similarity_{index}.{suffix}", dpi=110)
        if suffix == "png":
            uri = _data_uri(path)
    return {**item, "uri": uri, "labels": list(dict.fromkeys(key.rsplit("|", 1)[0] for key in drawn))}


def _sheet(item: Mapping[str, Any]) -> dict[str, Any]:
    """A sheet of X-rays, as JPEG: a page with ten PNGs of them would be mailed by nobody."""
    sheet = cv2.imread(str(item["image"]))
    assert sheet is not None  # a step of the study wrote it
    return {**item, "uri": jpeg_uri(sheet, 85)}


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _agreement(rows: list[Row]) -> list[dict[str, str]]:
    return [
        {
            "source": row["source"],
            "task": str(row["task"]).replace("_", " "),
            **{name: "–" if math.isnan(row[name]) else f"{row[name]:.2f}" for name in ("kappa", "precision", "recall", "f1")},
            **{name: f"{int(row[name]):,}" for name in ("num_compared", "num_predicted", "num_both")},
            "support": f"{int(row['support']):,}",
        }
        for row in rows
    ]


def _costs(rows: list[Row]) -> list[dict[str, str]]:
    """Seconds and memory by stage."""
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(str(row["stage"]), []).append(row)
    return [
        {
            "stage": stage.replace("_", " "),
            "steps": f"{len(found)}",
            "seconds": f"{sum(row['seconds'] for row in found):,.1f}",
            "memory": f"{max(row['peak_memory_gb'] for row in found):.2f}",
        }
        for stage, found in stages.items()
    ]


def _encoder_runs(rows: list[Row], arms: Arms) -> list[dict[str, str]]:
    """Target and achieved compute of every encoder that was trained."""
    shown = []
    for row in rows:
        if not row["arm"] or math.isnan(row["steps"]):
            continue
        target = float(row["target"]) if row["target"] else math.nan
        shown.append(
            {
                "arm": arms[row["arm"]]["label"],
                "size": "all" if math.isnan(row["subset_size"]) or not row["subset_size"] else f"{int(row['subset_size']):,}",
                "replicate": f"{int(row['replicate'])}",
                "steps": f"{int(row['steps']):,}",
                "samples": f"{int(row['samples_seen']):,}",
                "target": _amount(target, str(row["unit"])),
                "achieved": f"{100 * row['achieved'] / target - 100:+.1f} %".replace("-", "−"),
                "seconds": f"{row['seconds']:,.1f}",
                "rate": f"{row['images_per_second']:,.0f}",
            }
        )
    return shown


def _amount(value: float, unit: str) -> str:
    if unit == "flops":
        return f"{value / 1e12:,.2f} TFLOP" if value < 1e15 else f"{value / 1e15:,.2f} PFLOP"
    return f"{value:,.0f} {'images' if unit == 'samples_seen' else 's'}"
