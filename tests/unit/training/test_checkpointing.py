"""Checkpoints and training states: whole or not at all, equal bytes, strict names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, build_encoder
from radscale.training.checkpointing import (
    load_checkpoint,
    load_training_state,
    save_checkpoint,
    save_training_state,
)
from radscale.training.open_weights import load_dino_head

PIXELS = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
VIT = {"image_size_px": 28, "width": 16, "depth": 4, "num_heads": 2}
TEXT = {"width": 16, "depth": 1, "num_heads": 2}
ARCHITECTURES = {"vit": VIT, "vit_text": {"image": VIT, "text": TEXT, "embedding_dim": 12}}


def encoder_of(family: str) -> Encoder:
    config = {"family": family, "architecture": ARCHITECTURES[family], "preprocessing": {"image_size_px": 28}}
    return build_encoder(config, seed=0).eval()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_checkpoint_gives_the_same_encoder_back(tmp_path: Path, family: str) -> None:
    encoder = encoder_of(family)
    save_checkpoint(tmp_path, encoder, info={"objective": "clip"})
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded.encode_image(PIXELS), encoder.encode_image(PIXELS))
    assert loaded.config_dict() == encoder.config_dict()
    assert not loaded.training
    assert not list(tmp_path.glob("*.tmp"))


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    head = DinoHead(16, num_prototypes=8, hidden=12, bottleneck=4)
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, encoder_of("vit"), head=head, info={"seed": 1, "budget": 2})
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["config.json", "dino_head.safetensors", "model.safetensors"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_vit_is_stored_under_dinov2_names(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, encoder_of("vit"), info={})
    names = load_file(tmp_path / "model.safetensors").keys()
    assert {"cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.bias"} <= names


def test_the_head_comes_back_and_an_older_one_does_not_stay(tmp_path: Path) -> None:
    head = DinoHead(16, num_prototypes=8, hidden=12, bottleneck=4)
    save_checkpoint(tmp_path, encoder_of("vit"), head=head, info={})
    loaded = load_dino_head(tmp_path)
    assert loaded.sizes == head.sizes
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in head.state_dict().items())
    save_checkpoint(tmp_path, encoder_of("vit"), info={})
    assert not (tmp_path / "dino_head.safetensors").exists()


def test_a_head_with_newer_names_of_weight_norm_is_read(tmp_path: Path) -> None:
    head = DinoHead(16, num_prototypes=8, hidden=12, bottleneck=4)
    state = head.state_dict()
    state["last_layer.parametrizations.weight.original0"] = state.pop("last_layer.weight_g")
    state["last_layer.parametrizations.weight.original1"] = state.pop("last_layer.weight_v")
    save_file(state, tmp_path / "dino_head.safetensors")
    x = torch.ones(1, 16)
    assert torch.equal(load_dino_head(tmp_path)(x), head(x))


def test_names_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, encoder_of("vit"), info={})
    state = load_file(tmp_path / "model.safetensors")
    del state["norm.bias"]
    state["extra"] = torch.zeros(1)
    state["cls_token"] = torch.zeros(1, 1, 8)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path)
    message = str(error.value)
    assert "1 missing (norm.bias)" in message
    assert "1 unexpected (extra)" in message
    assert "1 reshaped (cls_token (1, 1, 8) instead of (1, 1, 16))" in message
    assert "\n" not in message


def test_damaged_files_and_pickles_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, encoder_of("vit"), info={})
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_checkpoint(tmp_path)
    torch.save({"cls_token": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match="a pickle, which may run code"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_checkpoint(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, encoder_of("vit"), info={})
    state = load_file(tmp_path / "model.safetensors")
    state["norm.bias"] = torch.zeros(16, dtype=torch.int8)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"norm\.bias is torch\.int8"):
        load_checkpoint(tmp_path)


def test_a_training_state_survives_a_round_trip(tmp_path: Path) -> None:
    state = {"step": 3, "rate": 0.1, "name": "run", "log": [1, 2.5, "x"], "model": {"w": torch.arange(4.0)}, "none": None}
    save_training_state(tmp_path / "sub" / "state.pt", state)
    loaded = load_training_state(tmp_path / "sub" / "state.pt")
    assert loaded is not None
    assert torch.equal(loaded["model"].pop("w"), state["model"].pop("w"))
    assert loaded == state
    assert load_training_state(tmp_path / "absent.pt") is None


@pytest.mark.parametrize("kept", [0, 1, 50, 0.5, 0.99])
def test_a_truncated_training_state_is_reported(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "state.pt"
    save_training_state(path, {"model": torch.zeros(100)})
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(InputError, match="damaged training state"):
        load_training_state(path)


def test_a_training_state_that_holds_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"call": Path}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="damaged training state"):
        load_training_state(tmp_path / "state.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_training_state(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_training_state(path, {"step": lambda: 2})
    assert load_training_state(path) == {"step": 1}
