"""Unified contrastive loss (Yang et al., 2022), as MedImageInsight is trained with it."""

from torch import Tensor

from radscale.losses.clip import contrastive_logits


def unicl_loss(image_features: Tensor, text_features: Tensor, targets: Tensor, logit_scale: Tensor) -> Tensor:
    """Bidirectional contrastive loss in which every pair with an equal target is a positive.

    Args:
        image_features: (B, D), L2-normalised.
        text_features: (B, D), L2-normalised.
        targets: (B,) integers. All distinct: the CLIP loss.
        logit_scale: scalar, already exponentiated.

    Returns:
        Scalar: per row the mean of -log softmax over its positives, mean over rows, mean of both directions (half of the
        UniCL paper's sum, as in MedImageInsight's trainer).
    """
    logits = contrastive_logits(image_features, text_features, logit_scale)
    positives = (targets[:, None] == targets[None, :]).to(logits.dtype)
    positives = positives / positives.sum(dim=1, keepdim=True)
    image_to_text = -(positives * logits.log_softmax(dim=1)).sum(dim=1).mean()
    text_to_image = -(positives * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (image_to_text + text_to_image) / 2


def unique_pair_targets(labels: Tensor) -> Tensor:
    """Targets in which each 0 (an image with its own report) becomes a class of its own and other ids are kept.

    Args:
        labels: (B,) integers; ids of classes start at 1.
    """
    is_pair = labels == 0
    fresh = labels.max() + is_pair.cumsum(dim=0)
    return labels.where(~is_pair, fresh)
