"""ViT: stochastic depth, masks, registers, position tables."""

from itertools import pairwise

import pytest
import torch

from radscale.errors import InputError
from radscale.models import VisionTransformer, ViTConfig


def tiny(**changes: object) -> VisionTransformer:
    settings = {"image_size_px": 56, "width": 16, "depth": 4, "num_heads": 2, "layerscale_init": 1.0, **changes}
    model = VisionTransformer(ViTConfig(**settings))
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model.eval()


def pixels(size: int = 56, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_masked_patches_do_not_see_their_pixels() -> None:
    model, x = tiny(), pixels()
    masks = torch.zeros(2, 16, dtype=torch.bool)
    masks[:, 0] = True
    changed = x.clone()
    changed[:, :, :14, :14] += 5
    before, after = (model.forward_tokens(image, masks)["cls"] for image in (x, changed))
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert not torch.equal(model.forward_tokens(x)["cls"], model.forward_tokens(changed)["cls"])


def test_mask_token_replaces_the_patch_before_positions_are_added() -> None:
    model = tiny()
    torch.nn.init.ones_(model.mask_token)
    embedded = model.embed(pixels(), torch.ones(2, 16, dtype=torch.bool))
    torch.testing.assert_close(embedded[:, 1:], (1 + model.pos_embed[:, 1:]).expand(2, -1, -1))


def test_stochastic_depth_keeps_a_subset_and_scales_it() -> None:
    block = tiny(drop_path=0.5).blocks[0].train()
    x = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(2))
    added = block._add_to_some(x, torch.ones_like, torch.Generator().manual_seed(0)) - x
    assert sorted(added.mean(dim=(1, 2)).round(decimals=4).tolist()) == [0, 0, 2, 2]


def test_stochastic_depth_follows_its_generator_only() -> None:
    model = tiny(drop_path=0.5).train()
    state = torch.random.get_rng_state()
    first, again = (model.forward_tokens(pixels(batch=8), None, torch.Generator().manual_seed(3))["cls"] for _ in range(2))
    other = model.forward_tokens(pixels(batch=8), None, torch.Generator().manual_seed(4))["cls"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_registers_are_tokens_that_are_not_returned() -> None:
    model = tiny(num_registers=3)
    assert model.embed(pixels()).shape == (2, 1 + 3 + 16, 16)
    assert model.forward_tokens(pixels())["patches"].shape == (2, 16, 16)
    assert model.forward_features(pixels(), [3])[0].shape == (2, 16, 4, 4)


@pytest.mark.parametrize("rule", ["offset0.1", "size", "size_antialias"])
def test_position_table_is_exact_at_its_own_size_and_resized_elsewhere(rule: str) -> None:
    model = tiny(interpolation=rule)
    assert torch.equal(model.position_embedding(4, 4), model.pos_embed)
    torch.nn.init.ones_(model.pos_embed)
    torch.testing.assert_close(model.position_embedding(3, 7), torch.ones(1, 22, 16))


def test_the_three_rules_differ() -> None:
    tables = [tiny(interpolation=rule).position_embedding(2, 2) for rule in ("offset0.1", "size", "size_antialias")]
    assert all(not torch.allclose(a, b) for a, b in pairwise(tables))


def test_features_are_raw_block_outputs_in_the_order_asked_for() -> None:
    model, x = tiny(), pixels()
    last, first = model.forward_features(x, [3, 0])
    tokens = model.norm(last.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens, model.forward_tokens(x)["patches"])
    assert not torch.allclose(first, last)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="multiple of num_heads"):
        ViTConfig(width=10, num_heads=3)
    with pytest.raises(InputError, match="multiples of the patch size"):
        tiny().forward_tokens(pixels(60))
    with pytest.raises(InputError, match="blocks 0 to 3"):
        tiny().forward_features(pixels(), [4])
