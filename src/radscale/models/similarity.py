"""Patch similarity, as in Figure 1 of the paper, and where the patches lie in the image."""

import torch.nn.functional as F
from torch import Tensor

from radscale.errors import InputError
from radscale.models.encoder import Preprocessing

Box = tuple[float, float, float, float]
"""(top, left, height, width) in pixels of the image before preprocessing."""


def patch_similarity(feature_map: Tensor, row: int, column: int) -> Tensor:
    """Cosine similarity in [-1, 1] of every patch with the patch at (row, column).

    Args:
        feature_map: (D, h, w).
        row: of the query patch, 0 to h - 1.
        column: of the query patch, 0 to w - 1.

    Returns:
        (h, w) map; 1 at the query patch.

    Raises:
        InputError: the query is outside the map.
    """
    _, height, width = feature_map.shape
    if not (0 <= row < height and 0 <= column < width):
        raise InputError(f"patch ({row}, {column}) is outside the map of {height} x {width} patches; count from 0")
    features = F.normalize(feature_map.float(), dim=0)
    return (features * features[:, row, column, None, None]).sum(0).clamp(-1, 1)


def visible_box(preprocessing: Preprocessing, shape: tuple[int, int]) -> Box:
    """The part of an image of (H, W) pixels that reaches the encoder: all of it, or the centre crop.

    Feature maps cover this box evenly, so it places a patch in the image and a point of the image in a map.
    """
    height, width = shape
    if preprocessing.resize == "squash":
        return 0.0, 0.0, float(height), float(width)
    # As `Preprocessing._resize` does it, back in pixels of the image.
    size = preprocessing.image_size_px
    short = round(size / preprocessing.crop_fraction)
    resized = (short, short * width // height) if height <= width else (short * height // width, short)
    row_px, column_px = height / resized[0], width / resized[1]
    return (
        (resized[0] - size) // 2 * row_px,
        (resized[1] - size) // 2 * column_px,
        size * row_px,
        size * column_px,
    )


def patch_at(point: tuple[float, float], box: Box, grid: tuple[int, int]) -> tuple[int, int] | None:
    """(row, column) of the patch that holds a point (y, x), in pixels of the image; None outside the box."""
    row = (point[0] - box[0]) / box[2] * grid[0]
    column = (point[1] - box[1]) / box[3] * grid[1]
    return (int(row), int(column)) if 0 <= row < grid[0] and 0 <= column < grid[1] else None
