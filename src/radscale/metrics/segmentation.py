"""Overlap and distance of masks."""

import math

import numba
import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from radscale.errors import InputError
from radscale.metrics.skeleton import line_ends, skeletonise

# Vertical distance in a column without a point; its square still leaves room in 64 bits.
NONE = 1 << 30


def dice_score(prediction: ArrayLike, target: ArrayLike) -> float:
    """Twice the overlap by the sum of areas, in [0, 1].

    Args:
        prediction: (H, W) bool.
        target: (H, W) bool.

    Returns:
        0 if one mask is empty; NaN if both are (count those cases, do not average them).
    """
    a, b = _masks(prediction, target)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else float("nan")


def hausdorff_distance(prediction: ArrayLike, target: ArrayLike, percentile: float = 100.0) -> float:
    """Largest distance from a pixel of one mask to the other mask, in pixels; exact.

    Args:
        prediction: (H, W) bool.
        target: (H, W) bool.
        percentile: 100 for the Hausdorff distance of the masks. Below it, the larger of the two directed percentiles between
            their surfaces, which are the pixels with a neighbour (of four) outside the mask: what MONAI calls HD95 at 95, with
            linear interpolation. Other tools pool both directions or weigh surfaces, and get other numbers.

    Returns:
        Pixels between centres. If one mask is empty, the image diagonal sqrt(H^2 + W^2); if both are, NaN (count those cases,
        do not average them).

    Raises:
        InputError: masks that are not (H, W) of one shape, numbers that are neither 0 nor 1 where floats are given, or a
            percentile outside (0, 100].
    """
    a, b = _masks(prediction, target)
    if not 0 < percentile <= 100:
        raise InputError(f"percentile is {percentile}; it must be above 0 and at most 100")
    if not a.any() or not b.any():
        return math.hypot(*a.shape) if a.any() or b.any() else float("nan")
    # Outside the box of both masks there is nothing to measure from or to.
    rows, columns = np.flatnonzero(a.any(axis=1) | b.any(axis=1)), np.flatnonzero(a.any(axis=0) | b.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    a, b = np.ascontiguousarray(a[box]), np.ascontiguousarray(b[box])
    if percentile < 100:
        a, b = _surface(a), _surface(b)
        directed = (np.sqrt(_squared_distances(*pair)) for pair in ((a, b), (b, a)))
        return float(max(np.percentile(distances, percentile) for distances in directed))
    # A pixel in both masks is at distance 0, and what the first direction found bounds the second.
    return math.sqrt(_largest_squared_distance(b & ~a, a, _largest_squared_distance(a & ~b, b, 0)))


def centreline_dice(prediction: ArrayLike, target: ArrayLike) -> float:
    """clDice: do two tubes follow each other, whatever their widths? (Shit et al., CVPR 2021).

    The harmonic mean of two shares: of the prediction's centre line inside the target, and of the target's centre line inside
    the prediction.

    Args:
        prediction: (H, W) bool.
        target: (H, W) bool.

    Returns:
        In [0, 1]; 0 if one mask is empty, NaN if both are.
    """
    a, b = _masks(prediction, target)
    if not a.any() or not b.any():
        return 0.0 if a.any() or b.any() else float("nan")
    precision, sensitivity = b[skeletonise(a)].mean(), a[skeletonise(b)].mean()
    return float(2 * precision * sensitivity / (precision + sensitivity)) if precision + sensitivity else 0.0


def tip_distance(prediction: ArrayLike, tips: ArrayLike) -> float:
    """How far the nearest end of a predicted line is from a marked tip, in pixels; of several tips, the mean.

    Args:
        prediction: (H, W) bool. Its ends are those of its centre line.
        tips: (n, 2) positions (y, x) in pixels, that of a pixel's centre being whole.

    Returns:
        Pixels; the image diagonal if the prediction is empty, NaN without tips.
    """
    mask, _ = _masks(prediction, prediction)
    points = np.asarray(tips, float).reshape(-1, 2)
    if not len(points):
        return float("nan")
    if not mask.any():
        return math.hypot(*mask.shape)
    ends = line_ends(skeletonise(mask))
    return float(np.linalg.norm(points[:, None] - ends, axis=-1).min(axis=1).mean())


def component_error(prediction: ArrayLike, target: ArrayLike) -> int:
    """How many more or fewer connected pieces (8 neighbours) the prediction has than the target: a line in five pieces is
    off by four.

    Args:
        prediction: (H, W) bool.
        target: (H, W) bool.
    """
    a, b = (ndimage.label(mask, np.ones((3, 3), bool))[1] for mask in _masks(prediction, target))
    return abs(a - b)


def _masks(prediction: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(prediction), np.asarray(target)
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(f"masks of shapes {a.shape} and {b.shape}: give two masks of one shape (H, W)")
    for mask in (a, b):
        if mask.dtype.kind not in "bui" and not ((mask == 0) | (mask == 1)).all():
            raise InputError(f"mask of type {mask.dtype} with values other than 0 and 1: cut probabilities first, e.g. p > 0.5")
    return a.astype(bool, order="C"), b.astype(bool, order="C")


def _surface(mask: np.ndarray) -> np.ndarray:
    around = np.pad(mask, 1)
    return mask & ~(around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:])


# Squared distances between pixels are whole numbers, so everything below is exact. Columns come first, rows are solved on top
# of them (Saito and Toriwaki, 1994). What makes it fast: a pixel's distance to the points differs from that of a pixel k px
# away by at most k, which bounds where its nearest point can be, and says which pixels cannot hold the largest distance.


@numba.njit(cache=True, nogil=True)
def _column_distances(points):  # type: ignore[no-untyped-def]
    """(H, W) distance of each pixel to the nearest point in its own column; NONE or more where the column has none."""
    height, width = points.shape
    distances = np.empty((height, width), np.int64)
    for x in range(width):
        distances[0, x] = 0 if points[0, x] else NONE
    for y in range(1, height):
        for x in range(width):
            distances[y, x] = 0 if points[y, x] else distances[y - 1, x] + 1
    for y in range(height - 2, -1, -1):
        for x in range(width):
            distances[y, x] = min(distances[y, x], distances[y + 1, x] + 1)
    return distances


@numba.njit(cache=True, nogil=True)
def _squared_distance(columns, x, bound):  # type: ignore[no-untyped-def]
    """Squared distance of pixel x of a row to the nearest point, which is known to be at most `bound` px away."""
    least = NONE * NONE
    for i in range(max(0, x - bound), min(columns.size, x + bound + 1)):
        least = min(least, columns[i] * columns[i] + (i - x) * (i - x))
    return least


@numba.njit(cache=True, nogil=True)
def _squared_distances(queries, points):  # type: ignore[no-untyped-def]
    """(number of queries,) squared distance of each pixel of `queries` (H, W) to the nearest of `points` (H, W)."""
    columns = _column_distances(points)
    height, width = columns.shape
    found = np.empty(queries.sum(), np.int64)
    count = 0
    for y in range(height):
        bound = NONE
        for x in range(width):
            if queries[y, x]:
                found[count] = _squared_distance(columns[y], x, min(bound, columns[y, x]))
                bound = int(np.ceil(np.sqrt(found[count])))
                count += 1
            bound += 1
    return found


@numba.njit(cache=True, nogil=True)
def _largest_squared_distance(queries, points, least):  # type: ignore[no-untyped-def]
    """Largest squared distance of a pixel of `queries` (H, W) to the nearest of `points` (H, W), or `least` if that is more."""
    columns = _column_distances(points)
    height, width = columns.shape
    largest, root = least, np.sqrt(least)
    step = 1
    while 2 * step <= height:
        step *= 2
    # From coarse to fine, each row once: far pixels are met early, and most others are then passed over.
    while step > 0:
        for y in range(step - 1, height, 2 * step):
            bound, x = NONE, 0
            while x < width:
                stride = 1
                reach = min(bound, columns[y, x])
                if queries[y, x] and reach * reach > largest:
                    squared = _squared_distance(columns[y], x, reach)
                    if squared > largest:
                        largest, root = squared, np.sqrt(squared)
                    distance = np.sqrt(squared)
                    bound = int(np.ceil(distance))
                    # Within this stride no distance exceeds the largest. (Rounding of the roots cannot matter: it is far
                    # smaller than the gap between roots of whole numbers.)
                    stride += int(root - distance)
                bound += stride
                x += stride
        step //= 2
    return largest
