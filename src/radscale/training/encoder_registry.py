"""Encoders that radscale does not know: one file of the user's own, or an installed package (docs/own_encoder.md).

A builder is a function `build(weights: Path | None) -> radscale.models.Encoder`. With None it gives the architecture with any
weights: radscale fills in those of a checkpoint. It is named by

- its file: `my_encoder.py:build`, or
- an entry point of the group `radscale.encoders` of an installed package: `my-encoder`.

Only builders that the user names, or has installed, are run; weights and checkpoints never bring code with them.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from radscale.errors import InputError
from radscale.models import Encoder

GROUP = "radscale.encoders"


def registered_names() -> list[str]:
    """Names of installed encoders, in alphabetical order."""
    return sorted({point.name for point in metadata.entry_points(group=GROUP)})


def build_registered(name: str, weights: Path | None) -> Encoder:
    """Run a builder and check that what it gives is an encoder.

    Args:
        name: `FILE.py:FUNCTION`, or the name of an entry point. A checkpoint keeps the file's full path.
        weights: handed to the builder as it is; None for the architecture alone.

    Raises:
        InputError: no such builder, or what it gives does not fit (which method, what it gave, what it should).
    """
    builder, facts = _find(name)
    encoder = builder(weights)
    if not isinstance(encoder, Encoder):
        raise InputError(f"{name}: gave a {type(encoder).__name__}; a builder returns a radscale.models.Encoder")
    encoder.builder = facts
    encoder.origin = name if weights is None else f"{name} with {weights.name}"
    encoder.eval()
    check_encoder(encoder, name)
    return encoder


def rebuild(builder: dict[str, Any], source: str) -> Encoder:
    """The encoder of a checkpoint whose architecture is code of the user's own, to be filled with the checkpoint's weights.

    Raises:
        InputError: the file has changed since, so that the weights may mean something else.
    """
    name = str(builder.get("name", ""))
    _, facts = _find(name)
    if facts.get("sha256") != builder.get("sha256"):
        raise InputError(f"{source}: made with another version of {name.rpartition(':')[0]}; take that one, or import again")
    return build_registered(name, None)


def _find(name: str) -> tuple[Callable[[Path | None], Any], dict[str, str]]:
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_file(Path(file), function)
    for point in metadata.entry_points(group=GROUP):
        if point.name == name:
            version = point.dist.version if point.dist is not None else "?"
            return point.load(), {"name": name, "version": version}
    installed = ", ".join(registered_names()) or "none is installed"
    raise InputError(
        f"unknown encoder '{name}'; allowed: medimageinsight, rad-dino, dinov2, a function of your own as FILE.py:FUNCTION, "
        f"or an installed one ({installed})"
    )


def _from_file(path: Path, function: str) -> tuple[Callable[[Path | None], Any], dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give FILE.py:FUNCTION of your encoder")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    module_name = f"radscale_encoder_{sha256[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses of the file look themselves up here
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise InputError(f"{path}: cannot be imported ({type(error).__name__}: {error})") from error
    builder = getattr(module, function, None)
    if not callable(builder):
        raise InputError(f"{path}: has no function '{function}'; define `def {function}(weights): ...`")
    return builder, {"name": f"{path.resolve()}:{function}", "sha256": sha256}


def check_encoder(encoder: Encoder, name: str) -> None:
    """Run one black image through an encoder and compare what comes out with what it says of itself.

    Raises:
        InputError: naming the method, what it gave and what it should give.
    """
    for attribute in ("preprocessing", "feature_channels", "embedding_dim"):
        if not hasattr(encoder, attribute):
            raise InputError(f"{name}: the encoder has no '{attribute}'; set it in __init__")
    size = encoder.preprocessing.image_size_px
    with torch.no_grad():
        maps = encoder.forward_features(torch.zeros(1, 3, size, size))
        embedding = encoder.encode_image(torch.zeros(1, 3, size, size))
    shapes = [tuple(feature_map.shape) for feature_map in maps]
    if len(maps) != 4 or any(len(shape) != 4 or shape[0] != 1 for shape in shapes):
        raise InputError(f"{name}: forward_features gave shapes {shapes}; it must give four maps (B, C, h, w)")
    if [shape[1] for shape in shapes] != list(encoder.feature_channels):
        raise InputError(f"{name}: forward_features gave {[s[1] for s in shapes]} channels; feature_channels says "
                         f"{list(encoder.feature_channels)}")  # fmt: skip
    if tuple(embedding.shape) != (1, encoder.embedding_dim):
        raise InputError(f"{name}: encode_image gave {tuple(embedding.shape)}; embedding_dim says (1, {encoder.embedding_dim})")
    if abs(float(embedding.norm()) - 1) > 1e-3:
        raise InputError(
            f"{name}: encode_image gave a vector of length {float(embedding.norm()):.3g}; it must be normalised to 1"
        )
