"""Patch similarity, as in Figure 1 of the paper."""

import torch.nn.functional as F
from torch import Tensor


def patch_similarity(feature_map: Tensor, row: int, column: int) -> Tensor:
    """Cosine similarity in [-1, 1] of every patch with the patch at (row, column).

    Args:
        feature_map: (D, h, w).
        row: of the query patch, 0 to h - 1.
        column: of the query patch, 0 to w - 1.

    Returns:
        (h, w) map; 1 at the query patch.
    """
    features = F.normalize(feature_map.float(), dim=0)
    return (features * features[:, row, column, None, None]).sum(0).clamp(-1, 1)
