"""The answer page: one HTML file that needs nothing else, with its figures and tables beside it for other uses."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from radscale.html_report import figures
from radscale.html_report.answer import answer_sentences, unknowns
from radscale.html_report.tables import (
    AnalysisTables,
    Row,
    best_models,
    count,
    mean,
    points,
    read_table,
    signed_points,
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
    arms: Mapping[str, Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    """name, label, tasks {key: display name}, headline, note."""
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
    parts = {e["name"]: everything.of(e["name"]) for e in inputs.evaluations}
    evaluations = [_evaluation(inputs, dict(e), parts[e["name"]], out) for e in inputs.evaluations]
    context = {
        "report": inputs,
        "evaluations": evaluations,
        "headline": [e for e in evaluations if e["headline"]] or evaluations[:1],
        "unknowns": unknowns({e["label"]: parts[e["name"]] for e in inputs.evaluations}, inputs.arms),
        "similarity": [_similarity(item, index, out) for index, item in enumerate(inputs.similarity)],
        "gallery": [{**item, "uri": _data_uri(Path(item["image"]))} for item in inputs.gallery],
        "agreement": _agreement(read_table(inputs.agreement)),
        "costs": _costs(read_table(inputs.runs)),
        "runs": _encoder_runs(read_table(inputs.runs), inputs.arms),
        "excluded": inputs.excluded,
        "open_labels": [facts["label"] for facts in inputs.arms.values() if facts["open_weights_arm"] is None],
    }
    for name in AnalysisTables.__dataclass_fields__:
        write_csv(out / "tables" / f"{name}.csv", read_raw(inputs.analysis / f"{name}.csv"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    templates = resources.files("radscale.html_report").joinpath("templates")
    style = templates.joinpath("style.css").read_text(encoding="utf-8")
    template = environment.from_string(templates.joinpath("report.html.j2").read_text(encoding="utf-8"))
    path = out / "report.html"
    path.write_text(template.render(style=Markup(style), **context), encoding="utf-8")
    return path


def read_raw(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV as they are."""
    import csv

    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _evaluation(inputs: ReportInputs, facts: dict[str, Any], tables: AnalysisTables, out: Path) -> dict[str, Any]:
    name, label, tasks = facts["name"], facts["label"], facts["tasks"]
    arms, folder = inputs.arms, out / "figures"
    table = _score_table(tables, arms, tasks)
    _write_score_table(out / "tables", name, label, table)
    forest = figures.forest_figure(tables, arms, tasks, f"{label}: largest subset against the open weights")
    subgroup = figures.subgroup_figure(tables, arms, f"{label}: subgroups")
    largest_gain = _largest_gain(tables, arms, tasks)
    extra = {}
    if largest_gain is not None:
        figure = figures.scaling_figure(
            tables, arms, largest_gain, f"{label}: {tasks[largest_gain]}, the task with the largest gain"
        )
        extra = {"gain_svg": _svg(figure, folder, f"{name}_largest_gain"), "gain_task": tasks[largest_gain]}
    average = figures.scaling_figure(tables, arms, "average", f"{label}: mean of {len(tables.tasks())} tasks")
    return {
        **facts,
        "sentences": answer_sentences(tables, arms, label),
        "summary": _summary_rows(tables, arms),
        "average_svg": _svg(average, folder, f"{name}_scaling"),
        "small_svg": _svg(figures.small_multiples(tables, arms, tasks), folder, f"{name}_tasks"),
        "forest_svg": _svg(forest, folder, f"{name}_differences") if forest is not None else None,
        "subgroup_svg": _svg(subgroup, folder, f"{name}_subgroups") if subgroup is not None else None,
        "subgroups": _subgroup_rows(tables, arms),
        "table": table,
        "significance": _significance_rows(tables, arms),
        "fits": _fit_rows(tables, arms),
        "excluded_tasks": tables.excluded_tasks,
        "num_bootstrap": int(tables.comparisons[0]["num_bootstrap"]) if tables.comparisons else 0,
        **extra,
    }


def _svg(figure: Any, folder: Path, name: str) -> Markup:
    """An inline figure. Ids inside an SVG are made unique to the page, or the figures would borrow each other's clips."""
    text = figures.save(figure, folder, name)
    for reference in ('id="', "url(#", 'xlink:href="#'):
        text = text.replace(reference, f"{reference}{name}-")
    return Markup(text.replace("<svg ", '<svg aria-hidden="true" ', 1))


def _models(tables: AnalysisTables, arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Open weights, then each arm at its largest size."""
    models = [(arm, 0) for arm, facts in arms.items() if facts["open_weights_arm"] is None and tables.sizes(arm)]
    return models + [
        (arm, max(tables.sizes(arm)))
        for arm, facts in arms.items()
        if facts["open_weights_arm"] is not None and tables.sizes(arm)
    ]


def _model_label(arms: Mapping[str, Mapping[str, Any]], model: tuple[str, int]) -> str:
    arm, size = model
    return f"{arms[arm]['label']}, open weights" if size == 0 else f"{arms[arm]['label']}, {size:,} images"


def _score_table(tables: AnalysisTables, arms: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, str]) -> dict[str, Any]:
    """Tables 2 and 3 of the paper: AUPRC with its spread over seeds, best and not significantly worse in bold."""
    models = _models(tables, arms)
    rows = []
    for task in [*(task for task in tasks if task in tables.tasks()), "average"]:
        bold = best_models(tables, models, task)
        cells = []
        for model in models:
            values = tables.scores(*model, task)
            cells.append({"mean": points(mean(values)), "std": points(std(values)), "bold": model in bold})
        facts = [row for row in tables.results if row["task"] == task]
        rows.append(
            {
                "label": tasks.get(task, "Average (macro)"),
                "prevalence": "" if task == "average" or not facts else f"{100 * facts[0]['prevalence']:.1f} %",
                "positives": "" if task == "average" or not facts else f"{int(facts[0]['num_positives']):,}",
                "cells": cells,
            }
        )
    return {"columns": [_model_label(arms, model) for model in models], "rows": rows}


def _write_score_table(folder: Path, name: str, label: str, table: dict[str, Any]) -> None:
    header = ["Task", "Prevalence", *table["columns"]]
    rows = [
        [row["label"], row["prevalence"], *(f"**{c['mean']}**" if c["bold"] else c["mean"] for c in row["cells"])]
        for row in table["rows"]
    ]
    write_latex(folder / f"{name}_auprc.tex", header, rows, f"{label}: AUPRC. Bold: best, and not significantly worse than it.")
    plain = [dict(zip(header, [cell.strip("*") for cell in row], strict=True)) for row in rows]
    write_csv(folder / f"{name}_auprc.csv", plain)


def _summary_rows(tables: AnalysisTables, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for arm, facts in arms.items():
        open_arm = facts["open_weights_arm"]
        if open_arm is None or not tables.sizes(arm):
            continue
        size = max(tables.sizes(arm))
        row = tables.comparison((arm, size), (open_arm, 0), "average")
        fit = next((f for f in tables.fits if f["arm"] == arm and f["task"] == "average"), None)
        rows.append(
            {
                "arm": facts["label"],
                "open": points(mean(tables.scores(open_arm, 0, "average"))),
                "best": f"{points(mean(tables.scores(arm, size, 'average')))} ({size:,} images)",
                "difference": _interval(row) if row else "–",
                "needed": _needed(fit) if fit else "–",
            }
        )
    return rows


def _interval(row: Row) -> str:
    return f"{signed_points(row['difference'])} [{signed_points(row['low'])}, {signed_points(row['high'])}]"


def _needed(fit: Row) -> str:
    if math.isnan(fit["samples_needed"]):
        return "no fit"
    estimate = f"≤ {count(fit['min_size'])}" if fit["verdict"] == "below smallest" else count(fit["samples_needed"])
    return f"{estimate} [{count(fit['samples_low'])} to {count(fit['samples_high'])}]"


def _significance_rows(tables: AnalysisTables, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
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
                "kind": "mean over tasks" if row["task"] == "average" else "pooled (paper)",
                "difference": _interval(row),
                "p": f"{row['p_value']:.3f}",
                "significant": bool(row["significant"]),
            }
        )
    return rows


def _fit_rows(tables: AnalysisTables, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    rows = []
    for row in tables.fits:
        if row["task"] != "average":
            continue
        refused = row["verdict"] == "no fit"
        rows.append(
            {
                "arm": arms[row["arm"]]["label"],
                "law": row["note"] if refused else f"{row['alpha']:.4f} · n^{row['k']:.4f}",
                "k": "–" if refused else f"[{row['k_low']:.4f}, {row['k_high']:.4f}]",
                "encoders": f"{int(row['num_encoders'])}",
                "needed": _needed(row),
                "verdict": row["verdict"],
            }
        )
    return rows


def _largest_gain(tables: AnalysisTables, arms: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, str]) -> str | None:
    """The task that gained most from the own data, over all arms at their largest size."""
    gains: dict[str, float] = {}
    for arm, facts in arms.items():
        if facts["open_weights_arm"] is None or not tables.sizes(arm):
            continue
        for task in tables.tasks():
            row = tables.comparison((arm, max(tables.sizes(arm))), (facts["open_weights_arm"], 0), task)
            if row is not None and task in tasks:
                gains[task] = max(gains.get(task, -math.inf), row["difference"])
    return max(gains, key=lambda task: gains[task]) if len(gains) > 1 else None


def _subgroup_rows(tables: AnalysisTables, arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "model": _model_label(arms, (row["arm"], int(row["subset_size"]))),
            "variable": row["variable"].replace("_", " "),
            "stratum": row["stratum"],
            "auprc": f"{points(row['auprc'])} [{points(row['low'])}, {points(row['high'])}]",
            "auroc": points(row["auroc"]),
            "prevalence": f"{100 * row['prevalence']:.1f} %",
            "positives": f"{int(row['num_positives']):,}",
            "samples": f"{int(row['num_samples']):,}",
            "small": bool(row["small"]),
        }
        for row in tables.subgroups
    ]


def _similarity(item: Mapping[str, Any], index: int, out: Path) -> dict[str, Any]:
    picture = np.asarray(cv2.imread(str(item["image"]), cv2.IMREAD_GRAYSCALE))
    with np.load(item["maps"], allow_pickle=False) as maps:
        figure = figures.similarity_figure(picture, item["point"], dict(maps))
    name = f"similarity_{index}"
    import matplotlib.pyplot as plt

    figure.savefig(out / "figures" / f"{name}.png", dpi=110, metadata={"Software": None})
    figure.savefig(out / "figures" / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    plt.close(figure)
    labels = list(dict.fromkeys(key.rsplit("|", 1)[0] for key in np.load(item["maps"], allow_pickle=False).files))
    return {**item, "uri": _data_uri(out / "figures" / f"{name}.png"), "labels": labels}


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _agreement(rows: list[Row]) -> list[dict[str, str]]:
    return [
        {
            "source": row["source"],
            "task": str(row["task"]).replace("_", " "),
            **{name: "–" if math.isnan(row[name]) else f"{row[name]:.2f}" for name in ("precision", "recall", "f1")},
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


def _encoder_runs(rows: list[Row], arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
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
