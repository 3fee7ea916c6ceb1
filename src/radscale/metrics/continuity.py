"""Continuity of a line or tube in a patch-similarity map: the number behind the paper's Figure 1 (docs/similarity.md).

h, w = patches of the map.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from radscale.errors import InputError

EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Continuity:
    """How far a device can be followed from its tip in a similarity map."""

    score: float
    """Share of the device's patches, the query apart, that hang together with the tip before the first false structure; in
    [0, 1]."""
    recall: float
    """The same whether they hang together or not; at least `score`."""
    limit: float
    """Similarity at which the first false structure appears; -inf if there is room for none."""
    recovered: np.ndarray
    """(h, w) bool: the device's patches behind `score`, with the query."""


def curve_continuity(
    similarity: ArrayLike,
    device: ArrayLike,
    tip: tuple[int, int],
    *,
    ignore: ArrayLike | None = None,
    tolerance: int = 1,
    min_false_patches: int = 3,
) -> Continuity:
    """Share of a device's patches recovered from its tip before the first false structure.

    The map is cut at a falling threshold. A false structure is a connected group (8 neighbours) of at least
    `min_false_patches` patches above it that belong to nothing allowed. Just before the first one appears, the patches of the
    device that are connected with the tip are counted. Only the order of the similarities matters; patches as similar as the
    first false structure do not count, so that ties cannot help.

    The idea is that of "overlap until first error" of vessel centrelines (Schaap et al., Medical Image Analysis 2009): what
    can be followed from one end before a mistake is what a reader can use.

    Args:
        similarity: (h, w) similarity of each patch with the patch at the tip; any scale, larger is more similar.
        device: (h, w) bool, the patches of the device; at least one beside the query. See `patches_of_mask`.
        tip: (row, column) of the query patch; it counts as part of the device.
        ignore: (h, w) bool, patches that are neither right nor wrong, e.g. another device of the same type.
        tolerance: patches up to this many steps (8 neighbours) from the device are not false, and the path may lead over them.
        min_false_patches: smallest group that is called a structure; 1 lets any single patch end the score.

    Raises:
        InputError: shapes that differ, values that are not finite, a tip outside the map, a device of one patch, negative
            tolerance, or `min_false_patches` below 1.
    """
    values, patches, (row, column) = np.asarray(similarity, np.float64), np.array(device, bool), tip
    ignored = np.zeros(patches.shape, bool) if ignore is None else np.asarray(ignore, bool)
    if values.ndim != 2 or not values.shape == patches.shape == ignored.shape:
        raise InputError(
            f"similarity of shape {values.shape}, device {patches.shape}, ignore {ignored.shape}: give maps of one shape (h, w)"
        )
    if not np.isfinite(values).all():
        raise InputError("similarity has values that are not finite; score only maps without NaN")
    if not (0 <= row < values.shape[0] and 0 <= column < values.shape[1]):
        raise InputError(f"tip {tip} is outside the map of {values.shape[0]} x {values.shape[1]} patches; count from 0")
    if tolerance < 0 or min_false_patches < 1:
        raise InputError(
            f"tolerance {tolerance}, min_false_patches {min_false_patches}: the least are 0 and 1; correct the setting"
        )
    patches[row, column] = True
    num_patches = np.count_nonzero(patches) - 1
    if num_patches < 1:
        raise InputError("device has no patch beside the query; score it on a finer map, or leave it out")
    near = ndimage.binary_dilation(patches, EIGHT_NEIGHBOURS, iterations=tolerance) if tolerance else patches
    limit = _first_false(values, ~(near | ignored), min_false_patches)
    above = values > limit
    above[row, column] = True
    labels, _ = ndimage.label(above & near, EIGHT_NEIGHBOURS)
    recovered = patches & (labels == labels[row, column])
    # The query is most similar to itself, which says nothing.
    return Continuity(
        score=(np.count_nonzero(recovered) - 1) / num_patches,
        recall=(np.count_nonzero(above & patches) - 1) / num_patches,
        limit=limit,
        recovered=recovered,
    )


def _first_false(values: np.ndarray, outside: np.ndarray, min_false_patches: int) -> float:
    """Highest value at which a connected group of at least this many `outside` patches has no smaller value; -inf if none."""
    levels = np.unique(values[outside])

    def is_false(level: float) -> bool:
        labels, count = ndimage.label(outside & (values >= level), EIGHT_NEIGHBOURS)
        return bool(count) and int(np.bincount(labels.ravel())[1:].max()) >= min_false_patches

    if not levels.size or not is_false(levels[0]):
        return -math.inf
    # Groups only grow when the level falls: halve.
    found, above = 0, levels.size
    while above - found > 1:
        middle = (found + above) // 2
        found, above = (middle, above) if is_false(levels[middle]) else (found, middle)
    return float(levels[found])


def chance_continuity(
    device: ArrayLike,
    tip: tuple[int, int],
    *,
    ignore: ArrayLike | None = None,
    tolerance: int = 1,
    min_false_patches: int = 3,
    num_draws: int = 50,
    seed: int = 0,
) -> float:
    """Mean score of maps in random order: what `curve_continuity` gives for no information at all.

    Only the order counts, so this is what permuting any map without ties gives. Arguments as `curve_continuity`; `num_draws`
    random maps, decided by `seed`.
    """
    rng = np.random.default_rng(seed)
    shape = np.shape(device)
    settings = {"ignore": ignore, "tolerance": tolerance, "min_false_patches": min_false_patches}
    draws = [curve_continuity(rng.random(shape), device, tip, **settings) for _ in range(num_draws)]  # type: ignore[arg-type]
    return float(np.mean([draw.score for draw in draws]))


def distance_map(shape: tuple[int, int], tip: tuple[int, int]) -> np.ndarray:
    """(h, w) minus the distance in patches from the tip: the map of an encoder that sees positions and no image.

    Real maps are smooth, so patches beside the tip come first for no merit. The score of this map is what smoothness alone
    gives, and the one to beat.
    """
    rows, columns = np.indices(shape)
    return -np.hypot(rows - tip[0], columns - tip[1])


def patches_of_mask(
    mask: ArrayLike,
    grid: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
    *,
    min_coverage: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """The patches that a thin device lies in.

    Args:
        mask: (H, W) bool.
        grid: (h, w) of the map.
        box: (top, left, height, width) of what the map covers, in pixels of the mask; None: all of it.
        min_coverage: a patch belongs to the device from this share of the mean coverage of all patches that the mask touches.
            Relative, because a line covers little of a patch, and how much depends on both their widths. A patch of which the
            mask only clips a corner is left out; its neighbours still touch each other.

    Returns:
        (h, w) bool each: the device's patches, and all that the mask touches.

    Raises:
        InputError: a mask that is not (H, W), a grid finer than the pixels, or a share outside [0, 1].
    """
    array = np.asarray(mask, bool)
    if array.ndim != 2:
        raise InputError(f"mask of shape {array.shape}: give (H, W)")
    if not 0 <= min_coverage <= 1:
        raise InputError(f"min_coverage is {min_coverage}; it must be from 0 to 1")
    top, left, height, width = box if box is not None else (0.0, 0.0, *map(float, array.shape))
    if height < grid[0] or width < grid[1]:
        raise InputError(
            f"a mask of {height:g} x {width:g} px has less than a pixel for each of {grid[0]} x {grid[1]} patches; "
            "give a finer mask or use a coarser map"
        )
    rows, columns = np.nonzero(array)
    at_row = np.floor((rows + 0.5 - top) / height * grid[0]).astype(int)
    at_column = np.floor((columns + 0.5 - left) / width * grid[1]).astype(int)
    inside = (at_row >= 0) & (at_row < grid[0]) & (at_column >= 0) & (at_column < grid[1])
    coverage = np.zeros(grid)
    np.add.at(coverage, (at_row[inside], at_column[inside]), 1)
    touched = coverage > 0
    if not touched.any():
        return touched, touched
    return coverage >= max(min_coverage * coverage[touched].mean(), 1), touched
