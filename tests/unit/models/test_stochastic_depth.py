"""A part of a batch draws what it would draw in the whole one, and an image keeps the same branches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from radscale.models import DaViT, DaViTConfig, VisionTransformer, ViTConfig
from radscale.models.stochastic_depth import BatchPart, draw_subset, draw_uniform

Features = Callable[[Tensor, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def davit(**settings: Any) -> tuple[nn.Module, Features]:
    model = DaViT(DaViTConfig(depths=(1, 1, 1, 1), widths=(8, 16, 16, 16), num_heads=(1, 2, 2, 2), drop_path=0.5, **settings))
    model.reset_parameters(seeded(1))
    return model, model.forward_pooled


def vit() -> tuple[nn.Module, Features]:
    model = VisionTransformer(ViTConfig(image_size_px=32, patch_size_px=8, width=16, depth=4, num_heads=2, drop_path=0.6))
    model.reset_parameters(seeded(1))
    return model, lambda pixels, generator: model.forward_tokens(pixels, None, generator)["cls"]


def test_draws_of_parts_are_those_of_the_batch() -> None:
    whole, expected = seeded(), [draw_uniform(7, source) for source in [seeded()] * 3]
    parts = [BatchPart.of(whole, torch.arange(start, start + n), 7) for start, n in ((0, 3), (3, 2), (5, 2))]
    for values in expected:
        assert torch.equal(torch.cat([draw_uniform(n, part) for n, part in zip((3, 2, 2), parts, strict=True)]), values)
    chosen, weight = draw_subset(7, 0.5, seeded())
    assert (len(chosen), weight) == (3, 7 / 3)
    found = [
        draw_subset(n, 0.5, BatchPart.of(seeded(), torch.arange(start, start + n), 7)) for start, n in ((0, 3), (3, 2), (5, 2))
    ]
    assert sorted(torch.cat([found[0][0], found[1][0] + 3, found[2][0] + 5]).tolist()) == sorted(chosen.tolist())
    assert {part[1] for part in found} == {weight}
    assert torch.equal(whole.get_state(), seeded().get_state())  # taking parts draws nothing


@pytest.mark.parametrize("make", [davit, vit])
def test_images_keep_the_branches_that_they_would_keep_in_the_whole_batch(
    make: Callable[[], tuple[nn.Module, Features]],
) -> None:
    model, features = make()
    model.double().train()
    pixels = torch.randn(6, 3, 32, 32, generator=seeded(2)).double()
    whole = features(pixels, seeded())
    assert not torch.allclose(whole, features(pixels, seeded(5)))
    split = [torch.tensor([4]), torch.tensor([0, 3, 1, 2]), torch.tensor([5])]
    parts = torch.cat([features(pixels[rows], BatchPart.of(seeded(), rows, 6)) for rows in split])
    torch.testing.assert_close(parts, whole[torch.cat(split)], rtol=1e-10, atol=1e-12)
