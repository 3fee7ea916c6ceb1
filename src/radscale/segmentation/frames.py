"""Between the encoder's grid and the pixels of an image.

g = cells of the grid, H, W = pixels of the stored image, S = side of the square in which the head is trained.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from radscale.models.similarity import Box


def interpolation_matrix(num_pixels: int, cells: int, start: float = 0.0, length: float | None = None) -> Tensor:
    """(num_pixels, cells) weights of bilinear interpolation along one axis.

    The cells cover `length` pixels from `start` on evenly; beyond the centres of the outer cells their values go on (as
    `interpolate` with align_corners=False). Pixels whose centre no cell covers have rows of zeros.
    """
    length = float(num_pixels) if length is None else length
    place = (torch.arange(num_pixels, dtype=torch.float64) + 0.5 - start) / length
    covered = (place >= 0) & (place < 1)
    position = (place * cells - 0.5).clamp(0, cells - 1)
    matrix = (1 - (position[:, None] - torch.arange(cells)).abs()).clamp(min=0)
    return (matrix * covered[:, None]).float()


def upsample(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(..., g, g) with matrices (H, g) and (W, g) -> (..., H, W): bilinear, one axis after the other."""
    return rows @ logits @ columns.T


@torch.inference_mode()
def predicted_masks(logits: Tensor, box: Box, shape: tuple[int, int], threshold: float) -> np.ndarray:
    """Logits (..., g, g) as masks of the stored image: (..., H, W) bool.

    Args:
        logits: of one image.
        box: the part of the image that the grid covers (`visible_box`); outside of it nothing is predicted.
        shape: (H, W).
        threshold: least probability of a pixel of the mask.
    """
    matrices = [
        interpolation_matrix(size, logits.shape[-1], start, length).to(logits.device)
        for size, start, length in zip(shape, box[:2], box[2:], strict=True)
    ]
    seen = (matrices[0].sum(1) > 0)[:, None] & (matrices[1].sum(1) > 0)
    level = float(np.log(threshold / (1 - threshold)))
    return np.asarray(((upsample(logits, *matrices) > level) & seen).cpu())


def seen_mask(mask: np.ndarray, box: Box, size_px: int) -> np.ndarray:
    """The part of a mask (H, W) bool in a box, as the share of each pixel of an (S, S) square: float32 in [0, 1]."""
    top, left = round(box[0]), round(box[1])
    bottom, right = round(box[0] + box[2]), round(box[1] + box[3])
    part = mask[top:bottom, left:right].astype(np.float32)
    if part.shape == (size_px, size_px):
        return part
    return np.asarray(cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_AREA))
