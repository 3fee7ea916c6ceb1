"""Each operation of TrivialAugment against torchvision's on 8-bit tensors."""

from typing import Any

import pytest
import torch

from radscale.benchmarks.peers import repair_torchvision
from radscale.pretraining.trivial_augment import NUM_STRENGTHS, OPERATIONS, TrivialPlan, apply_trivial_augment


def autoaugment() -> Any:
    try:
        repair_torchvision()
        from torchvision.transforms import autoaugment
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision: {error}")
    return autoaugment


def plan(operation: int, strength: int, sign: int, count: int) -> TrivialPlan:
    zero = torch.zeros(count)
    whole = torch.full((count,), strength), torch.full((count,), float(sign))
    return TrivialPlan(torch.full((count,), operation), *whole, zero, zero, zero, zero)


@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=OPERATIONS)
def test_operation_is_torchvisions(number: int) -> None:
    peer = autoaugment()
    space = peer.TrivialAugmentWide()._augmentation_space(NUM_STRENGTHS)
    name, (magnitudes, signed) = list(space.items())[number]
    generator = torch.Generator().manual_seed(number)
    noise = torch.randint(0, 256, (1, 64, 64), generator=generator)
    ramp = (torch.arange(64)[None, :, None] + torch.arange(64)[None, None, :]) + 40
    images = torch.stack([noise, ramp, torch.full((1, 64, 64), 90)]).to(torch.uint8)
    for strength in (0, 7, 18, 30):
        for sign in (1, -1) if signed else (1,):
            ours = apply_trivial_augment(images / 255, plan(number, strength, sign, 3)) * 255
            magnitude = float(magnitudes[strength]) * sign if magnitudes.ndim else 0.0
            theirs = torch.stack(
                [peer._apply_op(image, name, magnitude, peer.InterpolationMode.NEAREST, None) for image in images]
            )
            difference = (ours - theirs.float()).abs()
            # Rounding of a level, and of a nearest pixel that lies in the middle of two.
            assert float((difference > 1.01).float().mean()) <= (0.005 if name in ("ShearX", "ShearY", "Rotate") else 0), (
                strength
            )
