"""DaViT and the text tower of MedImageInsight at full size, against timm and against a plain rewrite of the description."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from naive_encoders import naive_davit, naive_text
from radscale.benchmarks.peers import davit_names_of_timm, import_timm
from radscale.models import DaViT, DaViTConfig, Encoder, TextEncoderConfig, make_encoder
from radscale.training.open_weights import MEDIMAGEINSIGHT_CONFIG, load_encoder


def timm_module() -> Any:
    try:
        return import_timm()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm: {error}")


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every tensor away from its initial value, with activations that stay in range."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(0.1 * noise + (1.0 if bool((parameter == 1).all()) else 0.0))
            else:
                parameter.copy_(noise * 0.7 / max(1, parameter[0].numel()) ** 0.5)


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (224, 224)])
def test_a_small_davit_is_timms(size: tuple[int, int]) -> None:
    timm = timm_module()
    config = DaViTConfig(depths=(1, 1, 2, 1), widths=(16, 32, 64, 128), num_heads=(2, 4, 8, 16))
    ours = DaViT(config).eval()
    randomise(ours, seed=0)
    peer = timm.create_model(
        "davit_huge_fl",
        depths=config.depths,
        embed_dims=config.widths,
        num_heads=config.num_heads,
        num_classes=0,
    ).eval()
    peer.load_state_dict(davit_names_of_timm(ours.state_dict()))
    compare(ours, peer, size)


def compare(ours: DaViT, peer: Any, size: tuple[int, int]) -> None:
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = peer.forward_intermediates(pixels, intermediates_only=True)
        pooled = peer.forward_head(maps[-1], pre_logits=True)
        for actual, expected in zip(ours.forward_features(pixels), maps, strict=True):
            assert relative(actual, expected) <= 1e-5
        assert relative(ours.forward_pooled(pixels), pooled) <= 1e-5


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 601 tensors of the published file, random, in its format (2.46 GB); RADSCALE_MEDIMAGEINSIGHT names real ones."""
    if "RADSCALE_MEDIMAGEINSIGHT" in os.environ:
        return Path(os.environ["RADSCALE_MEDIMAGEINSIGHT"])
    path = tmp_path_factory.mktemp("mi2") / "medimageinsigt-v1.0.0.pt"
    with torch.device("meta"):
        encoder = make_encoder(MEDIMAGEINSIGHT_CONFIG)
    encoder.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.fill_(1.0 if re.search(r"(norms?|ln_\w+)\.weight$", name) else 0.0)
    randomise(encoder, seed=0)
    save_file(dict(encoder.state_dict()), path)
    return path


@pytest.fixture(scope="module")
def encoder(full_size: Path) -> Encoder:
    return load_encoder("medimageinsight", weights=full_size)


@pytest.mark.slow
def test_full_size_image_tower_is_the_description(encoder: Any) -> None:
    pixels = torch.randn(3, 97, 131, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps, pooled = naive_davit(dict(encoder.image_encoder.state_dict()), pixels, DaViTConfig())
        for actual, expected in zip(encoder.forward_features(pixels[None]), maps, strict=True):
            assert relative(actual[0], expected) <= 1e-5
        embedding = pooled @ encoder.image_projection
        assert relative(encoder.encode_image(pixels[None])[0], embedding / embedding.norm()) <= 1e-5


@pytest.mark.slow
def test_full_size_text_tower_is_the_description(encoder: Any) -> None:
    texts = ["x-ray chest anteroposterior Pneumonia", "no acute cardiopulmonary process, lines and tubes in place. " * 9]
    state = {name: tensor.double() for name, tensor in encoder.lang_encoder.state_dict().items()}
    ids, mask = encoder.tokenizer(texts)
    assert ids.shape[1] == 77
    with torch.no_grad():
        actual = encoder.encode_text(texts)
        for row, text in enumerate(texts):
            hidden = naive_text(state, ids[row][mask[row].bool()].tolist(), TextEncoderConfig())
            embedding = hidden @ encoder.lang_projection.double()
            assert relative(actual[row].double(), embedding / embedding.norm()) <= 1e-5
            assert relative(encoder.encode_text([text])[0], actual[row]) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size_px", [224, 480, 518])
def test_full_size_image_tower_is_timms(encoder: Any, size_px: int) -> None:
    timm = timm_module()
    with torch.device("meta"):
        peer = timm.create_model("davit_huge_fl", num_classes=0).eval()
    peer.load_state_dict(davit_names_of_timm(dict(encoder.image_encoder.state_dict())), assign=True)
    compare(encoder.image_encoder, peer, (size_px, size_px))
