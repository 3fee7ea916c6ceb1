"""Resize to a shorter side with B-spline interpolation and antialiasing, as the paper's images were made (section 4).

This is what TorchIO's Resample does with SimpleITK: a Gaussian of sigma sqrt((k^2 - 1) / (8 ln 2)) pixels along an axis that
shrinks by the factor k (Cardoso et al., 2015), then cubic B-spline interpolation. Both are linear and separable, so along each
axis they are one sparse matrix, which is made once per pair of lengths.
"""

from functools import lru_cache

import numpy as np
from scipy import sparse

from radscale.errors import InputError

# Pole of the cubic B-spline prefilter; its response falls to 1e-12 within 21 pixels.
POLE = np.sqrt(3.0) - 2.0
SPLINE_RADIUS = 21
GAUSSIAN_RADIUS_SIGMAS = 5.0
NEGLIGIBLE = 1e-7
"""Weights below it, two thirds of all, are beyond the precision of the float32 values that they would be added to."""


def resize_shorter_side(image: np.ndarray, size_px: int = 518, *, pixel_aspect: float = 1.0) -> np.ndarray:
    """Resize so that the shorter side has `size_px` pixels; the aspect ratio is kept.

    Args:
        image: (H, W) of any number type.
        size_px: new length of the shorter side; the longer one is rounded to whole pixels.
        pixel_aspect: height of the input's pixels over their width; the output's pixels are square.

    Returns:
        (H', W') float32 in the units of the input.

    Raises:
        InputError: not (H, W), a side of one pixel, or a size that is not positive.
    """
    array = np.asarray(image)
    if array.ndim != 2 or array.dtype.kind not in "uifb":
        raise InputError(f"image of shape {array.shape} and type {array.dtype}: give numbers of shape (H, W)")
    height, width = array.shape
    if min(height, width) < 2:
        raise InputError(f"image of {height} x {width} px is too small to resize; the least is 2 px a side")
    if size_px < 1:
        raise InputError(f"size_px is {size_px}; it must be 1 or more")
    tall = height * pixel_aspect
    scale = size_px / min(tall, width)
    new_height = size_px if tall <= width else round(tall * scale)
    new_width = size_px if width <= tall else round(width * scale)
    values = np.ascontiguousarray(array, dtype=np.float32)
    if new_height != height:
        values = resize_operator(height, new_height) @ values
    if new_width != width:
        values = np.ascontiguousarray((resize_operator(width, new_width) @ np.ascontiguousarray(values.T)).T)
    return values


@lru_cache(maxsize=64)
def resize_operator(length: int, new_length: int) -> sparse.csr_matrix:
    """(new_length, length) float32 matrix that blurs and interpolates along one axis."""
    operator = _spline_matrix(length, new_length)
    factor = length / new_length
    if factor > 1:
        operator = operator @ _gaussian_matrix(length, np.sqrt((factor**2 - 1) / (8 * np.log(2))))
    operator.data[np.abs(operator.data) < NEGLIGIBLE] = 0
    operator.eliminate_zeros()
    return operator.astype(np.float32)


def _spline_matrix(length: int, new_length: int) -> sparse.csr_matrix:
    """Cubic B-spline interpolation at the centres of the new pixels; the image is mirrored at its edges, as in ITK."""
    centres = (np.arange(new_length) + 0.5) * (length / new_length) - 0.5
    nearest = np.floor(centres).astype(np.int64)
    columns = nearest[:, None] + np.arange(-SPLINE_RADIUS, SPLINE_RADIUS + 2)[None, :]
    weights = _cardinal_spline(centres[:, None] - columns)
    rows = np.repeat(np.arange(new_length), columns.shape[1])
    matrix = sparse.coo_matrix((weights.ravel(), (rows, _mirror(columns, length).ravel())), shape=(new_length, length))
    return matrix.tocsr()


def _cardinal_spline(distance: np.ndarray) -> np.ndarray:
    """Weight of a sample at a distance in pixels: B-spline basis times prefilter, in one kernel."""
    shifts = np.arange(-SPLINE_RADIUS - 2, SPLINE_RADIUS + 3)
    prefilter = -6 * POLE / (1 - POLE**2) * POLE ** np.abs(shifts)
    total = np.zeros_like(distance)
    for shift, weight in zip(shifts, prefilter, strict=True):
        total += weight * _basis(distance - shift)
    return total


def _basis(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0.0))


def _mirror(index: np.ndarray, length: int) -> np.ndarray:
    period = 2 * (length - 1)
    index = np.abs(index) % period
    return np.where(index >= length, period - index, index)


def _gaussian_matrix(length: int, sigma: float) -> sparse.csr_matrix:
    """Gaussian blur; edge pixels are repeated outside the image."""
    radius = max(1, int(np.ceil(GAUSSIAN_RADIUS_SIGMAS * sigma)))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    columns = np.clip(np.arange(length)[:, None] + offsets[None, :], 0, length - 1)
    rows = np.repeat(np.arange(length), len(offsets))
    weights = np.tile(kernel, length)
    return sparse.coo_matrix((weights, (rows, columns.ravel())), shape=(length, length)).tocsr()


def normalise_to_8bit(image: np.ndarray) -> np.ndarray | None:
    """Scale the range of a (H, W) image to 0..255 (as RAD-DINO's data were); None if it has only one value."""
    low, high = float(image.min()), float(image.max())
    if not high > low:
        return None
    return np.rint((image - low) * (255.0 / (high - low))).astype(np.uint8)
