"""Hausdorff distance of pairs of masks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from radscale.benchmarks.measure import Case, Contestant, Options

Pairs = list[tuple[np.ndarray, np.ndarray]]


def cases(options: Options) -> list[Case]:
    """Tubes of about 3,000 px, noise, and two halves of an image."""
    side, num_pairs = (64, 2) if options.quick else (518, 20)
    rng = np.random.default_rng(options.seed)
    halves = np.zeros((side, side), bool)
    halves[:, : side // 2] = True
    loads: list[tuple[str, str, Callable[[], Callable[..., float]]]] = [
        ("radscale", "radscale", _ours),
        ("scipy directed_hausdorff", "scipy", _directed),
        ("scipy distance_transform_edt", "scipy", _transform),
        ("OpenCV distanceTransform", "opencv-python-headless", _opencv),
        ("SimpleITK", "SimpleITK", _simple_itk),
        ("scikit-image", "scikit-image", _scikit_image),
        ("MONAI", "monai", _monai),
    ]
    made: list[tuple[str, Pairs]] = [
        ("tubes", [(_tube(rng, side), _tube(rng, side)) for _ in range(num_pairs)]),
        ("noise, half of the pixels", [(rng.random((side, side)) < 0.5, rng.random((side, side)) < 0.5)]),
        ("two halves of an image", [(halves, ~halves)]),
    ]
    return [
        Case(
            title=f"Hausdorff distance, {side} x {side}, {title}",
            unit="pair",
            workload=partial(_same, pairs),
            contestants=[Contestant(name, package, partial(_each, load), len(pairs)) for name, package, load in loads],
            rounds=options.repeat or (2 if options.quick else 7),
            difference=lambda a, b: float(np.abs(np.subtract(a, b)).max()),
            note="difference in pixels; MONAI measures between surfaces, which is another number where masks are not thin",
        )
        for title, pairs in made
    ]


def _same(data: Any, _: int) -> Any:
    return data


def _each(load: Callable[[], Callable[..., float]]) -> Callable[[Pairs], list[float]]:
    distance = load()
    return lambda pairs: [distance(a, b) for a, b in pairs]


def _tube(rng: np.random.Generator, side: int) -> np.ndarray:
    import cv2

    steps = np.linspace(0, 1, 40)[:, None]
    points = rng.uniform(0.1, 0.9, (3, 2)) * side
    curve = (1 - steps) ** 2 * points[0] + 2 * steps * (1 - steps) * points[1] + steps**2 * points[2]
    canvas = np.zeros((side, side), np.uint8)
    cv2.polylines(canvas, [curve.astype(np.int32)], False, (1,), max(1, side // 50))
    return canvas.astype(bool)


def _ours() -> Callable[..., float]:
    from radscale.metrics import hausdorff_distance

    return hausdorff_distance


def _directed() -> Callable[..., float]:
    from scipy.spatial.distance import directed_hausdorff

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        p, q = np.argwhere(a), np.argwhere(b)
        return float(max(directed_hausdorff(p, q)[0], directed_hausdorff(q, p)[0]))

    return distance


def _transform() -> Callable[..., float]:
    from scipy.ndimage import distance_transform_edt

    return lambda a, b: float(max(distance_transform_edt(~b)[a].max(), distance_transform_edt(~a)[b].max()))


def _opencv() -> Callable[..., float]:
    import cv2

    def directed(a: np.ndarray, b: np.ndarray) -> float:
        return float(cv2.distanceTransform((~b).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[a].max())

    return lambda a, b: max(directed(a, b), directed(b, a))


def _simple_itk() -> Callable[..., float]:
    import SimpleITK as sitk

    measure = sitk.HausdorffDistanceImageFilter()

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        measure.Execute(sitk.GetImageFromArray(a.astype(np.uint8)), sitk.GetImageFromArray(b.astype(np.uint8)))
        return float(measure.GetHausdorffDistance())

    return distance


def _scikit_image() -> Callable[..., float]:
    from skimage.metrics import hausdorff_distance

    return lambda a, b: float(hausdorff_distance(a, b))


def _monai() -> Callable[..., float]:
    import torch
    from monai.metrics import compute_hausdorff_distance

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        masks = (torch.from_numpy(mask)[None, None] for mask in (a, b))
        return float(compute_hausdorff_distance(*masks, include_background=True))

    return distance
