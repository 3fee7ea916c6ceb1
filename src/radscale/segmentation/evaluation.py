"""Metrics of every image, task and seed, and their summary with the empty masks counted."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa

from radscale.metrics import centreline_dice, component_error, dice_score, hausdorff_distance, tip_distance

SEGMENTATION_SCHEMA = pa.schema(
    [
        ("arm", pa.string()),
        ("objective", pa.string()),
        ("subset_size", pa.int64()),
        ("replicate", pa.int32()),
        ("seed", pa.int32()),
        ("task", pa.string()),
        ("sample_id", pa.string()),
        ("patient_id", pa.string()),
        ("present", pa.bool_()),
        ("predicted", pa.bool_()),
        ("dice", pa.float32()),
        ("hausdorff_px", pa.float32()),
        ("hd95_px", pa.float32()),
        ("cldice", pa.float32()),
        ("tip_distance_px", pa.float32()),
        ("component_error", pa.float32()),
    ]
)
METRICS = ("hausdorff_px", "hd95_px", "dice", "cldice", "tip_distance_px", "component_error")
PERFECT = {"hausdorff_px": 0.0, "hd95_px": 0.0, "dice": 1.0, "cldice": 1.0, "component_error": 0.0}
"""What a mask that is rightly empty is worth where such masks are counted."""
RULES = ("any", "present", "all")
"""Images in a mean: with a mask on either side (the headline), with a mask of the reader, all with empty pairs as perfect."""
SUMMARY_COLUMNS = ("task", "rule", "metric", "value", "seed_deviation", "num_images")


def score_image(prediction: np.ndarray, target: np.ndarray, tips: np.ndarray) -> dict[str, Any]:
    """Metrics of one mask; NaN where both masks are empty, and the tip distance where no tip is marked.

    If one of the masks is empty, overlaps are 0 and distances the image's diagonal.

    Args:
        prediction: (H, W) bool.
        target: (H, W) bool.
        tips: (n, 2) marked tips (y, x) in pixels.
    """
    present, predicted = bool(target.any()), bool(prediction.any())
    scores: dict[str, Any] = {"present": present, "predicted": predicted}
    if not present and not predicted:
        return scores | dict.fromkeys(METRICS, float("nan"))
    return scores | {
        "dice": dice_score(prediction, target),
        "hausdorff_px": hausdorff_distance(prediction, target),
        "hd95_px": hausdorff_distance(prediction, target, 95.0),
        "cldice": centreline_dice(prediction, target),
        "tip_distance_px": tip_distance(prediction, tips),
        "component_error": component_error(prediction, target),
    }


def summarise(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of `SUMMARY_COLUMNS` for each task and for their `average`: means over images per seed, then over seeds.

    Rule `any` leaves out images where both masks are empty, `present` those where the reader drew none, `all` counts rightly
    empty masks as perfect. The counts stand under rule `count`. `seed_deviation` is the standard deviation over seeds (NaN for
    one seed), `num_images` the mean number of images behind a value (of `average`: their sum over tasks).

    Args:
        table: columns seed, task, present, predicted and the metrics.
    """
    columns = {name: np.asarray(table[name]) for name in ("seed", "task", "present", "predicted", *METRICS)}
    seeds, tasks = np.unique(columns["seed"]), np.unique(columns["task"].astype(str))
    groups = {
        task: [
            {name: values[(columns["task"] == task) & (columns["seed"] == seed)] for name, values in columns.items()}
            for seed in seeds
        ]
        for task in tasks
    }
    rows, of_tasks = [], {}
    for task, parts in groups.items():
        for rule, metric in product(RULES, METRICS):
            selected = [_selected(part, rule, metric) for part in parts]
            means = [float(values.mean()) if values.size else float("nan") for values in selected]
            of_tasks[task, rule, metric] = means, float(np.mean([values.size for values in selected]))
            rows.append(_summary(task, rule, metric, *of_tasks[task, rule, metric]))
        for name, counts in _counts(parts).items():
            rows.append(_summary(task, "count", name, counts, len(parts[0]["present"])))
    for rule, metric in product(RULES, METRICS):
        own = [of_tasks[task, rule, metric] for task in tasks]
        average = np.mean([means for means, _ in own], axis=0).tolist()
        rows.append(_summary("average", rule, metric, average, sum(size for _, size in own)))
    return rows


def _selected(part: dict[str, np.ndarray], rule: str, metric: str) -> np.ndarray:
    """The values behind a mean."""
    values = part[metric].astype(float)
    if rule == "present":
        values = values[part["present"]]
    elif rule == "all" and metric in PERFECT:
        values = np.where(part["present"] | part["predicted"], values, PERFECT[metric])
    return values[~np.isnan(values)]


def _counts(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """For each seed, how many images are of each kind."""
    pairs = [(part["present"], part["predicted"]) for part in parts]
    return {
        "both_drawn": [float((present & predicted).sum()) for present, predicted in pairs],
        "missed": [float((present & ~predicted).sum()) for present, predicted in pairs],
        "false_alarms": [float((~present & predicted).sum()) for present, predicted in pairs],
        "both_empty": [float((~present & ~predicted).sum()) for present, predicted in pairs],
    }


def _summary(task: str, rule: str, metric: str, means: Sequence[float], num_images: float) -> dict[str, Any]:
    deviation = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    row = (task, rule, metric, float(np.mean(means)), deviation, num_images)
    return dict(zip(SUMMARY_COLUMNS, row, strict=True))
