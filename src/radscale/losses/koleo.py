"""Kozachenko-Leonenko regulariser (Sablayrolles et al., 2019), as in DINOv2: spread features over the sphere."""

import torch
import torch.nn.functional as F
from torch import Tensor

from radscale.errors import InputError

EPSILON = 1e-8


def koleo_loss(cls_features: Tensor) -> Tensor:
    """Minus the mean log distance of each image to its nearest neighbour in the batch.

    Args:
        cls_features: (N, D), of one view, before the head; normalised here, in float32. Duplicates cost the most, 17.

    Raises:
        InputError: a single row has no neighbour.
    """
    if len(cls_features) < 2:
        raise InputError(f"koleo_loss: {len(cls_features)} image has no neighbour; the least batch per device is 2 images")
    with torch.autocast(device_type=cls_features.device.type, enabled=False):
        features = F.normalize(cls_features.float(), dim=-1, eps=EPSILON)
        with torch.no_grad():
            similarity = features @ features.T
            similarity.fill_diagonal_(-1)
            nearest = similarity.argmax(dim=1)
        distances = F.pairwise_distance(features, features[nearest], p=2, eps=EPSILON)
        return -torch.log(distances + EPSILON).mean()
