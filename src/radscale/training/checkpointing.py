"""Encoder checkpoints (docs/data_format.md, section 3) and training states, written so that a reader never sees half of one."""

import errno
import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, ViTEncoder, make_encoder
from radscale.models.encoder import EXTERNAL_FAMILY, preprocessing_from_dict
from radscale.training.encoder_registry import rebuild
from radscale.training.weight_files import (
    check_names,
    read_json,
    read_safetensors,
    write_atomically,
    write_json,
    write_safetensors,
)
from radscale.training.weight_names import head_names

CONFIG, WEIGHTS, HEAD = "config.json", "model.safetensors", "dino_head.safetensors"
SCHEMA_VERSION = 1


def save_checkpoint(directory: Path, encoder: Encoder, *, head: DinoHead | None = None, info: dict[str, Any]) -> None:
    """Write an encoder with its architecture and preprocessing; the same weights give the same bytes.

    Args:
        directory: created if needed.
        encoder: any `Encoder`.
        head: projection head of a DINOv2 encoder.
        info: objective, origin, budget: kept in config.json.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **encoder.config_dict(), "info": info}
    if head is not None:
        config["dino_head"] = head.sizes
        write_safetensors(directory / HEAD, head.state_dict())
    else:
        (directory / HEAD).unlink(missing_ok=True)  # of an earlier checkpoint here: it would be taken for this encoder's
    write_safetensors(directory / WEIGHTS, published_state(encoder))
    write_json(directory / CONFIG, config)


def published_state(encoder: Encoder) -> dict[str, Tensor]:
    """The weights under their published names: a ViT's without the `backbone.` of our module."""
    prefix = _prefix(encoder)
    return {name.removeprefix(prefix): tensor for name, tensor in encoder.state_dict().items()}


def _prefix(encoder: Encoder) -> str:
    return "backbone." if isinstance(encoder, ViTEncoder) else ""


def encoder_fingerprint(encoder: Encoder) -> str:
    """16 hex digits of architecture, preprocessing and every weight."""
    digest = hashlib.sha256(json.dumps(encoder.config_dict(), sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()[:16]


def load_published_state(encoder: Encoder, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights under their published names, strictly.

    Raises:
        InputError: naming missing, unexpected and reshaped tensors, or one that holds no finite numbers.
    """
    expected = published_state(encoder)
    check_names({name: tuple(tensor.shape) for name, tensor in expected.items()}, state, source)
    prefix = _prefix(encoder)
    for name, tensor in state.items():
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            raise InputError(f"{source}: {name} is {tensor.dtype}; quantised weights are not read, give float ones")
    broken = next((name for name, tensor in state.items() if not bool(tensor.isfinite().all())), None)
    if broken is not None:
        raise InputError(f"{source}: {broken} holds infinite or undefined numbers; download or export the weights again")
    # Assigned, not copied: full-size weights are not held twice.
    floats = {name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    encoder.load_state_dict({prefix + name: tensor for name, tensor in floats.items()}, strict=True, assign=True)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    cast = sorted({str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point()} - {"float32"})
    encoder.origin = source
    if cast:
        encoder.origin += f" (cast from {', '.join(cast)} to float32)"
        warnings.warn(f"{encoder.origin}: features are not exactly those of the float32 weights", stacklevel=2)


def load_checkpoint(directory: Path) -> Encoder:
    """The encoder of a checkpoint folder, in evaluation mode."""
    config = read_json(directory / CONFIG)
    if "model_type" in config:
        raise InputError(
            f"{directory}: a Hugging Face folder; load it by name: load_encoder('dinov2', weights={str(directory)!r})"
        )
    if config.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{directory}: schema_version {config.get('schema_version')!r}; this radscale reads {SCHEMA_VERSION}")
    if config.get("family") == EXTERNAL_FAMILY:
        encoder = rebuild(config.get("builder", {}), str(directory))
        encoder.preprocessing = preprocessing_from_dict(config.get("preprocessing", {}))
    else:
        with torch.device("meta"):
            encoder = make_encoder(config)
    load_published_state(encoder, read_safetensors(directory / WEIGHTS), str(directory))
    return encoder.eval()


def build_head(state: Mapping[str, Tensor], source: str) -> DinoHead:
    """A DINO head from its tensors, whose shapes are its sizes (RAD-DINO's `dino_head.safetensors`, a teacher dump, ours).

    Raises:
        InputError: tensors that are missing, unexpected or of other shapes.
    """
    floats = {name: tensor.float() for name, tensor in head_names(state).items()}
    try:
        hidden, in_features = floats["mlp.0.weight"].shape
        num_prototypes, bottleneck = floats["last_layer.weight_v"].shape
    except (KeyError, ValueError):
        raise InputError(f"{source}: not a DINO head: it has no mlp.0.weight and last_layer.weight_v matrices") from None
    with torch.device("meta"):
        head = DinoHead(in_features, num_prototypes, hidden, bottleneck)
    check_names({name: tuple(t.shape) for name, t in head.state_dict().items()}, floats, source)
    head.load_state_dict(floats, assign=True)
    return head


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers and strings, durably and atomically.

    Raises:
        OSError: the disk is full; what stood at `path` before still does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:
            # The writer of PyTorch's archives does not pass on why the system refused to write.
            if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None

    write_atomically(path, write)


class TrainingStates:
    """Training states of one run in a folder, one file per step, the newest few kept."""

    def __init__(self, folder: Path, num_kept: int = 2) -> None:
        self.folder, self.num_kept = folder, num_kept

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("state.step=*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """See `save_training_state`; older states are removed once this one is whole."""
        save_training_state(self.folder / f"state.step={step:09d}.pt", state)
        for path in self.paths()[: -self.num_kept]:
            path.unlink()

    def newest(self) -> dict[str, Any] | None:
        """See `load_training_state`."""
        paths = self.paths()
        return load_training_state(paths[-1]) if paths else None

    def clear(self) -> None:
        for path in self.paths():
            path.unlink()


def load_training_state(path: Path) -> dict[str, Any] | None:
    """What `save_training_state` wrote, or None if there is nothing. Only data is read, never code.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: damaged training state ({type(error).__name__}); delete it to go on from an earlier one"
        ) from None
    if not isinstance(state, dict):
        raise InputError(
            f"{path}: holds a {type(state).__name__}, not a training state; delete it to go on from an earlier one"
        )
    return state
