"""Training losses as pure functions of tensors. Knows no files, ranks or run settings.

May import only torch and `radscale.errors`.
"""

from radscale.losses.clip import clip_loss
from radscale.losses.dice import dice_loss
from radscale.losses.dino import dino_loss, sinkhorn_knopp, sinkhorn_offsets, softmax_center, teacher_targets, update_center
from radscale.losses.ibot import Projection, chunked_ibot_loss, ibot_loss
from radscale.losses.koleo import koleo_loss
from radscale.losses.unicl import unicl_loss, unique_pair_targets

__all__ = [
    "Projection",
    "chunked_ibot_loss",
    "clip_loss",
    "dice_loss",
    "dino_loss",
    "ibot_loss",
    "koleo_loss",
    "sinkhorn_knopp",
    "sinkhorn_offsets",
    "softmax_center",
    "teacher_targets",
    "unicl_loss",
    "unique_pair_targets",
    "update_center",
]
