"""Read and write files of weights: safetensors, and PyTorch's own format as far as it holds only data. No code is ever run."""

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radscale.errors import InputError

State = dict[str, Tensor]

MAPPED_BYTES = 100_000_000


def read_state(path: Path) -> State:
    """Tensors by name, whatever the suffix says: safetensors, a plain PyTorch state dict, or a DINOv2 teacher dump.

    Of a dump the teacher's tensors are taken, with their prefixes (`backbone.`, `dino_head.`).

    Raises:
        InputError: no such file, damaged, another format, or a pickle that wants to run code.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; give the path of the weights")
    if path.is_dir():
        raise InputError(f"{path}: a folder where a file of weights was expected; give the file")
    return _state_of(_read_torch_file(path), path) if _is_torch_file(path) else read_safetensors(path)


def _is_torch_file(path: Path) -> bool:
    """torch.save writes a zip archive, in old versions a bare pickle. safetensors begins with a header's length: any bytes."""
    with path.open("rb") as file:
        start = file.read(9)
    header_fits = int.from_bytes(start[:8], "little") <= path.stat().st_size - 8 and start[8:] == b"{"
    return not header_fits and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_safetensors(path: Path) -> State:
    """All tensors of a safetensors file, in memory of their own.

    Raises:
        InputError: no such file, truncated, or another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            waiting = list(file.keys())[::-1]
        state: State = {}
        while waiting:
            # safetensors maps the file. Tensors are copied out, because products of matrices depend in their last bit on how
            # memory is aligned, and the map is let go every now and then, because what was read of it counts as memory in use.
            with safe_open(path, framework="pt") as file:
                mapped = 0
                while waiting and mapped < MAPPED_BYTES:
                    name = waiting.pop()
                    state[name] = file.get_tensor(name).clone()
                    mapped += state[name].nbytes
        return state
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of the weights") from None
    except (SafetensorError, OSError) as error:
        if path.is_file() and _is_torch_file(path):
            raise InputError(f"{path.name}: a pickle, which may run code when opened; give the safetensors file") from None
        raise InputError(f"{path.name}: not a whole safetensors file ({error}); download or convert it again") from None


def _read_torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "it holds more than tensors")
        raise InputError(
            f"{path.name}: a pickle that wants to run code, which radscale refuses ({what}); "
            "save its state dict alone, as safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path.name}: damaged PyTorch file ({line}); download or export it again") from None


def _state_of(content: Any, path: Path) -> State:
    """The state dict in what a training script saved: alone, or under one of the customary keys."""
    if isinstance(content, Mapping):
        for key in ("teacher", "model", "state_dict", "module"):
            inner = content.get(key)
            if isinstance(inner, Mapping) and inner:
                content = inner
                break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path.name}: holds no state dict (a mapping of names to tensors); export one")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def check_names(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], source: str) -> None:
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


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors durably and atomically; the same tensors give the same bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def write(temporary: Path) -> None:
        save_file(plain, temporary, metadata)
        # safetensors makes files that only their owner reads; a group shares its checkpoints as it shares its other files.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)

    write_atomically(path, write)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=1, sort_keys=True)
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, flush it to the disk, and give it its name; a file cut short is removed."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
