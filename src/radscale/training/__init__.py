"""Machinery of training: loop, schedules, sampling, checkpoints, open weights. Knows no objective and no dataset.

May import `radscale.models`, `radscale.losses` and torch.
"""

from radscale.training.checkpointing import load_checkpoint, save_checkpoint
from radscale.training.distributed import ONE_RANK, Ranks, start_fabric
from radscale.training.open_weights import load_dino_head, load_encoder
from radscale.training.samplers import ShuffledEpochs
from radscale.training.schedules import cosine_schedule, linear_warmup_then_constant
from radscale.training.stopping import RunStopped
from radscale.training.trainer import LoopSettings, NonFiniteLossError, train

__all__ = [
    "ONE_RANK",
    "LoopSettings",
    "NonFiniteLossError",
    "Ranks",
    "RunStopped",
    "ShuffledEpochs",
    "cosine_schedule",
    "linear_warmup_then_constant",
    "load_checkpoint",
    "load_dino_head",
    "load_encoder",
    "save_checkpoint",
    "start_fabric",
    "train",
]
