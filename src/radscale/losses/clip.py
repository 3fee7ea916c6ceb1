"""Contrastive loss of CLIP (Radford et al., 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Mean of the two cross-entropies (image to text, text to image); the pair in one row is the only positive.

    Args:
        image_features: (B, D), L2-normalised.
        text_features: (B, D), L2-normalised.
        logit_scale: scalar, already exponentiated.
    """
    logits = contrastive_logits(image_features, text_features, logit_scale)
    targets = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def contrastive_logits(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """(B, B) scaled cosine similarities, images in rows, in float32 also under autocast."""
    with torch.autocast(device_type=image_features.device.type, enabled=False):
        return logit_scale.float() * image_features.float() @ text_features.float().T
