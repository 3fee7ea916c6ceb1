"""Centre lines of masks by thinning (Zhang and Suen, Communications of the ACM 1984).

Its lines are two pixels wide where they climb in steps. Corners of steps are therefore removed afterwards, one by one, wherever
that parts nothing (Yokoi's connectivity number is 1), so that the ends of a line are the pixels with one neighbour.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

# Offsets of a pixel's neighbours, clockwise from the one above it: P2 to P9 of the paper.
ROWS, COLUMNS = np.array([-1, -1, 0, 1, 1, 1, 0, -1]), np.array([0, 1, 1, 1, 0, -1, -1, -1])


def skeletonise(mask: ArrayLike) -> np.ndarray:
    """Lines of one pixel's width through the middle of a mask, connected as the mask is (8 neighbours).

    Where the algorithm would remove a component whole (a square of 2 x 2 px), its first pixel stays, so that only an empty mask
    has an empty skeleton. Other tools thin by other tables, and differ by a pixel along the line.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool, part of the mask.
    """
    array = np.asarray(mask, bool)
    rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
    if not rows.size:
        return np.zeros_like(array)
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = np.pad(array[box], 1)
    thin = padded.copy()
    _thin(thin, _removals())
    labels, count = ndimage.label(padded, np.ones((3, 3), bool))
    kept = np.zeros(count + 1, bool)
    kept[labels[thin]] = True
    for label in np.flatnonzero(~kept[1:]) + 1:
        thin.flat[np.argmax(labels == label)] = True
    skeleton = np.zeros_like(array)
    skeleton[box] = thin[1:-1, 1:-1]
    return skeleton


def line_ends(skeleton: np.ndarray) -> np.ndarray:
    """(n, 2) pixels (y, x) of a skeleton (H, W) that have at most one neighbour (of eight); of a closed curve all pixels."""
    padded = np.pad(skeleton, 1)
    pixels = np.argwhere(padded)
    neighbours = padded[pixels[:, :1] + ROWS, pixels[:, 1:] + COLUMNS].sum(1)
    return np.asarray((pixels[neighbours <= 1] if (neighbours <= 1).any() else pixels) - 1)


def _removals() -> np.ndarray:
    """(3, 256) bool: may a pixel go, by its eight neighbours: in the first and second half of a pass, as a step?"""
    neighbours = (np.arange(256)[:, None] >> np.arange(8)) & 1
    count = neighbours.sum(1)
    rises = ((neighbours == 0) & (np.roll(neighbours, -1, axis=1) == 1)).sum(1)
    up, right, down, left = neighbours[:, ::2].T
    border = (count >= 2) & (count <= 6) & (rises == 1)
    first = (up * right * down == 0) & (right * down * left == 0)
    second = (up * right * left == 0) & (up * down * left == 0)
    absent = 1 - neighbours
    following = absent[:, ::2] * np.roll(absent, -1, axis=1)[:, ::2] * np.roll(absent, -2, axis=1)[:, ::2]
    # With a neighbour each in two directions at right angles: the end of a line never has that, and stays.
    corner = (up * right + right * down + down * left + left * up) > 0
    step = corner & ((absent[:, ::2] - following).sum(1) == 1)
    return np.stack([border & first, border & second, step])


@numba.njit(cache=True, nogil=True)
def _neighbour_bits(mask, y, x):  # type: ignore[no-untyped-def]
    bits = 0
    for n in range(8):
        bits |= int(mask[y + ROWS[n], x + COLUMNS[n]]) << n
    return bits


@numba.njit(cache=True, nogil=True)
def _thin(mask, removals):  # type: ignore[no-untyped-def]
    """Thin a mask (H, W) with an empty border, in place."""
    height, width = mask.shape
    pixels = np.empty((mask.sum(), 2), np.int64)
    count = 0
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                pixels[count, 0], pixels[count, 1] = y, x
                count += 1
    doomed = np.empty(count, np.bool_)
    changed = True
    while changed:
        changed = False
        for half in range(2):
            for i in range(count):
                doomed[i] = removals[half, _neighbour_bits(mask, pixels[i, 0], pixels[i, 1])]
            # All at once, and only what is left is looked at again.
            left = 0
            for i in range(count):
                if doomed[i]:
                    mask[pixels[i, 0], pixels[i, 1]] = False
                    changed = True
                else:
                    pixels[left, 0], pixels[left, 1] = pixels[i, 0], pixels[i, 1]
                    left += 1
            count = left
    for i in range(count):
        y, x = pixels[i]
        if removals[2, _neighbour_bits(mask, y, x)]:
            mask[y, x] = False
