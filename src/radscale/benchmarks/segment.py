"""Metrics of segmented devices, as `radscale segment` takes them of each test image."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cv2
import numpy as np

from radscale.benchmarks.measure import Case, Contestant, Options

Pair = tuple[np.ndarray, np.ndarray, np.ndarray]
NUM_IMAGES = 4_000
"""A quarter of RANZCR-CLiP, which the paper tests on."""


def cases(options: Options) -> list[Case]:
    """Devices and what a head might draw of them: followed with an error of some pixels, some stray pieces, some missed."""
    side, num_pairs = (96, 4) if options.quick else (518, 80)
    pairs = [_pair(np.random.default_rng([options.seed, index]), side) for index in range(num_pairs)]
    peers: list[tuple[str, str, Callable[[], Callable[[Pair], tuple[float, float]]]]] = [
        ("SimpleITK: Dice and Hausdorff only", "SimpleITK", _simple_itk),
        ("scipy: Dice and Hausdorff only", "scipy", _scipy),
        ("MONAI: Dice and Hausdorff only", "monai", _monai),
    ]
    cores = os.cpu_count() or 1
    return [
        Case(
            title=f"metrics of {side} x {side} masks, one device an image, {cores} threads",
            unit="image",
            workload=lambda _: pairs,
            contestants=[
                Contestant("radscale: all six metrics", "radscale", lambda: _all(_ours(), cores), num_pairs),
                *(
                    Contestant(name, package, partial(lambda load: _all(load(), cores), load), num_pairs)
                    for name, package, load in peers
                ),
            ],
            rounds=options.repeat or (1 if options.quick else 5),
            difference=lambda ours, theirs: float(np.abs(np.subtract(ours, theirs)).max()),
            total_units=NUM_IMAGES,
            note="difference in Dice or in pixels of Hausdorff; MONAI measures between surfaces",
        )
    ]


def _pair(rng: np.random.Generator, side: int) -> Pair:
    steps = np.linspace(0, 1, 40)[:, None]
    points = rng.uniform(0.1, 0.9, (3, 2)) * side
    curve = (1 - steps) ** 2 * points[0] + 2 * steps * (1 - steps) * points[1] + steps**2 * points[2]
    drawn = curve + np.cumsum(rng.normal(0, side / 500, curve.shape), axis=0)
    target, prediction = (np.zeros((side, side), np.uint8) for _ in range(2))
    cv2.polylines(target, [curve.astype(np.int32)], False, (1,), max(1, side // 100))
    cv2.polylines(prediction, [drawn.astype(np.int32)], False, (1,), max(1, side // 60))
    for centre in (rng.uniform(0.1, 0.9, (rng.integers(0, 4), 2)) * side).astype(int).tolist():
        cv2.circle(prediction, centre, max(1, side // 60), (1,), -1)
    return prediction.astype(bool), target.astype(bool), curve[-1:, ::-1].copy()


def _all(measure: Callable[[Pair], tuple[float, float]], cores: int) -> Callable[[list[Pair]], list[tuple[float, float]]]:
    pool = ThreadPoolExecutor(cores)
    return lambda pairs: list(pool.map(measure, pairs))


def _ours() -> Callable[[Pair], tuple[float, float]]:
    from radscale.segmentation.evaluation import score_image

    def measure(pair: Pair) -> tuple[float, float]:
        scores = score_image(*pair)
        return scores["dice"], scores["hausdorff_px"]

    return measure


def _dice(prediction: np.ndarray, target: np.ndarray) -> float:
    return float(2 * (prediction & target).sum() / (prediction.sum() + target.sum()))


def _scipy() -> Callable[[Pair], tuple[float, float]]:
    from scipy.ndimage import distance_transform_edt

    def measure(pair: Pair) -> tuple[float, float]:
        a, b, _ = pair
        distance = max(distance_transform_edt(~b)[a].max(), distance_transform_edt(~a)[b].max())
        return _dice(a, b), float(distance)

    return measure


def _simple_itk() -> Callable[[Pair], tuple[float, float]]:
    import SimpleITK as sitk

    def measure(pair: Pair) -> tuple[float, float]:
        a, b = (sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in pair[:2])
        overlap, distance = sitk.LabelOverlapMeasuresImageFilter(), sitk.HausdorffDistanceImageFilter()
        overlap.Execute(a, b)
        distance.Execute(a, b)
        return float(overlap.GetDiceCoefficient()), float(distance.GetHausdorffDistance())

    return measure


def _monai() -> Callable[[Pair], tuple[float, float]]:
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    def measure(pair: Pair) -> tuple[float, float]:
        masks: Any = [torch.from_numpy(mask)[None, None] for mask in pair[:2]]
        distance = compute_hausdorff_distance(*masks, include_background=True)
        return float(compute_dice(*masks)), float(distance)

    return measure
