"""An interrupted training of probes or heads on a frozen encoder: what it needs to go on."""

import time
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from radscale.training.weight_files import read_safetensors, write_safetensors

SAVE_SECONDS = 60.0


class TrainingState:
    """Heads and their optimiser after some of the steps, in one file; a training that reads it ends with the same bits.

    Args:
        path: of the safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._saved = path, time.monotonic()

    @property
    def steps(self) -> int:
        """Steps that are done; 0 without a file."""
        if not self._path.exists():
            return 0
        with safe_open(self._path, framework="pt") as file:
            return int(file.metadata()["steps"])

    def is_due(self) -> bool:
        return time.monotonic() - self._saved > SAVE_SECONDS

    def save(self, steps: int, head: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        state = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        for number, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
        write_safetensors(self._path, state, {"steps": str(steps)})
        self._saved = time.monotonic()

    def restore(self, head: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put both back to where `steps` says."""
        head_state, values = {}, optimizer.state_dict()
        for key, tensor in read_safetensors(self._path).items():
            kind, rest = key.split(".", 1)
            if kind == "head":
                head_state[rest] = tensor
            else:
                number, name = rest.split(".")
                values["state"].setdefault(int(number), {})[name] = tensor
        head.load_state_dict(head_state)
        optimizer.load_state_dict(values)
