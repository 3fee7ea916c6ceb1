"""Overlap and distance of masks."""

import numpy as np
from numpy.typing import ArrayLike

from radscale.errors import InputError


def _masks(prediction: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(prediction), np.asarray(target)
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(f"masks of shapes {a.shape} and {b.shape}: give two masks of one shape (H, W)")
    return a.astype(bool), b.astype(bool)


def dice_score(prediction: ArrayLike, target: ArrayLike) -> float:
    """Twice the overlap by the sum of areas, in [0, 1]; NaN if both masks are empty."""
    a, b = _masks(prediction, target)
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else float("nan")


def hausdorff_distance(prediction: ArrayLike, target: ArrayLike, percentile: float = 100.0) -> float:
    """Largest distance from a pixel of one mask to the other mask, in pixels.

    Args:
        prediction: (H, W) bool.
        target: (H, W) bool.
        percentile: 100 for the Hausdorff distance; below it, the larger of the two directed percentiles.

    Returns:
        Pixels. If one mask is empty, the image diagonal; if both are, NaN (count those cases, do not average them).
    """
    a, b = _masks(prediction, target)
    if not 0 < percentile <= 100:
        raise InputError(f"percentile is {percentile}; it must be above 0 and at most 100")
    if not a.any() and not b.any():
        return float("nan")
    if not a.any() or not b.any():
        return float(np.hypot(*a.shape))
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.nonzero(a | b)
    # Outside the box of both masks there is nothing to measure from or to.
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    a, b = a[box], b[box]
    to_target, to_prediction = distance_transform_edt(~b)[a], distance_transform_edt(~a)[b]
    return float(max(np.percentile(to_target, percentile), np.percentile(to_prediction, percentile)))
