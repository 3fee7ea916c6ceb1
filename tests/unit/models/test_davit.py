"""DaViT: published names and sizes, and a naive forward pass written from the description."""

import math
import os
from pathlib import Path

import pytest
import torch

from naive_encoders import naive_davit
from radscale.errors import InputError
from radscale.models import DaViT, DaViTConfig, TextEncoderConfig, make_encoder
from radscale.models.davit import DropPath

DATA = Path(os.environ.get("RADSCALE_SHARED_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
KEYS = DATA.parent / "specs" / "medimageinsight_keys.txt"
TINY = DaViTConfig(depths=(1, 1, 2, 1), widths=(8, 16, 32, 64), num_heads=(1, 2, 4, 8), window_size=3)


def tiny() -> DaViT:
    model = DaViT(TINY)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.ndim > 1 else 0.2
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = offset + scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (53, 75)])
def test_forward_is_the_naive_one(size: tuple[int, int]) -> None:
    model = tiny()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    expected_maps, expected_pooled = naive_davit(state, image[0].double(), TINY)
    with torch.no_grad():
        maps, pooled = model.double().forward_features(image.double()), model.forward_pooled(image.double())
    for actual, expected in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(actual[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pooled[0], expected_pooled, rtol=1e-9, atol=1e-9)


def published_shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in make_encoder({"family": "davit"}).state_dict().items()}


def test_full_size_has_the_published_number_of_tensors_and_parameters() -> None:
    shapes = published_shapes()
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert len(shapes) == 601
    assert sum(sizes.values()) == 615_996_417
    assert sum(size for name, size in sizes.items() if name.startswith("image_encoder.")) == 360_636_416
    assert sum(size for name, size in sizes.items() if name.startswith("lang_encoder.")) == 252_214_272
    assert shapes["image_encoder.blocks.2.8.channel_block.channel_attn.fn.qkv.weight"] == (3072, 1024)
    assert shapes["image_encoder.convs.1.norm.weight"] == (256,)
    assert shapes["lang_encoder.resblocks.15.attn.in_proj_weight"] == (3072, 1024)


@pytest.mark.shared_data
@pytest.mark.skipif(not KEYS.exists(), reason=f"{KEYS.name} not found; set RADSCALE_SHARED_DATA to the data folder beside it")
def test_full_size_has_the_published_names_and_shapes() -> None:
    lines = [line.split("\t") for line in KEYS.read_text().splitlines() if line and not line.startswith("#")]
    published = {name: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for name, shape, *_ in lines}
    assert published_shapes() == published


def test_full_size_maps_at_518_px_have_the_sizes_of_the_papers_table_1() -> None:
    with torch.device("meta"):
        maps = DaViT(DaViTConfig()).forward_features(torch.empty(1, 3, 518, 518))
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 130, 130), (512, 65, 65), (1024, 33, 33), (2048, 17, 17)]


def test_drop_path_rates_rise_linearly_over_all_attention_blocks() -> None:
    with torch.device("meta"):
        model = DaViT(DaViTConfig())
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates[::2] == rates[1::2]  # attention and feed-forward share a rate
    assert rates[::2] == pytest.approx([0.2 * k / 23 for k in range(24)])


def test_training_follows_its_generator_only() -> None:
    model, x = tiny().train(), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    state = torch.random.get_rng_state()
    first, again = (model.forward_pooled(x, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="4 depths"):
        DaViTConfig(depths=(1, 1))
    with pytest.raises(InputError, match="multiple of its num_heads"):
        DaViTConfig(widths=(250, 512, 1024, 2048))
    with pytest.raises(InputError, match="multiple of num_heads"):
        TextEncoderConfig(width=10, num_heads=3)
