"""Our ViT against transformers' Dinov2Model, with random and, where they are at hand, real weights; resize against PIL."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radscale.models import Preprocessing, build_encoder
from radscale.training.conversion import convert
from radscale.training.open_weights import load_encoder

transformers = pytest.importorskip("transformers")
REAL = Path(os.environ.get("RADSCALE_DINOV2", "dinov2"))


def compare(directory: Path, size_px: int, masked: bool = False) -> None:
    """Final tokens and the four probed maps, to 1e-5 of the largest value."""
    reference = transformers.Dinov2Model.from_pretrained(directory).eval()
    encoder = load_encoder("dinov2", weights=directory)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, size_px, size_px, generator=generator)
    masks = torch.rand(1, (size_px // 14) ** 2, generator=generator) < 0.4 if masked else None
    with torch.no_grad():
        expected = reference(pixels, bool_masked_pos=masks, output_hidden_states=True)
        tokens = encoder.backbone.forward_tokens(pixels, masks)
        maps = encoder.forward_features(pixels)
    actual = torch.cat([tokens["cls"][:, None], tokens["patches"]], dim=1)
    scale = expected.last_hidden_state.abs().max().item()
    torch.testing.assert_close(actual, expected.last_hidden_state, rtol=0, atol=1e-5 * scale)
    if not masked:
        for block, feature_map in zip(encoder.feature_blocks, maps, strict=True):
            hidden = expected.hidden_states[block + 1][:, 1:]
            flat = feature_map.flatten(2).transpose(1, 2)
            torch.testing.assert_close(flat, hidden, rtol=0, atol=1e-5 * hidden.abs().max().item())


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder written by transformers itself, every tensor away from its initial value."""
    config = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=4, image_size=518, patch_size=14, layerscale_value=1.0
    )
    model = noisy(transformers.Dinov2Model(config))
    directory = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(directory)
    transformers.BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3
    ).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(("size_px", "masked"), [(518, False), (224, False), (98, False), (518, True), (224, True)])
def test_random_weights(random_weights: Path, size_px: int, masked: bool) -> None:
    compare(random_weights, size_px, masked)


def noisy(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("size_px", [518, 98])
def test_registers(tmp_path: Path, size_px: int) -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 518, "patch_size": 14}
    config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4, layerscale_value=1.0)
    reference = noisy(transformers.Dinov2WithRegistersModel(config))
    reference.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="ImageNet statistics"):
        encoder = load_encoder("dinov2", weights=tmp_path)
    pixels = torch.randn(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(pixels).last_hidden_state
        tokens = encoder.backbone.forward_tokens(pixels)
    actual = torch.cat([tokens["cls"][:, None], tokens["patches"]], dim=1)
    expected = torch.cat([expected[:, :1], expected[:, 5:]], dim=1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("registers", [0, 4])
def test_transformers_reads_what_we_convert(tmp_path: Path, registers: int) -> None:
    """Its model and its processor, from a checkpoint of ours."""
    architecture = {"width": 48, "depth": 4, "num_heads": 4, "num_registers": registers}
    architecture["interpolation"] = "size_antialias" if registers else "size"
    preprocessing = {"image_size_px": 70, "mean": [0.5307] * 3, "std": [0.2583] * 3, "crop_fraction": 0.875}
    config = {"family": "vit", "architecture": architecture, "preprocessing": preprocessing}
    encoder = noisy(build_encoder(config, seed=0))
    convert(encoder, None, "huggingface", tmp_path / "hf")
    model, report = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    image = smooth_image(90, 120)
    theirs = processor(Image.fromarray(image).convert("RGB"), return_tensors="pt")["pixel_values"]
    ours = encoder.preprocess([image])
    assert (ours - theirs).abs().max() <= 2.01 / 255 / 0.2583
    with torch.no_grad():
        expected = model.eval()(ours).last_hidden_state[:, 0]
        actual = encoder.encode_image(ours)
    torch.testing.assert_close(actual, torch.nn.functional.normalize(expected, dim=-1), rtol=0, atol=1e-5)


@pytest.mark.skipif(
    not (REAL / "config.json").exists(), reason="set RADSCALE_DINOV2 to a Hugging Face folder of DINOv2 weights"
)
@pytest.mark.parametrize("size_px", [518, 224])
def test_real_weights(size_px: int) -> None:
    compare(REAL, size_px)


def smooth_image(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def levels(preprocessing: Preprocessing, image: np.ndarray) -> np.ndarray:
    pixels = preprocessing([image])[0, 0].numpy()
    return np.rint((pixels * preprocessing.std[0] + preprocessing.mean[0]) * 255)


@pytest.mark.parametrize(("height", "width"), [(700, 900), (1024, 800), (300, 420)])
def test_squash_is_pils_resize(height: int, width: int) -> None:
    image = smooth_image(height, width)
    # In two steps, because the order of PIL's passes depends on its version.
    wide = Image.fromarray(image).resize((480, height), Image.Resampling.BICUBIC)
    expected = np.asarray(wide.resize((480, 480), Image.Resampling.BICUBIC)).astype(float)
    difference = np.abs(levels(Preprocessing(image_size_px=480, resize="squash"), image) - expected)
    # Measured over 360 images: 0.44 % of the pixels by one level, 4 in a million by two (rounding twice, when enlarging).
    assert difference.max() <= 2
    assert (difference > 1).mean() < 1e-5
    assert (difference > 0).mean() < 0.005


@pytest.mark.parametrize(("height", "width"), [(600, 700), (900, 500)])
def test_crop_is_the_published_processors(random_weights: Path, height: int, width: int) -> None:
    image = smooth_image(height, width)
    processor = transformers.BitImageProcessorPil.from_pretrained(random_weights)
    expected = processor(Image.fromarray(image).convert("RGB"), return_tensors="pt")["pixel_values"]
    actual = load_encoder("dinov2", weights=random_weights).preprocess([image])
    assert actual.shape == expected.shape == (1, 3, 224, 224)
    one_level = 1 / 255 / 0.224
    assert (actual - expected).abs().max() <= 2.01 * one_level
    assert (actual - expected).abs().mean() < 0.05 * one_level
