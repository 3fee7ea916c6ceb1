"""Figures of the answer page, as SVG and PDF. Every number in them comes from the analysis tables."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from radscale.html_report.tables import AnalysisTables, Row, mean

# Okabe and Ito's palette, which colour-blind readers can tell apart; shapes tell arms apart without colour too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
OPEN_STYLES = ((0, (5, 2)), (0, (1, 1.4)), (0, (4, 1.5, 1, 1.5)))
GREY = "#6b7280"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "text.color": "#111827",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "legend.frameon": False,
    "svg.hashsalt": "radscale",
    "svg.fonttype": "none",
    "figure.facecolor": "white",
}
Arms = Mapping[str, Mapping[str, Any]]


def arm_style(arms: Arms, arm: str) -> dict[str, Any]:
    """Colour and marker of an arm, the same in all figures; open weights are dashed grey."""
    trained = [name for name, facts in arms.items() if facts["open_weights_arm"] is not None]
    if arm in trained:
        index = trained.index(arm)
        return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    index = [name for name in arms if name not in trained].index(arm)
    return {"color": GREY, "linestyle": OPEN_STYLES[index % len(OPEN_STYLES)]}


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write NAME.svg and NAME.pdf; returns the SVG for the page. No dates: the same tables give the same bytes."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):  # its hash salt decides the ids in the file
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        figure.savefig(
            folder / f"{name}.pdf", bbox_inches="tight", metadata={"CreationDate": None, "Creator": None, "Producer": None}
        )
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    start, end = text.index("<metadata>"), text.index("</metadata>") + len("</metadata>")
    text = text[:start] + text[end:]
    (folder / f"{name}.svg").write_text('<?xml version="1.0" encoding="utf-8"?>\n' + text, encoding="utf-8")
    return text


def _size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(sizes) / 1.25, max(sizes) * 10 * 1.05)


def short_count(value: float) -> str:
    """`30k`, `3.5M` for axes."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def draw_scaling(axes: Axes, tables: AnalysisTables, arms: Arms, task: str, *, small: bool = False) -> None:
    """One task: a point per encoder, fitted curve with its 95 % interval, extrapolation dashed, open weights as lines."""
    sizes: set[int] = set()
    for arm, facts in arms.items():
        if facts["open_weights_arm"] is None:
            level = mean(tables.scores(arm, 0, task))
            if not math.isnan(level):
                axes.axhline(100 * level, lw=1.1, zorder=1, label=f"{facts['label']}: open weights", **arm_style(arms, arm))
            continue
        style = arm_style(arms, arm)
        encoders = tables.encoder_scores(arm, task)
        sizes |= {size for size, _ in encoders}
        axes.plot(
            [size for size, _ in encoders],
            [100 * score for _, score in encoders],
            ls="",
            marker=style["marker"],
            color=style["color"],
            ms=3 if small else 5,
            mec="white",
            mew=0.5,
            zorder=4,
            label=facts["label"],
        )
        curve = [row for row in tables.curves if row["arm"] == arm and row["task"] == task]
        if not curve:
            continue
        for beyond in (False, True):
            part = [row for row in curve if bool(row["extrapolated"]) == beyond]
            if beyond and part:
                part = [max((row for row in curve if not row["extrapolated"]), key=lambda row: row["subset_size"]), *part]
            x = [row["subset_size"] for row in part]
            axes.plot(
                x,
                [100 * row["estimate"] for row in part],
                color=style["color"],
                lw=1.4,
                ls=(0, (3, 2)) if beyond else "-",
                zorder=3,
            )
            low, high = [100 * row["low"] for row in part], [100 * row["high"] for row in part]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.06 if beyond else 0.14, lw=0, zorder=2)
    if sizes:
        _size_axis(axes, sorted(sizes))
    _limit_height(axes, tables, arms, task)


def _limit_height(axes: Axes, tables: AnalysisTables, arms: Arms, task: str) -> None:
    """Let the data decide the scale: intervals of an extrapolation may leave the frame."""
    values = [100 * row["auprc"] for row in tables.results if row["task"] == task]
    curve = [100 * row["estimate"] for row in tables.curves if row["task"] == task]
    if values:
        low, high = min(values), max([*values, *curve])
        margin = max(0.12 * (high - low), 0.5)
        axes.set_ylim(max(0, low - margin), min(100, high + margin))


def scaling_figure(tables: AnalysisTables, arms: Arms, task: str, title: str) -> Figure:
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 4.0))
        draw_scaling(axes, tables, arms, task)
        axes.set_xlabel("training images of the own centre (log scale); dashed: extrapolated")
        axes.set_ylabel("AUPRC")
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5)
    return figure


def small_multiples(tables: AnalysisTables, arms: Arms, names: Mapping[str, str]) -> Figure:
    """All tasks, each on its own scale."""
    tasks = [task for task in names if task in tables.tasks()]
    columns = min(4, max(len(tasks), 1))
    rows = -(-len(tasks) // columns)
    with mpl.rc_context({**STYLE, "font.size": 7.5}):
        figure, grid = plt.subplots(rows, columns, figsize=(2.55 * columns, 1.9 * rows), squeeze=False, layout="constrained")
        for axes in grid.flat[len(tasks) :]:
            axes.axis("off")
        for axes, task in zip(grid.flat, tasks, strict=False):
            draw_scaling(axes, tables, arms, task, small=True)
            prevalence = mean([row["prevalence"] for row in tables.results if row["task"] == task])
            axes.set_title(f"{names[task]} ({100 * prevalence:.1f} %)", fontsize=8, loc="left")
    return figure


def forest_figure(tables: AnalysisTables, arms: Arms, names: Mapping[str, str], title: str) -> Figure | None:
    """Largest subset against its open weights, task by task, with 95 % intervals."""
    trained = [arm for arm, facts in arms.items() if facts["open_weights_arm"] is not None and tables.sizes(arm)]
    tasks = ["average", *(task for task in names if task in tables.tasks())]
    found: dict[str, dict[str, Row]] = {}
    for arm in trained:
        size = max(tables.sizes(arm))
        open_weights = (arms[arm]["open_weights_arm"], 0)
        rows = ((task, tables.comparison((arm, size), open_weights, task)) for task in tasks)
        found[arm] = {task: row for task, row in rows if row is not None}
    if not any(found.values()):
        return None
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 0.6 + 0.30 * len(tasks)))
        for index, (arm, by_task) in enumerate(found.items()):
            style = arm_style(arms, arm)
            shift = (index - (len(found) - 1) / 2) * 0.22
            for place, task in enumerate(tasks):
                if task not in by_task:
                    continue
                row = by_task[task]
                solid = bool(row["significant"])
                axes.plot(
                    [100 * row["low"], 100 * row["high"]],
                    [place + shift] * 2,
                    color=style["color"],
                    lw=1.2,
                    alpha=1 if solid else 0.45,
                )
                axes.plot(
                    100 * row["difference"],
                    place + shift,
                    marker=style["marker"],
                    color=style["color"],
                    mfc=style["color"] if solid else "white",
                    ms=4.5,
                    ls="",
                    label=arms[arm]["label"] if place == 0 else None,
                )
        axes.axvline(0, color="#374151", lw=0.9)
        axes.set_yticks(range(len(tasks)), ["average (macro)", *(names[task] for task in tasks[1:])])
        axes.invert_yaxis()
        axes.axhline(0.5, color="#d1d5db", lw=0.8)
        axes.set_xlabel("difference in AUPRC points to the open weights; filled: 95 % interval excludes zero")
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5)
    return figure


def subgroup_figure(tables: AnalysisTables, arms: Arms, title: str) -> Figure | None:
    """Macro AUPRC within strata, with intervals; small strata are hollow."""
    variables = list(dict.fromkeys(row["variable"] for row in tables.subgroups))
    if not variables:
        return None
    groups = {v: list(dict.fromkeys(row["stratum"] for row in tables.subgroups if row["variable"] == v)) for v in variables}
    shown = [arm for arm in arms if any(row["arm"] == arm for row in tables.subgroups)]
    with mpl.rc_context(STYLE):
        widths = [len(groups[v]) + 0.6 for v in variables]
        figure, grid = plt.subplots(
            1,
            len(variables),
            figsize=(max(7.2, 0.75 * sum(widths)), 3.3),
            sharey=True,
            width_ratios=widths,
            squeeze=False,
            layout="constrained",
        )
        for axes, variable in zip(grid[0], variables, strict=True):
            for index, arm in enumerate(shown):
                style = arm_style(arms, arm)
                for place, stratum in enumerate(groups[variable]):
                    rows = [r for r in tables.subgroups if (r["arm"], r["variable"], r["stratum"]) == (arm, variable, stratum)]
                    if not rows:
                        continue
                    row, x = rows[0], place + (index - (len(shown) - 1) / 2) * 0.14
                    axes.plot([x, x], [100 * row["low"], 100 * row["high"]], color=style["color"], lw=1.1, alpha=0.7)
                    axes.plot(
                        x,
                        100 * row["auprc"],
                        marker=style.get("marker", "_"),
                        color=style["color"],
                        mfc="white" if row["small"] else style["color"],
                        ms=4.5,
                        ls="",
                        label=arms[arm]["label"] if place == 0 else None,
                    )
            labels = [_wrapped(stratum) for stratum in groups[variable]]
            axes.set_xticks(range(len(labels)), labels, fontsize=7.5, rotation=0 if len(labels) < 4 else 40)
            axes.set_xlim(-0.6, len(labels) - 0.4)
            axes.set_title(variable.replace("_", " "), fontsize=9, loc="left")
            axes.grid(axis="x", visible=False)
        grid[0][0].set_ylabel("AUPRC, mean over tasks")
        grid[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _wrapped(text: str) -> str:
    return text.replace(" Corporation", "").replace(" Healthcare", "").replace(" Health", "").replace(" Inc.", "")


def similarity_figure(picture: np.ndarray, point: tuple[int, int], maps: Mapping[str, np.ndarray]) -> Figure:
    """The image with its query point, and per encoder the similarity of every patch in four layers (paper, Figure 1)."""
    labels = list(dict.fromkeys(name.rsplit("|", 1)[0] for name in maps))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(len(labels), 5, figsize=(8.6, 1.75 * len(labels)), squeeze=False, layout="constrained")
        for row, label in enumerate(labels):
            grid[row][0].imshow(picture, cmap="gray", interpolation="bilinear")
            grid[row][0].plot(point[1], point[0], marker="s", mfc="none", mec="#e11d48", mew=1.6, ms=7)
            grid[row][0].set_ylabel("\n".join(_lines(label)), fontsize=7.5)
            for layer in range(4):
                axes = grid[row][layer + 1]
                values = maps[f"{label}|{layer}"]
                axes.imshow(picture, cmap="gray", interpolation="bilinear", extent=(0, 1, 1, 0))
                axes.imshow(
                    values,
                    cmap="magma",
                    vmin=min(0.0, float(values.min())),
                    vmax=1,
                    alpha=0.72,
                    extent=(0, 1, 1, 0),
                    interpolation="bilinear",
                )
                if row == 0:
                    axes.set_title(f"layer {layer + 1}", fontsize=8)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    return figure


def _lines(label: str) -> list[str]:
    return label.replace(" (", "\n(").split("\n")
