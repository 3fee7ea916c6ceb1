"""The training loop. It knows steps, schedules, precision and resuming; what is learned is the objective's business."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from radscale.errors import InputError
from radscale.training.checkpointing import load_training_state, save_training_state

STATE = "training_state.pt"
METRICS = "metrics.jsonl"
EXIT_INTERRUPTED = 143
Progress = Callable[[int, int, str], None]


class NonFiniteLossError(InputError):
    """The loss or its gradient is not a number; raised before the optimizer could use it."""


class Objective(Protocol):
    """One way to learn: its networks, its loss, and what happens after a step."""

    def trained_modules(self) -> dict[str, nn.Module]:
        """Modules whose gradients are clipped one by one."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW; each has `lr_multiplier` and `decays`."""

    def to(self, device: torch.device) -> None: ...

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a zero-based step and scalars to log."""

    def after_step(self, step: int) -> None: ...

    def evaluate(self, step: int) -> dict[str, float]:
        """Measurements that need more than a batch, after so many steps; most often none."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Everything that the loop needs beside the objective. Schedules have one value per step."""

    learning_rate: np.ndarray
    weight_decay: np.ndarray
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    frozen: dict[str, int] = field(default_factory=dict)
    """Modules ("backbone", or a part such as "head.last_layer") whose weights stay as they are for the first so many steps."""
    precision: str = "32-true"
    images_per_step: int = 1
    log_every: int = 10
    save_every_seconds: float = 60.0

    @property
    def total_steps(self) -> int:
        return len(self.learning_rate)


@dataclass(frozen=True)
class LoopResult:
    seconds: float
    """Of training in all sessions of the run, without loading."""
    last: dict[str, float]


def train(
    objective: Objective, settings: LoopSettings, *, work: Path, identity: str, progress: Progress | None = None
) -> LoopResult:
    """Train to the last step, from wherever an earlier session of the same run stopped.

    Args:
        objective: what to learn; changed in place.
        settings: schedules and the like.
        work: folder of the training state and the log.
        identity: names the run; a state of another run is not resumed.
        progress: called with (steps done, steps in all, what).

    Raises:
        NonFiniteLossError: the loss or a gradient is infinite or not a number; weights are still those before the step.
        SystemExit: after SIGTERM, with the state saved.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=settings.precision)  # type: ignore[arg-type]
    objective.to(fabric.device)
    optimizer = torch.optim.AdamW(objective.parameter_groups(), lr=0.0, betas=settings.betas, fused=True)
    step, seconds, last = _resume(objective, optimizer, work, identity)
    log = _Log(work / METRICS, step)
    started = saved = time.monotonic()
    if step == 0 and (before := objective.evaluate(0)):
        log.write({"step": 0, **before})
    with _stop_signal() as stop:
        while step < settings.total_steps:
            _set_schedules(optimizer, settings, step)
            with fabric.autocast():
                loss, measurements = objective.loss(step)
            if not torch.isfinite(loss):
                parts = ", ".join(f"{name} {float(value):.4g}" for name, value in measurements.items())
                raise NonFiniteLossError(f"loss is {loss.item()} at step {step} ({parts}); try a lower learning rate")
            fabric.backward(loss)
            _hold_still(objective, settings, step)
            _clip(objective, settings, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            objective.after_step(step)
            step += 1
            if step % settings.log_every == 0 or step == settings.total_steps:
                rate = settings.images_per_step * (step - log.first_step) / max(time.monotonic() - started, 1e-9)
                last = {"loss": float(loss.detach()), **{name: float(value) for name, value in measurements.items()}}
                log.write({"step": step, **last, "learning_rate": settings.learning_rate[step - 1], "images_per_second": rate})
            evaluated = objective.evaluate(step)
            if evaluated:
                log.write({"step": step, **evaluated})
            if progress is not None:
                progress(step, settings.total_steps, f"steps, loss {last['loss']:.3f}" if last else "steps")
            now = time.monotonic()
            if stop.requested or (now - saved > settings.save_every_seconds and step < settings.total_steps):
                progress_so_far = {"identity": identity, "step": step, "seconds": seconds + now - started, "last": last}
                _save(objective, optimizer, work, progress_so_far)
                saved = time.monotonic()
            if stop.requested:
                raise SystemExit(EXIT_INTERRUPTED)
    return LoopResult(seconds + time.monotonic() - started, last)


def _resume(
    objective: Objective, optimizer: torch.optim.Optimizer, work: Path, identity: str
) -> tuple[int, float, dict[str, float]]:
    """Steps done, seconds used and the last measurements of an earlier session of this run; 0, 0 and none without one."""
    state = load_training_state(work / STATE)
    if state is None or state["identity"] != identity:
        (work / METRICS).unlink(missing_ok=True)
        return 0, 0.0, {}
    objective.load_state(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"]), dict(state["last"])


def _save(objective: Objective, optimizer: torch.optim.Optimizer, work: Path, progress_so_far: dict[str, Any]) -> None:
    state = {**progress_so_far, "objective": objective.state(), "optimizer": optimizer.state_dict()}
    save_training_state(work / STATE, state)


def _set_schedules(optimizer: torch.optim.Optimizer, settings: LoopSettings, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = float(settings.learning_rate[step]) * group["lr_multiplier"]
        group["weight_decay"] = float(settings.weight_decay[step]) if group["decays"] else 0.0


def _hold_still(objective: Objective, settings: LoopSettings, step: int) -> None:
    """Drop the gradients of frozen modules: AdamW leaves a parameter without gradient alone, its decay included."""
    for name, num_steps in settings.frozen.items():
        if step < num_steps:
            module, _, part = name.partition(".")
            for parameter in objective.trained_modules()[module].get_submodule(part).parameters():
                parameter.grad = None


def _clip(objective: Objective, settings: LoopSettings, step: int) -> None:
    """Bound the gradient of each module by itself, as DINOv2 does.

    Raises:
        NonFiniteLossError: clipping by an infinite norm would make the weights infinite or not a number.
    """
    for name, module in objective.trained_modules().items():
        parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or float("inf"))
        if not torch.isfinite(norm):
            raise NonFiniteLossError(f"gradient of {name} is {float(norm)} at step {step}; try a lower learning rate")


class _Log:
    """metrics.jsonl, one line per logged step; lines of steps that a resumed run does again are dropped."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path, self.first_step = path, first_step
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: _rounded(value) for name, value in values.items()}) + "\n")


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


@dataclass
class _Stop:
    requested: bool = False


@contextmanager
def _stop_signal() -> Iterator[_Stop]:
    """Turn SIGTERM (a scheduler, a stopped run) into a request that the loop honours at the end of its step.

    Python lets only the main thread receive signals; elsewhere whoever started the thread stops it.
    """
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True

    previous = signal.signal(signal.SIGTERM, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
