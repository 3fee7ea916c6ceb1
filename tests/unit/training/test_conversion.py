"""Every layout to every other and back: the same tensors, the same outputs, the same settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from radscale.cli import app
from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, build_encoder
from radscale.training import open_weights
from radscale.training.checkpointing import published_state, save_checkpoint
from radscale.training.conversion import READ_AS, convert, verify
from radscale.training.open_weights import load_dino_head, load_encoder

VIT = {"image_size_px": 28, "width": 16, "depth": 4, "num_heads": 2, "interpolation": "size"}
TEXT = {"width": 16, "depth": 1, "num_heads": 2}
DAVIT = {"depths": [1, 1, 1, 1], "widths": [8, 16, 16, 32], "num_heads": [1, 2, 2, 4], "window_size": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {
        "family": "vit",
        "architecture": VIT,
        "preprocessing": {"image_size_px": 28, "mean": [0.5307] * 3, "std": [0.2583] * 3, "crop_fraction": 0.875},
    },
    "registers": {
        "family": "vit",
        "architecture": {**VIT, "num_registers": 4, "interpolation": "size_antialias"},
        "preprocessing": {"image_size_px": 28, "resize": "squash"},
    },
    "vit_text": {
        "family": "vit_text",
        "architecture": {"image": VIT, "text": TEXT, "embedding_dim": 12},
        "preprocessing": {"image_size_px": 28},
    },
    "davit": {
        "family": "davit",
        "architecture": {"image": DAVIT, "text": TEXT, "embedding_dim": 12},
        "preprocessing": {"image_size_px": 32, "resize": "squash"},
    },
}


def encoder_of(kind: str) -> Encoder:
    """No tensor at its initial value."""
    encoder = build_encoder(CONFIGS[kind], seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    encoder.origin = kind
    return encoder


@pytest.fixture(autouse=True)
def small_medimageinsight(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("open_weights", "conversion"):
        monkeypatch.setattr(f"radscale.training.{module}.MEDIMAGEINSIGHT_CONFIG", CONFIGS["davit"])


@pytest.mark.parametrize(
    ("kind", "formats"),
    [
        ("vit", ["huggingface", "dinov2", "radscale", "huggingface"]),
        ("registers", ["dinov2", "huggingface", "radscale"]),
        ("davit", ["medimageinsight", "radscale", "medimageinsight"]),
    ],
)
def test_a_round_through_the_layouts_changes_nothing(tmp_path: Path, kind: str, formats: list[str]) -> None:
    first = encoder = encoder_of(kind)
    head = DinoHead(16, num_prototypes=8, hidden=12, bottleneck=4) if kind == "vit" else None
    for index, to in enumerate(formats):
        out = tmp_path / str(index)
        result = convert(encoder, head, to, out)
        check = verify(encoder, head, to, out)
        assert check.ok
        assert check.num_tensors == len(first.state_dict()) + (0 if head is None else len(head.state_dict()))
        assert not result.notes
        encoder = load_encoder(READ_AS[to], out)
        assert load_encoder(str(out)).config_dict() == encoder.config_dict()
        head = load_dino_head(out)
    assert encoder.preprocessing == first.preprocessing
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(encoder.forward_features(pixels), first.forward_features(pixels), strict=True))
    assert encoder.config_dict() == first.config_dict()


def test_the_same_bytes_from_there_and_back(tmp_path: Path) -> None:
    convert(encoder_of("vit"), None, "huggingface", tmp_path / "a")
    convert(load_encoder("dinov2", tmp_path / "a"), None, "radscale", tmp_path / "b")
    convert(load_encoder(str(tmp_path / "b")), None, "huggingface", tmp_path / "c")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_what_a_layout_cannot_hold_is_said_or_refused(tmp_path: Path) -> None:
    both = encoder_of("vit_text")
    result = convert(both, None, "huggingface", tmp_path / "image")
    assert "the text tower and the projections to the common space are left out" in result.notes[0]
    assert verify(both, None, "huggingface", tmp_path / "image").ok
    with pytest.raises(InputError, match="vit: not MedImageInsight's architecture"):
        convert(encoder_of("vit"), None, "medimageinsight", tmp_path / "x")
    with pytest.raises(InputError, match="family 'davit' is no ViT"):
        convert(encoder_of("davit"), None, "huggingface", tmp_path / "x")
    with pytest.raises(InputError, match="format 'onnx' is not known; choose one of radscale"):
        convert(both, None, "onnx", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob("*.tmp"))
    with pytest.raises(InputError, match="exists already"):
        convert(both, None, "radscale", tmp_path / "image")


def test_other_positions_and_sizes_than_the_layout_are_noted(tmp_path: Path) -> None:
    encoder = build_encoder({**CONFIGS["vit"], "architecture": {**VIT, "interpolation": "offset0.1"}}, seed=0).eval()
    assert "'offset0.1', transformers by 'size'" in convert(encoder, None, "huggingface", tmp_path / "a").notes[0]
    large = encoder_of("davit")
    large.preprocessing = replace(large.preprocessing, image_size_px=64)
    note = convert(large, None, "medimageinsight", tmp_path / "b").notes[0]
    assert (
        note
        == "preprocessing: this encoder reads 64 px (squash), which the layout does not hold; its readers take 32 px (squash)"
    )


def test_a_damaged_conversion_is_found(tmp_path: Path) -> None:
    encoder = encoder_of("vit")
    convert(encoder, None, "huggingface", tmp_path / "a")
    other = encoder_of("vit")
    with torch.no_grad():
        other.state_dict()["backbone.norm.bias"][3] += 1e-6
    check = verify(other, None, "huggingface", tmp_path / "a")
    assert (check.num_different, check.ok) == (1, False)
    assert check.image_difference > 0


def test_the_command_tells_the_model_from_the_files(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ours", encoder_of("vit"), info={})
    run = CliRunner().invoke(
        app,
        [
            "convert",
            str(tmp_path / "ours"),
            "--to",
            "huggingface",
            "--out",
            str(tmp_path / "hf"),
            "--verify",
            "--image-size-px",
            "42",
        ],
    )
    assert run.exit_code == 0, run.output
    assert "63 of 63 tensors equal bit for bit" in " ".join(run.output.split())
    assert json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())["crop_size"] == {"height": 42, "width": 42}
    back = load_encoder(str(tmp_path / "hf"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(published_state(back).values(), published_state(encoder_of("vit")).values(), strict=True)
    )
    assert open_weights.detect_family(tmp_path / "hf") == "dinov2"
