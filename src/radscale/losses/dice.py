"""Soft Dice loss (Milletari et al., 2016) and its variants, such as the "batch Dice" of nnU-Net (Isensee et al., 2021)."""

from typing import Literal

import torch
from torch import Tensor


def dice_loss(
    logits: Tensor,
    targets: Tensor,
    smooth: float = 1.0,
    *,
    over: Literal["image", "batch"] = "image",
    squared: bool = False,
    known: Tensor | None = None,
) -> Tensor:
    """One minus the soft Dice overlap, averaged over masks.

    Args:
        logits: (..., B, C, H, W).
        targets: (B, C, H, W) in [0, 1].
        smooth: added to both sides of the fraction; an empty target with an empty prediction then costs nothing.
        over: "image" compares each mask by itself, so that any prediction where the target is empty costs almost 1.
            "batch" joins the masks of a class over the batch first, so that it costs as many pixels as it has.
        squared: sum squares in the denominator (V-Net's form).
        known: (B, C) bool; masks that are not known cost nothing. None: all are.

    Returns:
        Mean over the known masks ("image") or over the classes that have any ("batch"); 0 if there are none.
    """
    probabilities = logits.float().sigmoid().flatten(-2)
    targets = targets.float().flatten(-2)
    overlap = (probabilities * targets).sum(dim=-1)
    if squared:
        total = probabilities.square().sum(dim=-1) + targets.square().sum(dim=-1)
    else:
        total = probabilities.sum(dim=-1) + targets.sum(dim=-1)
    weights = torch.ones_like(overlap) if known is None else known.to(overlap).expand_as(overlap)
    if over == "batch":
        overlap, total = (overlap * weights).sum(dim=-2), (total * weights).sum(dim=-2)
        weights = weights.amax(dim=-2)
    costs = 1 - (2 * overlap + smooth) / (total + smooth)
    return (costs * weights).sum() / weights.sum().clamp(min=1)
