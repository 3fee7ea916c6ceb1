"""Equal compute in one file: what a budget is, what an image costs, how many steps that makes.

The paper gives every arm the same wall-clock time (section 5). A budget is an amount of one unit; it is turned into steps by
pure functions of the cost of an image, and the achieved amount is recorded beside the target.
"""

import math
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
    """FLOPs of one image in training: three forward passes of what is trained, one of a teacher.

    Counted on a copy without memory, from architecture and crop sizes alone, so that every machine gets the same number.
    Texts count with the full context length.
    """
    with torch.device("meta"):
        copy = make_encoder(encoder.config_dict())
        if config.objective != "dinov2":
            return 3 * _image_text_flops(config, copy)
        assert isinstance(copy, ViTEncoder)
        return _dinov2_flops(config, copy)


def _count(function: object, *inputs: torch.Tensor) -> float:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        function(*inputs)  # type: ignore[operator]
    return float(counter.get_total_flops())


def _image_text_flops(config: "PretrainingConfig", encoder: "Encoder") -> float:
    if isinstance(encoder, ViTEncoder):
        from radscale.pretraining.contrastive import with_text_tower

        encoder = with_text_tower(encoder, config, initialise=False)
    assert isinstance(encoder, ImageTextEncoder)
    size = config.image_size_px or encoder.preprocessing.image_size_px
    image = _count(encoder.encode_image, torch.empty(1, 3, size, size))
    length = encoder.lang_encoder.config.context_length
    tokens = torch.zeros(1, length, dtype=torch.int64)
    return image + _count(encoder.encode_tokens, tokens, torch.ones_like(tokens))


def _dinov2_flops(config: "PretrainingConfig", encoder: ViTEncoder) -> float:
    options = config.dinov2
    backbone = encoder.backbone
    large = _count(backbone.forward_tokens, torch.empty(1, 3, options.global_size_px, options.global_size_px))
    small = _count(backbone.forward_tokens, torch.empty(1, 3, options.local_size_px, options.local_size_px))
    head = DinoHead(encoder.embedding_dim, options.num_prototypes, options.head_hidden, options.head_bottleneck)
    row = _count(head, torch.empty(1, encoder.embedding_dim))
    num_patches = (options.global_size_px // backbone.config.patch_size_px) ** 2
    num_masked = options.mask_probability * sum(options.mask_ratio) / 2 * num_patches * 2
    student = 2 * large + options.num_local_crops * small + (2 + options.num_local_crops + num_masked) * row
    teacher = 2 * large + (2 + num_masked) * row
    return 3 * student + teacher
