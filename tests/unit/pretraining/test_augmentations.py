import torch

from radscale.pretraining.augmentations import apply_crops, block_masks, plan_crops


def sizes(count: int, height: int = 100, width: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((count,), height), torch.full((count,), width)


def test_crops_have_the_shares_and_ratios_asked_for_and_lie_inside() -> None:
    plan = plan_crops(*sizes(2000), torch.Generator().manual_seed(0), scale=(0.2, 0.5), ratio=(0.75, 4 / 3))
    share = plan.height * plan.width / (100 * 80)
    ratio = plan.width / plan.height
    assert 0.19 < share.min() < 0.21
    assert 0.49 < share.max() < 0.51
    assert abs(share.mean() - 0.35) < 0.01
    assert ratio.min() > 0.72
    assert ratio.max() < 1.38
    assert (plan.top + plan.height <= 100).all()
    assert (plan.left + plan.width <= 80).all()


def test_a_very_long_image_falls_back_to_its_centre() -> None:
    plan = plan_crops(*sizes(50, 1000, 20), torch.Generator().manual_seed(0), scale=(0.9, 1.0))
    assert (plan.width == 20).all()
    assert (plan.height == 20).all()
    assert (plan.top == 490).all()


def test_probabilities() -> None:
    plan = plan_crops(
        *sizes(4000),
        torch.Generator().manual_seed(1),
        scale=(0.5, 1.0),
        flip_probability=0.5,
        blur_probability=0.1,
        jitter_probability=0.8,
        brightness=0.4,
        contrast=0.2,
    )
    assert abs(plan.flip.float().mean() - 0.5) < 0.03
    assert abs((plan.blur_sigma > 0).float().mean() - 0.1) < 0.02
    assert abs((plan.brightness != 1).float().mean() - 0.8) < 0.03
    assert 0.59 < plan.brightness.min() < 0.62
    assert 1.18 < plan.contrast.max() < 1.21


def test_padding_of_smaller_images_never_enters_a_crop() -> None:
    canvas = torch.zeros(20, 100, 80)
    canvas[:, :40, :30] = 0.5
    plan = plan_crops(*sizes(20, 40, 30), torch.Generator().manual_seed(0), scale=(0.2, 1.0), jitter_probability=0.0)
    torch.testing.assert_close(apply_crops(canvas, plan, 16), torch.full((20, 1, 16, 16), 0.5))


def test_autocast_changes_no_bit_of_a_crop() -> None:
    images = torch.rand(16, 100, 80, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    plan = plan_crops(*sizes(16), generator, scale=(0.2, 1.0), flip_probability=0.5, blur_probability=0.5, contrast=0.4)
    plain = apply_crops(images, plan, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply_crops(images, plan, 32), plain)


def test_the_same_generator_gives_the_same_crops() -> None:
    first, second = (
        plan_crops(*sizes(8), torch.Generator().manual_seed(3), scale=(0.2, 1.0), blur_probability=0.5) for _ in range(2)
    )
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def test_masks_hide_the_shares_of_the_reference() -> None:
    masks = block_masks(64, 16, torch.Generator().manual_seed(0), probability=0.5, ratio=(0.1, 0.5))
    hidden = masks.float().mean(dim=1)
    assert masks.shape == (64, 256)
    assert (hidden > 0).sum() == 32
    assert hidden.max() <= 0.5
    assert 0.25 < hidden[hidden > 0].mean() <= 0.3  # from .1 to .5 evenly, less what blocks of four cannot fill
