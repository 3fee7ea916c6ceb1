"""Figures on typical and on degenerate rows: what is written, what is drawn, and what is refused."""

import math
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from radscale.errors import InputError
from radscale.html_report import figures
from radscale.html_report.style import save_figure, svg_text

POINTS = [{"arm": "own", "subset_size": size, "score": score} for size, score in ((1000, 0.4), (10000, 0.45), (100000, 0.5))]
DIFFERENCE = {"arm": "own", "task": "edema", "difference": 0.02, "low": -0.01, "high": 0.05}
GAIN = {"task": "edema", "gain": 0.02, "low": -0.01, "high": 0.05, "current": 0.5, "saturated": False}
STRATUM = {"variable": "sex", "stratum": "F", "arm": "own", "auprc": 0.4, "num_samples": 9, "num_positives": 1, "small": True}
COST = {"arm": "own", "cost": 2.0, "difference": 0.02, "low": -0.01, "high": 0.05}
CONTINUITY = {"encoder": "own", "layer": 4, "mean": 0.4, "mean_low": 0.3, "mean_high": 0.6, "position_only": 0.2}
PICTURE = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
MAPS = {f"own|{layer}": np.linspace(-1, 1, 16).reshape(4, 4) for layer in range(4)} | {"own|box": np.array([0, 0.25, 1, 0.5])}


def test_figures_of_little_data_give_the_same_bytes_twice(tmp_path: Path) -> None:
    makers = {
        "three sizes": lambda: figures.scaling_figure(POINTS),
        "one size": lambda: figures.scaling_figure(POINTS[:1]),
        "one panel": lambda: figures.scaling_grid([{"title": "edema", "points": POINTS, "curves": [], "references": []}]),
        "one difference": lambda: figures.forest_figure([DIFFERENCE]),
        "one stratum": lambda: figures.subgroup_figure([STRATUM]),
        "one gain": lambda: figures.data_plan_figure([GAIN]),
        "all saturated": lambda: figures.data_plan_figure(
            [{**GAIN, "saturated": True}, {**GAIN, "task": "b", "saturated": True}]
        ),
        "one cost": lambda: figures.gain_by_cost_figure([COST]),
        "one layer": lambda: figures.continuity_figure([CONTINUITY]),
        "one map": lambda: figures.similarity_figure(PICTURE, (9, 30), MAPS),
        "one rank map": lambda: figures.similarity_figure(PICTURE, (9, 30), MAPS, stretch=True),
    }
    for name, make in makers.items():
        first, second = (save_figure(make(), tmp_path / f"{name} {i}.svg").read_bytes() for i in range(2))
        assert first == second, name


CURVE = [
    {"arm": "own", "subset_size": n, "estimate": 0.4, "low": 0.3, "high": 0.5, "extrapolated": n > 1e5} for n in (1e3, 1e6)
]
REFERENCE = {"label": "open", "score": 0.45, "low": 0.44, "high": 0.46}


@pytest.mark.parametrize(
    "unknown", [{"low": math.nan, "high": math.nan}, {"low": None, "high": ""}, None], ids=["nan", "empty", "no"]
)
def test_intervals_that_are_not_known_are_left_out_and_the_rest_is_drawn(
    unknown: dict[str, Any] | None, tmp_path: Path
) -> None:
    def without(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in ("low", "high")} | (unknown or {})

    scaling = (POINTS, [without(row) for row in CURVE], [without(REFERENCE)])
    drawn = {
        "curves": figures.scaling_figure(*scaling),
        "grid": figures.scaling_grid([{"title": "t", "points": scaling[0], "curves": scaling[1], "references": scaling[2]}]),
        "differences": figures.forest_figure([without({**DIFFERENCE, "p_holm": 0.01}), {**DIFFERENCE, "task": "hernia"}]),
        "subgroups": figures.subgroup_figure([without({**STRATUM, "low": 0.3, "high": 0.5}), {**STRATUM, "stratum": "M"}]),
        "gains": figures.data_plan_figure([without(GAIN), {**GAIN, "task": "hernia", "low": 0.01}]),
        "costs": figures.gain_by_cost_figure([without(COST), {**COST, "cost": 4.0}]),
    }
    for name, figure in drawn.items():
        text = save_figure(figure, tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert not re.search(r"[dxy]=\"[^\"]*\bnan\b", text, re.IGNORECASE), name
    known = figures.scaling_figure(POINTS, CURVE, [REFERENCE])
    bands = [len(figure.axes[0].collections) + len(figure.axes[0].patches) for figure in (known, drawn["curves"])]
    assert bands[0] > bands[1]


def test_a_score_that_is_not_known_is_no_point() -> None:
    figure = figures.scaling_figure([*POINTS, {"arm": "own", "subset_size": 300, "score": math.nan}])
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1000, 10000, 100000]
    with pytest.raises(InputError, match="no point to draw"):
        figures.scaling_figure([{**POINTS[0], "score": None}])


def test_places_are_rounded_and_labels_are_not() -> None:
    rows = [{"arm": "own", "subset_size": size, "score": score} for size, score in ((10, 1.001), (100, 1.002), (1000, 1.003))]
    text = svg_text(figures.scaling_figure(rows, scale=1, ylabel="loss"))
    assert {"1.001", "1.002", "1.003"} <= set(re.findall(r">([\d.]+)</text>", text))
    assert not re.search(r"<[^>]*\d\.\d{3}", text)


def test_no_rows_are_refused_in_words() -> None:
    for draw in (
        figures.scaling_figure,
        figures.scaling_grid,
        figures.forest_figure,
        figures.subgroup_figure,
        figures.data_plan_figure,
        figures.gain_by_cost_figure,
        figures.continuity_figure,
    ):
        with pytest.raises(InputError):
            draw([])


def test_other_suffix_is_refused_and_names_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.jpg.*\.svg, \.pdf or \.png"):
        save_figure(figures.scaling_figure(POINTS), tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())
    plt.close("all")


def test_a_similarity_map_lies_where_its_encoder_looked() -> None:
    figure = figures.similarity_figure(PICTURE, (9, 30), MAPS)
    picture, *layers = figure.axes[:5]
    for axes in layers:
        (values,) = [image for image in axes.images if image.get_array().shape == (4, 4)]
        assert values.get_extent() == [15, 45, 40, 0], "the middle half of 60 columns"
        # Patches of 10 rows and 7.5 columns; the query is in row 0 and, 15 columns into the box, in column 2.
        (box,) = axes.patches
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (30, 0, 7.5, 10)
        assert axes.get_xlim() == picture.get_xlim()
    plt.close("all")
