"""Encoders: preprocessing, embeddings, building from a configuration, patch similarity, head."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from radscale.errors import InputError
from radscale.models import (
    DinoHead,
    Encoder,
    Preprocessing,
    TextEncoderConfig,
    ViTEncoder,
    add_text_tower,
    build_encoder,
    patch_similarity,
)
from radscale.models.encoder import four_blocks

PREPROCESSING = {"image_size_px": 28, "resize": "squash"}
TEXT = {"width": 16, "depth": 1, "num_heads": 2}
VIT = {"image_size_px": 28, "width": 16, "depth": 4, "num_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"family": "vit", "architecture": VIT, "preprocessing": PREPROCESSING},
    "davit": {
        "family": "davit",
        "architecture": {
            "image": {"depths": [1, 1, 1, 1], "widths": [8, 16, 16, 32], "num_heads": [1, 2, 2, 4], "window_size": 3},
            "text": TEXT,
            "embedding_dim": 12,
        },
        "preprocessing": PREPROCESSING,
    },
    "vit_text": {
        "family": "vit_text",
        "architecture": {"image": VIT, "text": TEXT, "embedding_dim": 12},
        "preprocessing": PREPROCESSING,
    },
}


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("family", CONFIGS)
def test_images_to_maps_and_unit_embeddings(family: str) -> None:
    encoder = build_encoder(CONFIGS[family], seed=0).eval()
    pixels = encoder.preprocess([image(40, 30), image(28, 90)])
    maps, embeddings = encoder.forward_features(pixels), encoder.encode_image(pixels)
    assert [m.shape[1] for m in maps] == encoder.feature_channels
    assert embeddings.shape == (2, encoder.embedding_dim)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    if encoder.has_text:
        assert encoder.encode_text(["clear lungs", "effusion"]).shape == embeddings.shape
    else:
        with pytest.raises(InputError, match="reads images only"):
            encoder.encode_text(["clear lungs"])


@pytest.mark.parametrize("family", CONFIGS)
def test_building_is_reproducible_and_leaves_the_global_generator_alone(family: str) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build_encoder(CONFIGS[family], seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(torch.isfinite(tensor).all() for tensor in first.values())


@pytest.mark.parametrize("family", CONFIGS)
def test_the_configuration_rebuilds_the_encoder(family: str) -> None:
    encoder = build_encoder(CONFIGS[family], seed=0)
    rebuilt = build_encoder(encoder.config_dict(), seed=0)
    assert rebuilt.config_dict() == encoder.config_dict()
    assert all(torch.equal(a, b) for a, b in zip(encoder.state_dict().values(), rebuilt.state_dict().values(), strict=True))


def test_a_text_tower_keeps_the_image_weights() -> None:
    vit = build_encoder(CONFIGS["vit"], seed=0).eval()
    assert isinstance(vit, ViTEncoder)
    both = add_text_tower(vit, TextEncoderConfig(**TEXT), 12, seed=3).eval()
    pixels = vit.preprocess([image(28, 28)])
    for before, after in zip(vit.forward_features(pixels), both.forward_features(pixels), strict=True):
        assert torch.equal(before, after)
    assert both.family == "vit_text"


def test_unknown_families_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="'resnet' is not known"):
        build_encoder({"family": "resnet"}, 0)
    with pytest.raises(InputError, match="ViTConfig has no 'heads'"):
        build_encoder({"family": "vit", "architecture": {"heads": 2}}, 0)


def test_probed_blocks_are_evenly_spaced() -> None:
    assert four_blocks(12) == [2, 5, 8, 11]
    assert four_blocks(24) == [5, 11, 17, 23]
    assert four_blocks(4) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="least depth is 4"):
        four_blocks(3)


def grey(preprocessing: Preprocessing, *images: np.ndarray) -> np.ndarray:
    """Grey levels 0-255 after preprocessing, undoing the normalisation of the first channel."""
    pixels = preprocessing(list(images))[:, 0].numpy()
    return (pixels * preprocessing.std[0] + preprocessing.mean[0]) * 255


def test_centre_crop_keeps_the_aspect_ratio_and_squash_does_not() -> None:
    wide = np.tile(np.repeat(np.array([0, 100, 200, 50], np.uint8), 16), (32, 1))
    cropped = grey(Preprocessing(image_size_px=32), wide)[0]
    np.testing.assert_allclose(cropped, wide[:, 16:48], atol=1e-3)
    squashed = grey(Preprocessing(image_size_px=32, resize="squash"), wide)[0]
    np.testing.assert_allclose(squashed[:, [3, 12, 20, 28]].mean(0), [0, 100, 200, 50], atol=1)


def test_crop_fraction_resizes_to_more_than_is_kept() -> None:
    picture = image(32, 32)
    kept = grey(Preprocessing(image_size_px=28, crop_fraction=28 / 32), picture)[0]
    np.testing.assert_allclose(kept, picture[2:30, 2:30], atol=1e-3)


def test_channels_are_equal_before_normalisation() -> None:
    pixels = Preprocessing(image_size_px=16)([image(20, 16)])
    settings = Preprocessing()
    restored = pixels * torch.tensor(settings.std).view(3, 1, 1) + torch.tensor(settings.mean).view(3, 1, 1)
    torch.testing.assert_close(restored[:, 0], restored[:, 2])
    assert pixels.dtype == torch.float32


def test_16_bit_images_are_stretched_and_constant_ones_are_black() -> None:
    ramp = np.linspace(1000, 5000, 256).astype(np.uint16).reshape(16, 16)
    levels = grey(Preprocessing(image_size_px=16), ramp, np.full((16, 16), 700, np.int16))
    np.testing.assert_allclose(levels[0].ravel(), np.arange(256), atol=1)
    np.testing.assert_allclose(levels[1], 0, atol=1e-3)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), r"shape \(16, 16, 3\)"),
        (np.zeros((16, 16), np.float32), "type float32"),
        (np.zeros((4, 16), np.uint8), "4 x 16 px is too small"),
    ],
)
def test_other_images_are_refused(picture: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=f"image 1: {message}"):
        Preprocessing(image_size_px=16)([image(16, 16), picture])


def test_impossible_preprocessing_is_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        Preprocessing()([])
    with pytest.raises(InputError, match="std above 0"):
        Preprocessing(std=(0.2, 0.0, 0.2))
    with pytest.raises(InputError, match="allowed: squash"):
        Preprocessing(resize="stretch")  # type: ignore[arg-type]


def test_patch_similarity_is_a_cosine() -> None:
    features = torch.tensor([[[3.0, 0.0], [-1.0, 1.0]], [[0.0, 2.0], [0.0, 1.0]]])
    expected = torch.tensor([[1.0, 0.0], [-1.0, 0.5**0.5]])
    torch.testing.assert_close(patch_similarity(features, 0, 0), expected)
    with pytest.raises(InputError, match="outside the map of 2 x 2"):
        patch_similarity(features, 0, 2)


def test_head_ignores_the_length_of_weight_v_and_scales_with_weight_g() -> None:
    head = DinoHead(8, num_prototypes=6, hidden=10, bottleneck=4)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    logits = head(x)
    head.last_layer.weight_v.data *= 7
    torch.testing.assert_close(head(x), logits)
    head.last_layer.weight_g.data *= 2
    torch.testing.assert_close(head(x), 2 * logits)
    assert logits.abs().max() <= 1
    assert {"mlp.0.weight", "mlp.2.bias", "mlp.4.weight", "last_layer.weight_g", "last_layer.weight_v"} <= set(
        head.state_dict()
    )


def test_every_encoder_is_one() -> None:
    assert all(isinstance(build_encoder(config, 0), Encoder) for config in CONFIGS.values())


@pytest.mark.parametrize("family", list(CONFIGS))
def test_recomputed_activations_give_the_same_gradients(family: str) -> None:
    """Stochastic depth on, so that what is drawn must be drawn again alike."""
    config = deepcopy(CONFIGS[family])
    architecture = config["architecture"]
    (architecture if family == "vit" else architecture["image"])["drop_path"] = 0.5
    gradients = []
    for enabled in (False, True):
        encoder = build_encoder(config, seed=0).train()
        encoder.set_activation_checkpointing(enabled)
        generator = torch.Generator().manual_seed(3)
        loss = encoder.encode_image(torch.ones(4, 3, 28, 28), generator).square()[:, 0].sum()
        if encoder.has_text:
            loss = loss + encoder.encode_text(["effusion", "no effusion"])[:, 0].sum()
        loss.backward()
        gradients.append([p.grad for p in encoder.parameters() if p.grad is not None] + [torch.rand(1, generator=generator)])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_recomputing_keeps_less_between_the_passes() -> None:
    kept = []
    for enabled in (False, True):
        encoder = build_encoder(CONFIGS["vit"], seed=0).train()
        encoder.set_activation_checkpointing(enabled)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            encoder.encode_image(torch.ones(2, 3, 28, 28))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_a_batch_of_many_sizes_is_resized_as_one_by_one() -> None:
    preprocessing = Preprocessing(image_size_px=28)
    pictures = [image(60, 50), image(40, 40, 1), image(60, 50, 2)]
    assert torch.equal(preprocessing(pictures, device="cpu"), torch.cat([preprocessing([picture]) for picture in pictures]))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_compiler_takes_the_forward_pass_whole(family: str) -> None:
    """No graph breaks, images of a second size included; tracing alone is checked, generated code is measured elsewhere."""
    encoder = build_encoder(CONFIGS[family], seed=0).eval()
    compiled = torch.compile(encoder.forward_features, fullgraph=True, backend="eager")
    with torch.no_grad():
        for size in (28, 56):
            pixels = torch.ones(2, 3, size, size)
            for actual, expected in zip(compiled(pixels), encoder.forward_features(pixels), strict=True):
                torch.testing.assert_close(actual, expected)
