"""Continual pretraining with CLIP, UniCL or DINOv2 under one compute budget (paper, sections 3 and 5).

May import `radscale.datasets`, `radscale.training` and what lies below them; never another stage.
"""

from radscale.pretraining.compute_budget import ComputeBudget, steps_for, training_flops_per_sample
from radscale.pretraining.config import PRESETS, PretrainingConfig
from radscale.pretraining.pretrain import run_pretraining

__all__ = ["PRESETS", "ComputeBudget", "PretrainingConfig", "run_pretraining", "steps_for", "training_flops_per_sample"]
