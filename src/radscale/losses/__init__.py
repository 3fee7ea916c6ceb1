"""Training losses as pure functions of tensors. Knows no files, ranks or run settings.

May import only torch and `radscale.errors`.
"""

from radscale.losses.clip import clip_loss
from radscale.losses.dice import dice_loss
from radscale.losses.dino import dino_loss, sinkhorn_knopp, softmax_center, update_center
from radscale.losses.ibot import ibot_loss
from radscale.losses.koleo import koleo_loss
from radscale.losses.unicl import unicl_loss, unique_pair_targets

__all__ = [
    "clip_loss",
    "dice_loss",
    "dino_loss",
    "ibot_loss",
    "koleo_loss",
    "sinkhorn_knopp",
    "softmax_center",
    "unicl_loss",
    "unique_pair_targets",
    "update_center",
]
