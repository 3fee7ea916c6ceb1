"""Trained heads on disk, beside the predictions: with what they need to be applied to other images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from radscale.errors import InputError
from radscale.models import Encoder
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.head import HeadShape, StackedHead
from radscale.training.checkpointing import encoder_fingerprint
from radscale.training.weight_files import check_names, read_safetensors, write_safetensors

HEADS = "heads.safetensors"
SCHEMA_VERSION = 1
METADATA_KEY = "radscale"
GEOMETRY = ("grid", "kernel_size", "upsampling", "whole_image")
"""Settings without which the weights of a head mean nothing."""


@dataclass(frozen=True)
class SavedHeads:
    """Heads of several seeds with what they belong to."""

    path: Path
    tasks: list[str]
    seeds: tuple[int, ...]
    encoder: str
    """Fingerprint of the encoder that they were trained on."""
    geometry: dict[str, Any]
    """Values of `GEOMETRY`."""
    threshold: float
    state: dict[str, Tensor]

    def check_encoder(self, encoder: Encoder) -> None:
        """Raises:
        InputError: it is not, weight by weight, the encoder that the heads were trained on.
        """
        found = encoder_fingerprint(encoder)
        if found != self.encoder:
            raise InputError(
                f"--heads {self.path}: trained on the encoder with fingerprint {self.encoder}; {encoder.origin} has {found}. "
                "Give the same weights, or train heads of its own without --heads"
            )

    def settings(self, config: SegmentationConfig) -> SegmentationConfig:
        """The settings with what the heads decide: seeds, tasks (those chosen, or all), geometry.

        Raises:
            InputError: a geometry or a task was asked for that the heads do not have.
        """
        standard = SegmentationConfig()
        for name in GEOMETRY:
            asked = getattr(config, name)
            if asked not in (getattr(standard, name), self.geometry[name]):
                raise InputError(
                    f"{name} is {asked}; the heads of {self.path} have {self.geometry[name]}. Leave it out, or train heads "
                    "without --heads"
                )
        tasks = tuple(self.tasks) if config.tasks is None else config.tasks
        unknown = [task for task in tasks if task not in self.tasks]
        if unknown:
            raise InputError(f"task '{unknown[0]}': the heads of {self.path} have {', '.join(self.tasks)}; choose from them")
        return replace(config, seeds=self.seeds, tasks=tasks, **self.geometry)

    def head(self, tasks: Sequence[str]) -> StackedHead:
        """The heads of some of the tasks, on the CPU."""
        places = [self.tasks.index(task) for task in tasks]
        shape = HeadShape(
            in_channels=len(self.state["mean"]),
            num_tasks=len(places),
            **{name: self.geometry[name] for name in ("grid", "kernel_size", "upsampling")},
        )
        head = StackedHead(shape, self.seeds)
        weight = self.state["weight"].unflatten(1, (len(self.tasks), -1))[:, places].flatten(1, 2)
        state = {**self.state, "weight": weight, "bias": self.state["bias"][:, places]}
        check_names({name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}, state, self.path.name)
        head.load_state_dict(state)
        return head.eval()


def write_heads(
    path: Path, head: StackedHead, config: SegmentationConfig, tasks: Sequence[str], encoder: str, facts: dict[str, Any]
) -> None:
    """Write the heads of all seeds.

    Args:
        path: of the safetensors file: weight (S, K * u * u, C, k, k), bias (S, K), mean and deviation (C,).
        config: that they were trained with.
        tasks: K of them, in the order of the weights.
        encoder: its fingerprint.
        facts: further literals for the file's description.
    """
    description = {
        **facts,
        "schema_version": SCHEMA_VERSION,
        "encoder": encoder,
        "tasks": list(tasks),
        "seeds": list(config.seeds),
        "threshold": config.threshold,
        **{name: getattr(config, name) for name in GEOMETRY},
        "grid": head.shape.grid,
    }
    write_safetensors(path, head.state_dict(), {METADATA_KEY: json.dumps(description, sort_keys=True)})


def read_heads(path: Path) -> SavedHeads:
    """Heads from their file, or from the folder that `radscale segment` made.

    Raises:
        InputError: no heads there, or a file of another kind or schema.
    """
    file = path / HEADS if path.is_dir() else path
    description = _description(file)
    if description.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"--heads {path}: schema_version {description.get('schema_version')!r}, this radscale reads {SCHEMA_VERSION}; "
            f"give a folder made by `radscale segment`, or its {HEADS}"
        )
    try:
        return SavedHeads(
            path=path,
            tasks=description["tasks"],
            seeds=tuple(description["seeds"]),
            encoder=description["encoder"],
            geometry={name: description[name] for name in GEOMETRY},
            threshold=description["threshold"],
            state={name: tensor.float() for name, tensor in read_safetensors(file).items()},
        )
    except KeyError as error:
        raise InputError(f"--heads {path}: its description lacks {error}; make the heads again") from None


def _description(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            value = json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"--heads {file}: no such file; give a folder made by `radscale segment`") from None
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"--heads {file}: not a whole file of heads ({error}); make them again") from None
    return value if isinstance(value, dict) else {}
