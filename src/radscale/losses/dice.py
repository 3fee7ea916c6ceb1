"""Soft Dice loss (Milletari et al., 2016)."""

from torch import Tensor


def dice_loss(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice overlap, per mask, averaged over images and classes.

    Args:
        logits: (B, C, H, W).
        targets: (B, C, H, W) in [0, 1].
        smooth: added to both sides of the fraction; an empty target with an empty prediction then costs nothing.
    """
    probabilities = logits.float().sigmoid().flatten(2)
    targets = targets.float().flatten(2)
    overlap = (probabilities * targets).sum(dim=-1)
    total = probabilities.sum(dim=-1) + targets.sum(dim=-1)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()
