"""Figures for pages and papers: plain rows in, a matplotlib figure out; `save_figure` writes it.

`low` and `high` may be missing, None or NaN everywhere: then no interval is drawn, and nothing counts as shown.

A row is a mapping or a dataclass; columns that a figure does not know are ignored, and the docstrings list those that it does.
`arm` and `task` are the names that the reader sees. Scores are drawn times `scale`: 100 turns shares into points.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from matplotlib.transforms import blended_transform_factory

from radscale.analysis.measures import AUPRC
from radscale.errors import InputError
from radscale.html_report.style import FAINT, GREY, INK, STYLE, ArmStyle, arm_styles, as_row, save_figure

__all__ = [
    "continuity_figure",
    "cost_figure",
    "data_plan_figure",
    "forest_figure",
    "gain_by_cost_figure",
    "save_figure",
    "scaling_figure",
    "scaling_grid",
    "similarity_figure",
    "subgroup_figure",
]
Rows = Iterable[Any]
Styles = Mapping[str, ArmStyle] | None
TITLE: Any = {"loc": "left", "fontsize": 10.5, "fontweight": "bold", "pad": 8}
IMAGES = "training images of the own centre (log scale)"
POINTS = "AUPRC, points"


def scaling_figure(
    points: Rows,
    curves: Rows = (),
    references: Rows = (),
    *,
    title: str = "",
    xlabel: str = IMAGES,
    ylabel: str = POINTS,
    scale: float = 100.0,
    styles: Styles = None,
) -> Figure:
    """Scaling curves of one task: encoders as points, fitted curves with their bands, open weights as lines.

    Args:
        points: `arm, subset_size, score` and optionally `replicate`. Rows of one arm, size and replicate are seeds of one
            encoder: their mean is one point. Without `replicate` every row is an encoder. Arms at one size stand side by side.
        curves: `arm, subset_size, estimate, low, high, extrapolated`. Extrapolated parts are dashed, with a lighter band.
        references: `label, score` and optionally `low, high`: horizontal lines, with a band where limits are given.
        title: of the figure; papers leave it empty.
        xlabel: of the sizes.
        ylabel: of the scores.
        scale: factor of all scores.
        styles: by arm and reference label, from `arm_styles`; None makes them.

    Raises:
        InputError: no points.
    """
    drawn = _Scaling(points, curves, references, scale, styles)
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.4, 4.1))
        axes = figure.add_axes((0.08, 0.13, 0.66, 0.76))
        drawn.draw(axes)
        _size_axis(axes, drawn)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if drawn.extrapolates:
            _mark_extrapolation(axes, drawn.largest)
        _direct_labels(axes, drawn.labels())
        if title:
            axes.set_title(title, **TITLE)
    return figure


def scaling_grid(
    panels: Sequence[Mapping[str, Any]],
    *,
    columns: int = 4,
    ylabel: str = POINTS,
    xlabel: str = IMAGES,
    scale: float = 100.0,
    styles: Styles = None,
) -> Figure:
    """Small multiples of `scaling_figure`, each task on its own scale, with one legend.

    Args:
        panels: `title, points, curves, references` each, as in `scaling_figure`.
        columns: panels side by side.
        ylabel: of all scores.
        xlabel: of all sizes.
        scale: factor of all scores.
        styles: as in `scaling_figure`.

    Raises:
        InputError: no panels, or one without points.
    """
    if not panels:
        raise InputError("no task to draw; give at least one panel")
    parts = [_Scaling(p["points"], p["curves"], p["references"], scale, styles) for p in panels]
    columns = min(columns, len(parts))
    rows = -(-len(parts) // columns)
    with mpl.rc_context({**STYLE, "font.size": 7.5, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5}):
        figure, grid = plt.subplots(rows, columns, figsize=(2.3 * columns, 1.75 * rows + 0.5), squeeze=False)
        height = figure.get_figheight()
        figure.subplots_adjust(
            left=0.6 / (2.3 * columns), right=0.99, top=1 - 0.6 / height, bottom=0.55 / height, hspace=0.5, wspace=0.3
        )
        for axes in grid.flat[len(parts) :]:
            axes.axis("off")
        for axes, part, panel in zip(grid.flat[: len(parts)], parts, panels, strict=True):
            part.draw(axes, marker_size=3.2)
            _size_axis(axes, part, gap=0.16)
            _fit_width(axes.set_title(panel["title"], loc="left", fontsize=7.5, pad=4), axes)
            if part.extrapolates:
                axes.axvspan(part.largest, axes.get_xlim()[1], color="#94a3b8", alpha=0.10, lw=0, zorder=0)
        handles: dict[str, Line2D] = {}
        for part in parts:
            handles |= part.handles()
        figure.legend(
            handles.values(), handles, loc="upper left", ncols=3, bbox_to_anchor=(0.01, 1), fontsize=7.5, columnspacing=1.6
        )
        figure.supxlabel(f"{xlabel}; shaded and dashed: extrapolated", fontsize=8, y=0.1 / height)
        figure.supylabel(ylabel, fontsize=8, x=0.005)
    return figure


def _fit_width(title: Text, axes: Axes) -> None:
    """Shrinks a title that would run into its right neighbour's."""
    # The next panel begins at 1.3 widths; letters are up to 7 % wider in a 200 dpi file than measured here.
    room = 1.1 * axes.get_window_extent().width
    width = title.get_window_extent().width
    if width > room:
        title.set_fontsize(float(title.get_fontsize()) * room / width)


class _Scaling:
    """Rows of one scaling plot in the units of the plot."""

    def __init__(self, points: Rows, curves: Rows, references: Rows, scale: float, styles: Styles) -> None:
        self.encoders = _encoders([as_row(row) for row in points], scale)
        if not any(self.encoders.values()):
            raise InputError("no point to draw; rows with arm, subset_size above 0 and score are needed")
        self.curves: dict[str, list[dict[str, float]]] = {}
        for row in map(as_row, curves):
            values = {
                "estimate": scale * float(row["estimate"]),
                **dict(zip(("low", "high"), _limits(row, scale), strict=True)),
            }
            values |= {"size": float(row["subset_size"]), "beyond": float(row["extrapolated"])}
            self.curves.setdefault(str(row["arm"]), []).append(values)
        self.references = {
            str(row["label"]): (scale * float(row["score"]), *_limits(row, scale))
            for row in map(as_row, references)
            if math.isfinite(_number(row["score"]))
        }
        self.sizes = sorted({size for found in self.encoders.values() for size, _ in found})
        self.largest = self.sizes[-1]
        self.extrapolates = any(point["beyond"] for curve in self.curves.values() for point in curve)
        self.styles = arm_styles(list(self.encoders), list(self.references)) if styles is None else styles

    def draw(self, axes: Axes, marker_size: float = 5.2) -> None:
        for label, (score, low, high) in self.references.items():
            style = self.styles[label]
            if math.isfinite(low) and math.isfinite(high):
                axes.axhspan(low, high, color=style.colour, alpha=0.09, lw=0, zorder=1)
            axes.axhline(score, color=style.colour, ls=style.dashes, lw=1.1, zorder=2)
        for arm, curve in self.curves.items():
            inside = [point for point in curve if not point["beyond"]]
            beyond = [point for point in curve if point["beyond"]]
            for part, dashes, alpha in ((inside, "-", 0.17), (inside[-1:] + beyond, (0, (3, 2)), 0.07)):
                x = [point["size"] for point in part]
                colour = self.styles[arm].colour
                axes.plot(x, [point["estimate"] for point in part], color=colour, lw=1.5, ls=dashes, zorder=4)
                low_limits, high_limits = ([point[name] for point in part] for name in ("low", "high"))
                axes.fill_between(x, low_limits, high_limits, color=colour, alpha=alpha, lw=0, zorder=3)
        for index, (arm, found) in enumerate(self.encoders.items()):
            # Arms at one size stand side by side, as equal scores would hide each other.
            shift = 1.035 ** (index - (len(self.encoders) - 1) / 2)
            axes.plot(
                [size * shift for size, _ in found],
                [score for _, score in found],
                ls="",
                marker=self.styles[arm].marker,
                color=self.styles[arm].colour,
                ms=marker_size,
                mec="white",
                mew=0.5,
                zorder=5,
            )
        axes.set_ylim(*self.limits())

    def limits(self) -> tuple[float, float]:
        """The data decide the scale: bands may leave the frame, and a curve may too once it is far from all data."""
        values = [score for found in self.encoders.values() for _, score in found]
        values += [value for reference in self.references.values() for value in reference if math.isfinite(value)]
        low, high = min(values), max(values)
        height = max(high - low, 1e-9 * max(abs(high), 1.0))
        ends = [point["estimate"] for curve in self.curves.values() for point in curve]
        low, high = (
            min(low, max(min(ends, default=low), low - height)),
            max(high, min(max(ends, default=high), high + height)),
        )
        margin = max(0.10 * (high - low), 0.002 * abs(high), 1e-12)
        return low - margin, high + margin

    def labels(self) -> list[tuple[float, str, str]]:
        """(height at the right edge, text, colour) of each line."""
        found = []
        for arm, points in self.encoders.items():
            curve = self.curves.get(arm)
            height = curve[-1]["estimate"] if curve else max(points)[1]
            found.append((height, arm, self.styles[arm].text))
        for label, (score, _, _) in self.references.items():
            found.append((score, f"{label}\n(open weights, {score:.3g})", self.styles[label].text))
        return found

    def handles(self) -> dict[str, Line2D]:
        """For a legend."""
        found = {}
        for arm in self.encoders:
            style = self.styles[arm]
            found[arm] = Line2D([], [], color=style.colour, marker=style.marker, lw=1.4, ms=4, mec="white", mew=0.4)
        for label in self.references:
            found[f"{label} (open weights)"] = Line2D(
                [], [], color=self.styles[label].colour, ls=self.styles[label].dashes, lw=1.1
            )
        return found


def _encoders(rows: list[Mapping[str, Any]], scale: float) -> dict[str, list[tuple[float, float]]]:
    """(size, mean over seeds) of every encoder, by arm."""
    seeds: dict[str, dict[tuple[float, Any], list[float]]] = {}
    for number, row in enumerate(rows):
        if float(row["subset_size"]) > 0 and math.isfinite(_number(row["score"])):
            key = (float(row["subset_size"]), row.get("replicate", f"row {number}"))
            seeds.setdefault(str(row["arm"]), {}).setdefault(key, []).append(scale * float(row["score"]))
    return {arm: [(size, float(np.mean(v))) for (size, _), v in found.items()] for arm, found in seeds.items()}


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)


def _limits(row: Mapping[str, Any], scale: float) -> tuple[float, float]:
    """Low and high in the units of the figure; NaN draws nothing."""
    return scale * _number(row.get("low")), scale * _number(row.get("high"))


def _size_axis(axes: Axes, drawn: _Scaling, gap: float = 0.11) -> None:
    """Ticks at the sizes that were tried and, beyond them, at decades; at least `gap` of the axis apart."""
    end = max([drawn.largest, *(point["size"] for curve in drawn.curves.values() for point in curve)])
    axes.set_xscale("log")
    axes.set_xlim(drawn.sizes[0] / 1.3, end * (1.02 if drawn.extrapolates else 1.3))
    span = math.log(axes.get_xlim()[1] / axes.get_xlim()[0])
    decades = [10.0**n for n in range(0, 16) if drawn.largest < 10.0**n <= end]
    ticks: list[float] = []
    for size in [*drawn.sizes, *([end] if drawn.extrapolates else []), *decades]:
        if all(abs(math.log(size / other)) > gap * span for other in ticks):
            ticks.append(size)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def short_count(value: float) -> str:
    """`900`, `30k`, `3.5M` for axes."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit * (1 - 1e-9):
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _mark_extrapolation(axes: Axes, largest: float) -> None:
    end = axes.get_xlim()[1]
    axes.axvspan(largest, end, color="#94a3b8", alpha=0.10, lw=0, zorder=0)
    place = blended_transform_factory(axes.transData, axes.transAxes)
    axes.text(math.sqrt(largest * end), 1.015, "extrapolated", transform=place, ha="center", fontsize=7.5, color=GREY)


def _direct_labels(axes: Axes, labels: list[tuple[float, str, str]], size: float = 8.0) -> None:
    """Texts at the right edge, each at the height of its line or as near as its neighbours allow, with a leader."""
    low, high = axes.get_ylim()
    height_points = axes.get_window_extent().height * 72 / axes.figure.dpi
    ordered = sorted(labels, key=lambda item: item[0])
    heights = [(min(max(value, low), high) - low) / (high - low) * height_points for value, _, _ in ordered]
    rooms = [size * 1.25 * (text.count("\n") + 1) + 1.5 for _, text, _ in ordered]
    for (_, text, colour), wish, height in zip(ordered, heights, spread(heights, rooms), strict=True):
        ends = [wish / height_points, height / height_points]
        axes.plot([1.003, 1.025], ends, transform=axes.transAxes, color=colour, lw=0.8, clip_on=False)
        axes.text(1.032, ends[1], text, transform=axes.transAxes, va="center", fontsize=size, color=colour, linespacing=1.15)


def spread(wishes: Sequence[float], rooms: Sequence[float]) -> list[float]:
    """Centres of labels in rising order, as near to their wishes as they can be without overlap.

    Pools neighbours that collide and centres each pool on the mean wish of its members (isotonic regression).
    """
    offsets = np.concatenate([[0.0], np.cumsum([(a + b) / 2 for a, b in itertools.pairwise(rooms)])])
    pools: list[list[float]] = []
    for wish, offset in zip(wishes, offsets, strict=False):
        pools.append([wish - offset])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    starts = [float(np.mean(pool)) for pool in pools for _ in pool]
    return [start + float(offset) for start, offset in zip(starts, offsets, strict=False)]


def forest_figure(
    rows: Rows,
    *,
    title: str = "",
    xlabel: str = "difference in AUPRC, points",
    sides: tuple[str, str] = ("open weights better", "own data better"),
    scale: float = 100.0,
    styles: Styles = None,
    alpha: float = 0.05,
) -> Figure:
    """Differences per task with their intervals; tasks by falling mean difference, averages on top.

    Filled: the interval excludes zero. A star: still significant after Holm's correction over tasks.

    Args:
        rows: `arm, task, difference, low, high` and optionally `p_holm`, `is_average`. `arm` names the comparison.
        title: of the figure.
        xlabel: of the differences.
        sides: what a negative and a positive difference mean.
        scale: factor of differences and limits.
        styles: by arm.
        alpha: level of the stars.

    Raises:
        InputError: no rows.
    """
    table = [as_row(row) for row in rows]
    if not table:
        raise InputError("no differences to draw; rows with arm, task, difference, low, high are needed")
    arms = list(dict.fromkeys(str(row["arm"]) for row in table))
    styles = styles or arm_styles(arms)
    averages = list(dict.fromkeys(str(row["task"]) for row in table if row.get("is_average")))
    by_task: dict[str, list[float]] = {}
    for row in table:
        if not row.get("is_average"):
            by_task.setdefault(str(row["task"]), []).append(float(row["difference"]))
    tasks = [*averages, *sorted(by_task, key=lambda task: -float(np.mean(by_task[task])))]
    pitch = max(0.24, 0.10 * len(arms) + 0.06)
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.4, pitch * len(tasks) + 1.3))
        height = figure.get_figheight()
        axes = figure.add_axes((0.30, 0.55 / height, 0.68, 1 - 1.3 / height))
        for row in table:
            style, place = styles[str(row["arm"])], tasks.index(str(row["task"]))
            y = place + (arms.index(str(row["arm"])) - (len(arms) - 1) / 2) * 0.72 / max(len(arms), 2)
            difference, (low, high) = scale * float(row["difference"]), _limits(row, scale)
            outside = low > 0 or high < 0
            axes.plot([low, high], [y, y], color=style.colour, lw=1.3, alpha=1 if outside else 0.6, solid_capstyle="butt")
            axes.plot(
                difference, y, ls="", marker=style.marker, color=style.colour, ms=4.6, mfc=style.colour if outside else "white"
            )
            if _number(row.get("p_holm")) < alpha:
                axes.annotate(
                    "★",
                    (high if math.isfinite(high) else difference, y),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                    color=style.text,
                    annotation_clip=False,
                )
        axes.axvline(0, color=INK, lw=0.9, zorder=1)
        axes.set_yticks(range(len(tasks)), tasks)
        for label in axes.get_yticklabels()[: len(averages)]:
            label.set_fontweight("bold")
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        if averages:
            axes.axhline(len(averages) - 0.5, color=FAINT, lw=0.8)
        for place in range(len(averages), len(tasks), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="#94a3b8", alpha=0.07, lw=0, zorder=0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(xlabel)
        _two_sides(axes, sides, height)
        _legend_above(figure, axes, [_marker(arm, styles[arm]) for arm in arms], title)
    return figure


def _two_sides(axes: Axes, sides: tuple[str, str], height: float) -> None:
    place = blended_transform_factory(axes.transData, axes.transAxes)
    up = 1 + 0.06 / height
    low, high = axes.get_xlim()
    zero = -low / (high - low)
    for side, text, align, share in ((-1, f"◂ {sides[0]}", "right", zero), (1, f"{sides[1]} ▸", "left", 1 - zero)):
        if share > 0.15:
            axes.text(side * 0.012 * (high - low), up, text, transform=place, ha=align, va="bottom", fontsize=7.5, color=GREY)


def _marker(label: str, style: ArmStyle) -> Line2D:
    return Line2D([], [], ls="", marker=style.marker, color=style.colour, ms=5, label=label)


def _legend_above(figure: Figure, axes: Axes, handles: list[Line2D], title: str) -> None:
    """Title, then the legend in a line above the axes."""
    height = figure.get_figheight()
    if title:
        figure.text(0.01, 1 - 0.05 / height, title, fontsize=10.5, fontweight="bold", va="top")
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.27 / height),
        ncols=3,
        columnspacing=1.4,
        handletextpad=0.3,
        borderaxespad=0.0,
    )


def subgroup_figure(
    rows: Rows,
    *,
    title: str = "",
    xlabel: str = "AUPRC, points, mean over tasks",
    value: str = "auprc",
    scale: float = 100.0,
    styles: Styles = None,
    open_weights: Collection[str] = (),
) -> Figure:
    """One line per stratum, arms one under the other, images and positives beside it; small strata are hollow and grey.

    Args:
        rows: `variable, stratum, arm, auprc, low, high, num_samples, num_positives, small`; `low` and `high` may be missing.
        title: of the figure.
        xlabel: of the scores.
        value: the column to draw, e.g. `auroc`; limits are drawn with `auprc` only, as they are its limits.
        scale: factor of the scores.
        styles: by arm.
        open_weights: arms that are open weights, for the default styles.

    Raises:
        InputError: no rows.
    """
    table = [as_row(row) for row in rows]
    if not table:
        raise InputError("no subgroups to draw; rows with variable, stratum, arm, auprc are needed")
    arms = list(dict.fromkeys(str(row["arm"]) for row in table))
    styles = styles or arm_styles(
        [arm for arm in arms if arm not in open_weights], [arm for arm in arms if arm in open_weights]
    )
    groups: dict[str, list[str]] = {}
    for row in table:
        strata = groups.setdefault(str(row["variable"]), [])
        if str(row["stratum"]) not in strata:
            strata.append(str(row["stratum"]))
    places, y = {}, 0.0
    for variable, strata in groups.items():
        y += 0.75
        for stratum in strata:
            places[variable, stratum] = y
            y += 1.0
    pitch = max(0.22, 0.085 * len(arms) + 0.07)
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.4, pitch * y + 1.3))
        height = figure.get_figheight()
        axes = figure.add_axes((0.20, 0.5 / height, 0.62, 1 - 1.25 / height))
        margins = blended_transform_factory(axes.transAxes, axes.transData)
        for row in table:
            style = styles[str(row["arm"])]
            at = places[str(row["variable"]), str(row["stratum"])]
            at += (arms.index(str(row["arm"])) - (len(arms) - 1) / 2) * 0.74 / max(len(arms), 2)
            if value == "auprc":
                axes.plot(_limits(row, scale), [at, at], color=style.colour, lw=1.2, alpha=0.5 if row["small"] else 0.9)
            axes.plot(
                scale * float(row[value]),
                at,
                ls="",
                marker=style.marker,
                color=style.colour,
                mfc="white" if row["small"] else style.colour,
                mew=1.3 if style.open_weights else 1.0,
                ms=6 if style.open_weights else 4.4,
            )
        for (variable, stratum), at in places.items():
            row = next(r for r in table if (str(r["variable"]), str(r["stratum"])) == (variable, stratum))
            if stratum == groups[variable][0]:
                name = variable.replace("_", " ")
                axes.text(-0.30, at - 0.87, name, transform=margins, fontweight="bold", va="center", fontsize=8.5)
            colour = GREY if row["small"] else INK
            axes.text(-0.015, at, stratum, transform=margins, ha="right", va="center", fontsize=8.5, color=colour)
            numbers = (f"{int(row['num_samples']):,}", f"{int(row['num_positives']):,}")
            for column, text in zip((1.10, 1.22), numbers, strict=True):
                axes.text(column, at, text, transform=margins, ha="right", va="center", fontsize=8, color=colour)
            if row["small"]:
                axes.text(1.235, at, "few", transform=margins, va="center", fontsize=7.5, color=GREY, fontstyle="italic")
        for column, text in ((1.10, "images"), (1.22, "positives")):
            axes.text(column, -0.12, text, transform=margins, ha="right", va="center", fontsize=7.5, color=GREY)
        for place in list(places.values())[::2]:
            axes.axhspan(place - 0.5, place + 0.5, color="#94a3b8", alpha=0.07, lw=0, zorder=0)
        axes.set_ylim(y - 0.4, -0.35)
        axes.set_yticks([])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(xlabel)
        _legend_above(figure, axes, [_marker(arm, styles[arm]) for arm in arms], title)
    return figure


def data_plan_figure(
    rows: Rows,
    *,
    title: str = "",
    xlabel: str = "expected gain in AUPRC, points",
    scale: float = 100.0,
    colour: str = "#0072B2",
    currency: str = "",
) -> Figure:
    """What the next samples are expected to bring, task by task, the largest gain on top; the average as a line across.

    Filled: the interval lies above zero. Hollow: it does not, or is not known. Grey: near saturation, even the upper limit of
    the gain is small.

    Args:
        rows: `task, gain, low, high, current, saturated` and optionally `cost_per_point` (infinity: no gain expected) and
            `is_average`: that row is the line across; without one, the mean of the gains is.
        title: of the figure.
        xlabel: of the gains.
        scale: factor of gains, limits and current scores.
        colour: of tasks where more data may pay.
        currency: of the costs.

    Raises:
        InputError: no rows.
    """
    everything = [as_row(row) for row in rows]
    table = sorted((row for row in everything if not row.get("is_average")), key=lambda row: -float(row["gain"]))
    if not table:
        raise InputError("no tasks to draw; rows with task, gain, low, high, current, saturated are needed")
    averages = [row for row in everything if row.get("is_average")] or table
    priced = any(math.isfinite(_number(row.get("cost_per_point"))) for row in table)
    average = scale * float(np.mean([float(row["gain"]) for row in averages]))
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.4, 0.25 * len(table) + 1.25))
        height = figure.get_figheight()
        axes = figure.add_axes((0.30, 0.5 / height, 0.54 if priced else 0.60, 1 - 1.2 / height))
        margins = blended_transform_factory(axes.transAxes, axes.transData)
        columns = [(1.10, "now")] + ([(1.30, f"{currency} per point".strip())] if priced else [])
        for y, row in enumerate(table):
            gain, (low, high) = scale * float(row["gain"]), _limits(row, scale)
            saturated = bool(row["saturated"])
            shade = FAINT if saturated else colour
            axes.plot([low, high], [y, y], color=shade, lw=1.6, alpha=0.75, solid_capstyle="butt")
            axes.plot(gain, y, ls="", marker="o", color=shade, mfc=shade if low > 0 else "white", ms=5.2)
            texts = [f"{scale * float(row['current']):.1f}"]
            if priced:
                cost = _number(row.get("cost_per_point"))
                texts.append(f"{cost:,.0f}" if math.isfinite(cost) else "–")
            for (place, _), text in zip(columns, texts, strict=True):
                axes.text(
                    place, y, text, transform=margins, ha="right", va="center", fontsize=8, color=GREY if saturated else INK
                )
        for place, text in columns:
            axes.text(place, -0.85, text, transform=margins, ha="right", va="center", fontsize=7.5, color=GREY)
        axes.axvline(0, color=INK, lw=0.9, zorder=1)
        axes.axvline(average, color="#D55E00", lw=1.3, ls=(0, (5, 2)), zorder=2)
        axes.text(
            average,
            1 + 0.05 / height,
            f"average {AUPRC.signed(average / 100)}",
            transform=blended_transform_factory(axes.transData, axes.transAxes),
            ha="center",
            va="bottom",
            fontsize=8,
            color=ArmStyle("#D55E00", "").text,
        )
        axes.set_yticks(range(len(table)), [str(row["task"]) for row in table])
        for label, row in zip(axes.get_yticklabels(), table, strict=True):
            label.set_color(GREY if row["saturated"] else INK)
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(xlabel)
        _gain_limits(axes, table, scale)
        kinds = {
            "gain shown": (colour, colour, any(_number(row.get("low")) > 0 and not row["saturated"] for row in table)),
            "gain not shown": (colour, "white", any(not (_number(row.get("low")) > 0 or row["saturated"]) for row in table)),
            "near saturation": (FAINT, "white", any(row["saturated"] for row in table)),
        }
        handles = [
            Line2D([], [], ls="", marker="o", color=edge, mfc=face, ms=5, label=label)
            for label, (edge, face, present) in kinds.items()
            if present
        ]
        _legend_above(figure, axes, handles, title)
    return figure


def _gain_limits(axes: Axes, table: list[Mapping[str, Any]], scale: float) -> None:
    """One task with a boundless interval must not squeeze the others; arrows show which limits leave the frame."""
    gains = [scale * float(row["gain"]) for row in table]
    limits = [limit for row in table for limit in _limits(row, scale)]
    finite = [value for value in limits if math.isfinite(value)]
    half = 2.5 * float(np.median(np.abs(finite))) if finite else 1.0
    low = max(min([*finite, *gains, 0.0]), min(-half, min(gains)))
    high = min(max([*finite, *gains, 0.0]), max(half, max(gains)))
    margin = 0.05 * max(high - low, 1e-9)
    axes.set_xlim(low - margin, high + margin)
    for y, row in enumerate(table):
        below, above = _limits(row, scale)
        for outside, marker, edge in ((below < low - margin, "<", low - margin), (above > high + margin, ">", high + margin)):
            if outside:
                axes.plot(edge, y, ls="", marker=marker, color=FAINT, ms=4, clip_on=False)


def cost_figure(rows: Rows, *, title: str = "", xlabel: str = "seconds, summed over steps", styles: Styles = None) -> Figure:
    """Where the time (or the money) goes: one bar per part with its amount beside it.

    Args:
        rows: `label, amount` and optionally `detail` (a short text behind the amount) and `arm` (gives the bar its colour).
        title: of the figure.
        xlabel: of the amounts.
        styles: by arm.

    Raises:
        InputError: no rows.
    """
    table = [as_row(row) for row in rows]
    if not table:
        raise InputError("no costs to draw; rows with label and amount are needed")
    styles = styles or arm_styles(list(dict.fromkeys(str(row["arm"]) for row in table if row.get("arm"))))
    total = sum(float(row["amount"]) for row in table)
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.4, 0.27 * len(table) + 0.75))
        height = figure.get_figheight()
        axes = figure.add_axes((0.34, 0.45 / height, 0.48, 1 - 0.75 / height))
        for y, row in enumerate(table):
            amount, arm = float(row["amount"]), str(row.get("arm") or "")
            axes.barh(y, amount, height=0.66, color=styles[arm].colour if arm in styles else "#94a3b8", lw=0)
            share = f", {_percent(amount / total)}" if total else ""
            text = f"{amount:,.3g}" if amount < 100 else f"{amount:,.0f}"
            detail = f" ({row['detail']})" if row.get("detail") else ""
            axes.annotate(
                f"{text}{share}{detail}", (amount, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_yticks(range(len(table)), [str(row["label"]) for row in table])
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=0)
        axes.set_xlabel(xlabel)
        if title:
            axes.set_title(title, x=-0.52, **TITLE)
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 or not share else "under 1 %"


def gain_by_cost_figure(
    rows: Rows,
    *,
    title: str = "",
    xlabel: str = "compute of one encoder (log scale)",
    ylabel: str = "difference to open weights, points",
    scale: float = 100.0,
    styles: Styles = None,
) -> Figure:
    """What each training run costs and what it brings against its open weights.

    Args:
        rows: `arm, cost, difference, low, high` and optionally `label` (e.g. the subset size, written at the first arm).
        title: of the figure.
        xlabel: of the costs; say the unit.
        ylabel: of the differences.
        scale: factor of differences and limits.
        styles: by arm.

    Raises:
        InputError: no rows, or a cost that is not above 0.
    """
    table = [as_row(row) for row in rows]
    if not table or not all(float(row["cost"]) > 0 for row in table):
        raise InputError("gain by cost: rows with arm, cost above 0, difference, low and high are needed")
    arms = list(dict.fromkeys(str(row["arm"]) for row in table))
    styles = styles or arm_styles(arms)
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(7.4, 3.3))
        axes = figure.add_axes((0.09, 0.15, 0.65, 0.74))
        labels = []
        for index, arm in enumerate(arms):
            style, found = styles[arm], sorted((r for r in table if str(r["arm"]) == arm), key=lambda r: float(r["cost"]))
            shift = 1.05 ** (index - (len(arms) - 1) / 2)
            x = [float(row["cost"]) * shift for row in found]
            y = [scale * float(row["difference"]) for row in found]
            limits = [_limits(row, scale) for row in found]
            axes.vlines(x, [low for low, _ in limits], [high for _, high in limits], color=style.colour, lw=1.2)
            axes.plot(x, y, color=style.colour, lw=0.8, alpha=0.6)
            for place, height, (low, high) in zip(x, y, limits, strict=True):
                outside = low > 0 or high < 0
                mfc = style.colour if outside else "white"
                axes.plot(place, height, ls="", marker=style.marker, color=style.colour, mfc=mfc, ms=5)
            labels.append((y[-1], arm, style.text))
        axes.axhline(0, color=INK, lw=0.9, zorder=1)
        axes.set_xscale("log")
        costs = sorted({float(row["cost"]) for row in table})
        axes.set_xlim(costs[0] / 1.4, costs[-1] * 1.4)
        low, high = axes.get_ylim()
        seen: list[float] = []
        for row in sorted(table, key=lambda r: float(r["cost"])):
            cost = float(row["cost"])
            if row.get("label") and all(abs(math.log(cost / other)) > 0.15 for other in seen):
                seen.append(cost)
                axes.text(cost, high, str(row["label"]), ha="center", va="bottom", fontsize=7.5, color=GREY)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(FixedLocator(seen or costs))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _direct_labels(axes, labels)
        if title:
            axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", pad=18)
    return figure


def similarity_figure(
    picture: np.ndarray, point: tuple[int, int], maps: Mapping[str, np.ndarray], *, stretch: bool = False
) -> Figure:
    """The image with its query patch, and per encoder the similarity of every patch in four layers (paper, Figure 1).

    Args:
        picture: (H, W) uint8.
        point: (row, column) of the query, in pixels of the picture.
        maps: `LABEL|LAYER`, layers 0 to 3: (h, w) cosine similarities. All maps share one colour scale, from 0 to 1.
            `LABEL|box`: (4,) top, left, height and width of what the encoder sees, as shares of the picture; missing: all of
            it. Maps lie where they belong; what an encoder does not see stays grey.
        stretch: draw the order of a map's patches instead: 0 the least similar one, 1 the query. All that the continuity score
            sees, and visible where a whole map is nearly one value.
    """
    labels = list(dict.fromkeys(name.rsplit("|", 1)[0] for name in maps))
    rows, columns = picture.shape
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(
            len(labels),
            5,
            figsize=(8.4, (0.06 + 1.56 * rows / columns) * len(labels) + 0.25),
            squeeze=False,
            layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, hspace=0.0, wspace=0.0),
        )
        for row, label in enumerate(labels):
            top, left, height, width = maps.get(f"{label}|box", np.array([0, 0, 1, 1])) * [rows, columns, rows, columns]
            extent = (left, left + width, top + height, top)
            for layer, axes in enumerate(grid[row], start=-1):
                axes.imshow(picture, cmap="gray", interpolation="bilinear", extent=(0, columns, rows, 0))
                if layer < 0:
                    axes.set_ylabel("\n".join(_lines(label)), fontsize=7.5)
                    _query_box(axes, point, extent, maps[f"{label}|0"].shape, least=0.045 * min(rows, columns))
                    continue
                values = maps[f"{label}|{layer}"]
                if stretch:
                    ranks = np.unique(values, return_inverse=True)[1].reshape(values.shape)
                    values = ranks / max(ranks.max(), 1)
                drawn = axes.imshow(values, cmap="magma", vmin=0, vmax=1, extent=extent, interpolation="nearest")
                _query_box(axes, point, extent, values.shape)
                axes.set_xlim(0, columns)
                axes.set_ylim(rows, 0)
                if row == 0:
                    axes.set_title(f"layer {layer + 1} of 4", fontsize=8)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
        bar = figure.colorbar(drawn, ax=grid[:, -1].tolist(), shrink=0.8, aspect=24, pad=0.03)
        bar.set_label("share of less similar patches" if stretch else "cosine similarity", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    return figure


def _query_box(
    axes: Axes, point: tuple[int, int], extent: tuple[float, ...], grid: tuple[int, ...], least: float = 0.0
) -> None:
    """The query patch of a grid over this extent, as large as it is but at least visible: a patch of a fine grid is a dot."""
    left, right, bottom, top = extent
    height, width = (bottom - top) / grid[0], (right - left) / grid[1]
    centre_y = top + ((point[0] + 0.5 - top) // height + 0.5) * height
    centre_x = left + ((point[1] + 0.5 - left) // width + 0.5) * width
    height, width = max(height, least), max(width, least)
    corner = (centre_x - width / 2, centre_y - height / 2)
    axes.add_patch(Rectangle(corner, width, height, fill=False, ec="#e11d48", lw=1.6 if least else 0.9))


def continuity_figure(rows: Rows) -> Figure:
    """Curve continuity by layer: a point with its interval per encoder; the grey bar is what position alone gives.

    Args:
        rows: `encoder, layer` (1 to 4)`, mean, mean_low, mean_high, position_only`.

    Raises:
        InputError: no rows.
    """
    items = [as_row(row) for row in rows]
    if not items:
        raise InputError("no scores to draw: score at least one device")
    styles = arm_styles(list(dict.fromkeys(str(row["encoder"]) for row in items)))
    layers = sorted({int(row["layer"]) for row in items})
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.4, 3.2), layout="constrained")
        for index, (label, style) in enumerate(styles.items()):
            own = [row for row in items if str(row["encoder"]) == label]
            x = np.array([float(row["layer"]) for row in own]) + (index - (len(styles) - 1) / 2) * 0.6 / len(styles)
            mean, low, high = (np.array([float(row[name]) for row in own]) for name in ("mean", "mean_low", "mean_high"))
            spread = [mean - low, high - mean]
            axes.errorbar(x, mean, yerr=spread, fmt=style.marker, ms=5, lw=1.4, color=style.colour, label=label)
            alone = [float(row["position_only"]) for row in own]
            half = 0.24 / len(styles)
            axes.hlines(alone, x - half, x + half, color=FAINT, lw=2, label="" if index else "position alone")
        axes.set_xticks(layers, [f"layer {layer}" for layer in layers])
        axes.set_ylim(0, None)
        axes.set_ylabel("curve continuity, share of the device")
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _lines(label: str) -> list[str]:
    return label.replace(" (", "\n(").replace(", ", ",\n").split("\n")
