"""Metrics of single masks, the rules for empty ones, and the choice of cases."""

import math

import numpy as np
import pyarrow as pa
import pytest

from radscale.segmentation import score_image, summarise
from radscale.segmentation.evaluation import METRICS
from radscale.segmentation.overlays import choose_cases, draw_overlay

EMPTY = np.zeros((30, 40), bool)
FULL = np.zeros((30, 40), bool)
FULL[10:20, 5:35] = True


def test_empty_masks_have_flags_and_the_diagonal() -> None:
    both = score_image(EMPTY, EMPTY, np.zeros((0, 2)))
    assert (both["present"], both["predicted"]) == (False, False)
    assert all(math.isnan(both[name]) for name in METRICS)
    missed = score_image(EMPTY, FULL, np.array([[15.0, 34.0]]))
    assert (missed["present"], missed["predicted"], missed["dice"]) == (True, False, 0)
    assert missed["hausdorff_px"] == missed["hd95_px"] == missed["tip_distance_px"] == 50
    assert score_image(FULL, FULL, np.zeros((0, 2)))["hausdorff_px"] == 0
    assert math.isnan(score_image(FULL, FULL, np.zeros((0, 2)))["tip_distance_px"])


def table() -> pa.Table:
    """Two seeds of a task with four images: both drawn, missed, false alarm, both empty."""
    rows = []
    for seed, distances in ((0, (10, 50, 50, math.nan)), (1, (20, 50, math.nan, math.nan))):
        kinds = [(True, True), (True, False), (False, seed == 0), (False, False)]
        for (present, predicted), distance in zip(kinds, distances, strict=True):
            found = {"dice": math.nan if math.isnan(distance) else 0.8 * (distance < 50), "hausdorff_px": float(distance)}
            rows.append(
                {"seed": seed, "task": "ETT", "present": present, "predicted": predicted} | dict.fromkeys(METRICS, 0.0) | found
            )
    return pa.Table.from_pylist(rows)


def test_the_summary_says_which_images_are_in_a_mean() -> None:
    values = {(row["task"], row["rule"], row["metric"]): row for row in summarise(table())}
    distance = {rule: values["ETT", rule, "hausdorff_px"] for rule in ("any", "present", "all")}
    assert distance["any"]["value"] == pytest.approx(((10 + 50 + 50) / 3 + (20 + 50) / 2) / 2)
    assert distance["present"]["value"] == pytest.approx((30 + 35) / 2)
    assert distance["present"]["seed_deviation"] == pytest.approx(np.std([30, 35], ddof=1))
    assert distance["all"]["value"] == pytest.approx((110 / 4 + 70 / 4) / 2)
    assert [distance[rule]["num_images"] for rule in ("any", "present", "all")] == [2.5, 2, 4]
    assert values["ETT", "all", "dice"]["value"] == pytest.approx(((0.8 + 1) / 4 + (0.8 + 2) / 4) / 2)
    counts = {metric: row["value"] for (_, rule, metric), row in values.items() if rule == "count"}
    assert counts == {"both_drawn": 1, "missed": 1, "false_alarms": 0.5, "both_empty": 1.5}
    assert values["average", "any", "hausdorff_px"]["value"] == distance["any"]["value"]
    assert values["average", "any", "hausdorff_px"]["seed_deviation"] == distance["any"]["seed_deviation"]


def test_cases_are_best_median_and_worst_and_never_unknown() -> None:
    distances = np.array([5.0, np.nan, 1, 9, 3, 7])
    chosen = {name: distances[positions].tolist() for name, positions in choose_cases(distances, 1).items()}
    assert chosen == {"best": [1], "median": [5], "worst": [9]}
    assert [len(positions) for positions in choose_cases(distances, 8).values()] == [5, 5, 5]


def test_an_overlay_colours_three_kinds_of_pixels() -> None:
    picture = draw_overlay(np.full((30, 40), 100, np.uint8), FULL, np.roll(FULL, 3, axis=0))
    colours = {tuple(colour) for colour in picture.reshape(-1, 3)}
    assert len(colours) == 4
    assert tuple(picture[0, 0]) == (100, 100, 100)
