"""Encoder checkpoints (docs/data_format.md, section 3) and training states, written so that a reader never sees half of one."""

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radscale.errors import InputError
from radscale.models import DinoHead, Encoder, make_encoder

CONFIG, WEIGHTS, HEAD = "config.json", "model.safetensors", "dino_head.safetensors"
SCHEMA_VERSION = 1


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, flush it to the disk, and give it its name."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
        write_atomically(directory / HEAD, lambda path: save_file(_plain(head.state_dict()), path))
    else:
        (directory / HEAD).unlink(missing_ok=True)  # of an earlier checkpoint here: it would be taken for this encoder's
    write_atomically(directory / WEIGHTS, lambda path: save_file(_plain(published_state(encoder)), path))
    text = json.dumps(config, indent=1, sort_keys=True)
    write_atomically(directory / CONFIG, lambda path: _write_text(path, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def published_state(encoder: Encoder) -> dict[str, Tensor]:
    """The weights under their published names: a ViT's without the `backbone.` of our module."""
    return {name.removeprefix("backbone."): tensor for name, tensor in encoder.state_dict().items()}


def load_published_state(encoder: Encoder, state: dict[str, Tensor], source: str) -> None:
    """Load weights under their published names, strictly.

    Raises:
        InputError: naming missing, unexpected and reshaped tensors, or one that holds no finite numbers.
    """
    expected = published_state(encoder)
    check_names({name: tuple(tensor.shape) for name, tensor in expected.items()}, state, source)
    prefix = "backbone." if hasattr(encoder, "backbone") else ""
    whole = next((name for name, tensor in state.items() if not tensor.is_floating_point()), None)
    if whole is not None:
        raise InputError(f"{source}: {whole} is {state[whole].dtype}; quantised weights are not read, give float ones")
    broken = next((name for name, tensor in state.items() if not bool(tensor.isfinite().all())), None)
    if broken is not None:
        raise InputError(f"{source}: {broken} holds infinite or undefined numbers; download or export the weights again")
    # Assigned, not copied: full-size weights are not held twice.
    floats = {prefix + name: tensor.to(torch.float32) for name, tensor in state.items()}
    encoder.load_state_dict(floats, strict=True, assign=True)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    cast = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"})
    encoder.origin = source
    if cast:
        encoder.origin += f" (cast from {', '.join(cast)} to float32)"
        warnings.warn(f"{encoder.origin}: features are not exactly those of the float32 weights", stacklevel=2)


def check_names(expected: dict[str, tuple[int, ...]], found: dict[str, Tensor], source: str) -> None:
    """Compare tensor names and shapes.

    Raises:
        InputError: one line with the first names of each kind of difference.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("reshaped", reshaped))
        if names
    ]
    if problems:
        raise InputError(f"{source}: not the weights of this model: {'; '.join(problems)}; give the file that belongs to it")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        InputError: no such file, truncated, or another format (a pickle is never opened: it may run code).
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of the weights") from None
    except (SafetensorError, OSError) as error:
        if path.is_file() and _starts_as_pickle(path):
            raise InputError(f"{path.name}: a pickle, which may run code when opened; give the safetensors file") from None
        raise InputError(f"{path.name}: not a whole safetensors file ({error}); download or convert it again") from None


def _starts_as_pickle(path: Path) -> bool:
    """What torch.save writes: a zip archive, in old versions a bare pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: no such file or not JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a checkpoint or Hugging Face folder has it beside its weights") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return value


def load_checkpoint(directory: Path) -> Encoder:
    """The encoder of a checkpoint folder, in evaluation mode."""
    config = read_json(directory / CONFIG)
    if "model_type" in config:
        raise InputError(
            f"{directory}: a Hugging Face folder; load it by name: load_encoder('dinov2', weights={str(directory)!r})"
        )
    if config.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{directory}: schema_version {config.get('schema_version')!r}; this radscale reads {SCHEMA_VERSION}")
    with torch.device("meta"):
        encoder = make_encoder(config)
    load_published_state(encoder, read_safetensors(directory / WEIGHTS), str(directory))
    return encoder.eval()


def load_head(path: Path) -> DinoHead:
    """A DINO head from a safetensors file; its sizes are those of its tensors (RAD-DINO's `dino_head.safetensors`, ours)."""
    renamed = {
        "last_layer.parametrizations.weight.original0": "last_layer.weight_g",
        "last_layer.parametrizations.weight.original1": "last_layer.weight_v",
    }
    state = {renamed.get(name, name): tensor.float() for name, tensor in read_safetensors(path).items()}
    try:
        hidden, in_features = state["mlp.0.weight"].shape
        num_prototypes, bottleneck = state["last_layer.weight_v"].shape
    except (KeyError, ValueError):
        raise InputError(f"{path.name}: not a DINO head: it has no mlp.0.weight and last_layer.weight_v matrices") from None
    head = DinoHead(in_features, num_prototypes, hidden, bottleneck)
    check_names({name: tuple(t.shape) for name, t in head.state_dict().items()}, state, path.name)
    head.load_state_dict(state)
    return head


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers and strings, durably and atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: torch.save(state, temporary))


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
            f"{path}: damaged training state ({type(error).__name__}); delete it to start this run again"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a training state; delete it to start this run again")
    return state
