"""Patch similarity, as in Figure 1 of the paper."""

import torch.nn.functional as F
from torch import Tensor

from radscale.errors import InputError


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
