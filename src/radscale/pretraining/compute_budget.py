"""Equal compute in one file: what a budget is, what an image costs, how many steps that makes.

The paper gives every arm the same wall-clock time (section 5). A budget is an amount of one unit; it is turned into steps by
pure functions of the cost of an image, and the achieved amount is recorded beside the target.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from radscale.errors import InputError
from radscale.models import DinoHead, ImageTextEncoder, ViTEncoder, make_encoder

if TYPE_CHECKING:
    from radscale.models import Encoder
    from radscale.pretraining.config import PretrainingConfig

Unit = Literal["samples_seen", "flops", "gpu_seconds"]


@dataclass(frozen=True)
class ComputeBudget:
    """An amount of compute for one run. Make it with `samples_seen`, `flops` or `gpu_seconds`."""

    unit: Unit
    amount: float

    def __post_init__(self) -> None:
        if not self.amount > 0 or not math.isfinite(self.amount):
            raise InputError(f"budget of {self.amount} {self.unit}; it must be a positive number")

    @classmethod
    def samples_seen(cls, amount: float) -> "ComputeBudget":
        """Images that pass through the trained encoder, repetitions counted."""
        return cls("samples_seen", amount)

    @classmethod
    def flops(cls, amount: float) -> "ComputeBudget":
        """Floating-point operations, two per multiply-add."""
        return cls("flops", amount)

    @classmethod
    def gpu_seconds(cls, amount: float) -> "ComputeBudget":
        """Seconds of training, summed over devices (of the CPU where there is no other device)."""
        return cls("gpu_seconds", amount)


def steps_for(
    budget: ComputeBudget, batch_size: int, *, flops_per_sample: float | None = None, seconds_per_sample: float | None = None
) -> int:
    """Optimizer steps nearest to the budget, at least one.

    Args:
        budget: target.
        batch_size: images per step, over all devices.
        flops_per_sample: needed for a budget in FLOPs.
        seconds_per_sample: device seconds, needed for a budget in seconds.
    """
    costs = {"samples_seen": 1.0, "flops": flops_per_sample, "gpu_seconds": seconds_per_sample}
    cost = costs[budget.unit]
    if cost is None:
        raise InputError(f"a budget in {budget.unit} needs the cost of one image in that unit")
    return max(1, round(budget.amount / (cost * batch_size)))


def training_flops_per_sample(config: "PretrainingConfig", encoder: "Encoder") -> float:
    """FLOPs of one image in training: three forward passes of what is trained (forward, gradients of inputs and of weights),
    one of a teacher.

    Counted on a copy without memory, from architecture, batch and crop sizes alone, so that every machine gets the same
    number. Stochastic depth that skips images of a batch counts as skipped. Texts count with the full context length.
    Augmentation, losses and the optimizer are not counted.
    """
    with torch.device("meta"):
        copy = make_encoder(encoder.config_dict())
        if config.objective != "dinov2":
            return _image_text_flops(config, copy)
        if not isinstance(copy, ViTEncoder):
            raise InputError("objective dinov2 needs a vision transformer; start from RAD-DINO, DINOv2 or a ViT checkpoint")
        return _dinov2_flops(config, copy)


def _count(function: Callable[..., object], *inputs: torch.Tensor) -> float:
    """FLOPs of one call per row of the first input."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        function(*inputs)
    return counter.get_total_flops() / len(inputs[0])


def _image_text_flops(config: "PretrainingConfig", encoder: "Encoder") -> float:
    if isinstance(encoder, ViTEncoder):
        from radscale.pretraining.contrastive import with_text_tower

        encoder = with_text_tower(encoder, config, initialise=False)
    assert isinstance(encoder, ImageTextEncoder)
    size = config.image_size_px or encoder.preprocessing.image_size_px
    image = _count(encoder.train().encode_image, torch.empty(config.batch_size, 3, size, size))
    tokens = torch.zeros(1, encoder.lang_encoder.config.context_length, dtype=torch.int64)
    return 3 * (image + _count(encoder.encode_tokens, tokens, torch.ones_like(tokens)))


def _dinov2_flops(config: "PretrainingConfig", encoder: ViTEncoder) -> float:
    from radscale.pretraining.dinov2 import check_crop_sizes, replace_drop_path

    options, batch = config.dinov2, config.batch_size
    check_crop_sizes(options, encoder)
    backbone = encoder.backbone
    replace_drop_path(encoder, options.drop_path)
    views = torch.empty(2 * batch, 3, options.global_size_px, options.global_size_px)
    crops = torch.empty(max(1, options.num_local_crops) * batch, 3, options.local_size_px, options.local_size_px)
    head = DinoHead(encoder.embedding_dim, options.num_prototypes, options.head_hidden, options.head_bottleneck)
    row = _count(head, torch.empty(1, encoder.embedding_dim))
    num_patches = (options.global_size_px // backbone.config.patch_size_px) ** 2
    num_masked = options.mask_probability * sum(options.mask_ratio) / 2 * num_patches * 2
    teacher = 2 * _count(backbone.eval().forward_tokens, views) + (2 + num_masked) * row
    backbone.train()
    student = 2 * _count(backbone.forward_tokens, views) + (2 + options.num_local_crops + num_masked) * row
    student += options.num_local_crops * _count(backbone.forward_tokens, crops)
    return 3 * student + teacher
