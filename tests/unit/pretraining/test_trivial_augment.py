"""TrivialAugment's draws, and rectangles that are erased. Its operations are compared with torchvision's in tests/parity."""

from dataclasses import replace

import pytest
import torch

from radscale.errors import InputError
from radscale.pretraining.config import Augmentation
from radscale.pretraining.trivial_augment import (
    ERASED_GREY,
    NUM_STRENGTHS,
    OPERATIONS,
    apply_trivial_augment,
    plan_trivial_augment,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_operations_and_strengths_are_drawn_evenly_and_rectangles_as_often_as_asked() -> None:
    plan = plan_trivial_augment(20_000, 100, seeded(), erasing_probability=0.25)
    for values, kinds in ((plan.operation, len(OPERATIONS)), (plan.strength, NUM_STRENGTHS), ((plan.sign + 1).long() // 2, 2)):
        shares = torch.bincount(values, minlength=kinds) / 20_000
        assert len(shares) == kinds
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / kinds), rtol=0.2, atol=0)
    erased = plan.erased_height > 0
    assert float(erased.float().mean()) == pytest.approx(0.25, abs=0.01)
    area = (plan.erased_height * plan.erased_width)[erased] / 100**2
    assert 0.018 < float(area.min()) < 0.03
    assert 0.3 < float(area.max()) < 0.35
    assert bool((plan.erased_top + plan.erased_height <= 100).all() and (plan.erased_left + plan.erased_width <= 100).all())
    assert plan_trivial_augment(20_000, 100, seeded(), erasing_probability=0.0).erased_height.max() == 0


def test_autocast_changes_no_bit() -> None:
    images = torch.rand(200, 1, 40, 40, generator=seeded(1))
    plan = plan_trivial_augment(200, 40, seeded(2), erasing_probability=0.25)
    plain = apply_trivial_augment(images, plan)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply_trivial_augment(images, plan), plain)


def test_an_image_gets_its_own_operation_and_only_its_rectangle_is_erased() -> None:
    images = torch.rand(8, 1, 40, 40, generator=seeded(1))
    plan = plan_trivial_augment(8, 40, seeded(2), erasing_probability=1.0)
    whole = apply_trivial_augment(images, plan)
    for row in range(8):
        one = torch.tensor([row])
        assert torch.equal(apply_trivial_augment(images[one], plan.rows(one)), whole[one])
    zero = torch.zeros(8)
    untouched = replace(plan, operation=torch.zeros(8, dtype=torch.long))
    plain = apply_trivial_augment(images, replace(untouched, erased_height=zero))
    torch.testing.assert_close(plain, images, rtol=0, atol=0.5 / 255 + 1e-6)
    changed = apply_trivial_augment(images, untouched) != plain
    assert changed.flatten(1).sum(1).tolist() == (plan.erased_height * plan.erased_width).tolist()
    assert torch.equal(apply_trivial_augment(images, untouched)[changed], torch.full((int(changed.sum()),), ERASED_GREY))


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(InputError, match=r"augmentation.recipe is heavy; it must be light or medimageinsight"):
        Augmentation(recipe="heavy")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"augmentation.erasing_probability is 2; it must be from 0 to 1"):
        Augmentation(erasing_probability=2)
