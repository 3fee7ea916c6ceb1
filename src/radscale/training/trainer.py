"""The training loop. It knows steps, schedules, ranks and resuming; what is learned is the objective's business."""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from radscale.errors import InputError, OtherProcessError
from radscale.training.checkpointing import TrainingStates
from radscale.training.distributed import Ranks, average_gradients, start_fabric
from radscale.training.health import METRICS, TENSORBOARD, Health, Observer, Stopwatch
from radscale.training.stopping import RunStopped, StopRequest, stop_requests

NON_FINITE = "non_finite.json"
NAMED_SAMPLES = 5
SAVE = "save"
EarlierState = Literal["resume", "resume_or_restart", "discard"]
"""What becomes of the state of an earlier session: it is resumed, and one of another run refused; or one of another run is
replaced; or any is."""


class NonFiniteLossError(InputError):
    """The loss or its gradient is not a number; raised before the optimizer could use it."""


class OutOfMemoryError(InputError):
    """A step needs more memory than the device has."""


class Objective(Protocol):
    """One way to learn: its networks, its loss, and what happens after a step.

    Two more methods are used where an objective has them: `alarms(measurements) -> list[str]` ("kind: what is wrong; what to
    try", from the floats of a logged step or of an evaluation: any may be missing), and `evaluate(step) -> dict[str, float]`,
    asked before the first and after every step: measurements that need more than a batch, most often none.
    """

    def trained_modules(self) -> dict[str, nn.Module]:
        """Modules whose gradients are clipped one by one."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW; each has `lr_multiplier` and `decays`."""

    def to(self, device: torch.device) -> None: ...

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a zero-based step and scalars to log."""

    def after_step(self, step: int) -> None: ...

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
    rise: dict[str, int] = field(default_factory=dict)
    """Modules whose learning rate, once they are no longer frozen, rises linearly from 0 to the schedule's in so many steps.
    Their parameters share no group with those of other modules."""
    images_per_step: int = 1
    """Over all ranks."""
    same_ranks_because: str = ""
    """Why another number of ranks would learn something else; "" where it would not, and a run may be resumed on any."""
    log_every: int = 10
    save_every_seconds: float = 60.0
    keep_states: int = 1
    tensorboard: bool = False

    @property
    def total_steps(self) -> int:
        return len(self.learning_rate)


@dataclass
class Position:
    """How far a run is, over all its sessions."""

    step: int = 0
    seconds: float = 0.0
    """Of training, without loading, saving and evaluating."""
    device_seconds: float = 0.0
    """The same, summed over devices."""
    last: dict[str, float] = field(default_factory=dict)
    """Loss and measurements of the last logged step."""


def train(
    objective: Objective,
    settings: LoopSettings,
    *,
    work: Path,
    identity: Mapping[str, Any],
    fabric: Fabric | None = None,
    observer: Observer | None = None,
    earlier_state: EarlierState = "resume",
    deadline: float | None = None,
) -> Position:
    """Train to the last step, from wherever an earlier session of the same run stopped.

    Args:
        objective: what to learn; changed in place.
        settings: schedules and the like.
        work: folder of training states and log, the same for all ranks.
        identity: names the run, fact by fact: numbers and strings. A state with other facts is of another run.
        fabric: devices, see `start_fabric`; None takes one.
        observer: whoever watches.
        earlier_state: see `EarlierState`.
        deadline: end with the state saved before this time of `time.monotonic`.

    Raises:
        NonFiniteLossError: the loss or a gradient is infinite or not a number; weights are still those before the step.
        OutOfMemoryError: on a GPU.
        RunStopped: after a signal or at the deadline, with the state saved.
        InputError: a state of another run, or of another number of ranks where that is not exact.
        OtherProcessError: another rank failed.
    """
    fabric, observer = fabric or start_fabric(), observer or Observer()
    ranks, states = Ranks.of(fabric), TrainingStates(work, settings.keep_states)
    objective.to(fabric.device)
    optimizer = torch.optim.AdamW(objective.parameter_groups(), lr=0.0, betas=settings.betas, fused=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    position = _earlier_position(objective, optimizer, settings, states, identity, ranks, earlier_state)
    run = _Session(objective, optimizer, settings, states, identity, ranks, position, observer, work)

    with stop_requests(deadline) as stop, _explained(fabric.device, settings, ranks), run.open():
        while position.step < settings.total_steps:
            step = position.step
            _set_schedules(objective, optimizer, settings, step)
            with fabric.autocast():
                loss, measurements = objective.loss(step)
            run.check_loss(loss, measurements)
            fabric.backward(loss)
            _hold_still(objective, settings, step)
            average_gradients(parameters, ranks)
            norms = _clip(objective, settings)
            run.check_gradients(norms)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            objective.after_step(step)
            run.finish_step(loss, measurements, norms)
            run.save_or_stop(stop)
    return position


class _Session:
    """What goes on around the steps of one session: logging, evaluating, saving, ending."""

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        settings: LoopSettings,
        states: TrainingStates,
        identity: Mapping[str, Any],
        ranks: Ranks,
        position: Position,
        observer: Observer,
        work: Path,
    ) -> None:
        self.objective, self.optimizer, self.settings = objective, optimizer, settings
        self.states, self.identity, self.ranks, self.position = states, identity, ranks, position
        self.observer, self.work = observer, work
        self.first_step = position.step
        self.seconds_before, self.device_seconds_before = position.seconds, position.device_seconds

    @contextmanager
    def open(self) -> Iterator[None]:
        settings = self.settings
        self.health = Health(
            self.work,
            self.position.step,
            self.observer,
            self.ranks,
            images_per_step=settings.images_per_step,
            log_every=settings.log_every,
            total_steps=settings.total_steps,
            tensorboard=settings.tensorboard,
        )
        if self.position.step == 0:
            self._evaluate()
        self.watch = Stopwatch()
        self.saved_at, self.seconds_of_a_save = time.monotonic(), 0.0
        try:
            yield
        finally:
            self.health.close()

    def finish_step(self, loss: Tensor, measurements: Mapping[str, Tensor], norms: Mapping[str, float]) -> None:
        position, settings = self.position, self.settings
        position.step += 1
        seconds = self.watch.seconds
        position.seconds = self.seconds_before + seconds
        position.device_seconds = self.device_seconds_before + seconds * self.ranks.world_size
        facts: dict[str, Any] = {"learning_rate": float(settings.learning_rate[position.step - 1])}
        facts |= {f"gradient_norm/{name}": norm for name, norm in norms.items()}
        alarms = getattr(self.objective, "alarms", None)
        logged = self.health.step_done(position.step, seconds, loss, measurements, facts, alarms)
        position.last = position.last if logged is None else logged
        with self.watch.stopped():
            self._evaluate()

    def _evaluate(self) -> None:
        evaluate = getattr(self.objective, "evaluate", None)
        found = {} if evaluate is None else evaluate(self.position.step)
        if found:
            self.health.evaluated(self.position.step, found, getattr(self.objective, "alarms", None))

    def save_or_stop(self, stop: StopRequest) -> None:
        """Save now and then, and at the end of a session that someone or the clock ends; all ranks decide alike."""
        position, total = self.position, self.settings.total_steps
        seconds_of_a_step = self.watch.seconds / max(position.step - self.first_step, 1)
        stop.seconds_to_save = max(stop.seconds_to_save, 2 * (self.seconds_of_a_save + seconds_of_a_step))
        due = time.monotonic() - self.saved_at > self.settings.save_every_seconds and position.step < total
        reason = self.ranks.first_of(stop.reason or (SAVE if due else ""))
        if reason:
            with self.watch.stopped():
                self._save()
        if reason not in ("", SAVE):
            raise RunStopped(reason, position.step, total)

    def _save(self) -> None:
        began = time.monotonic()
        if self.ranks.is_first:
            state = {
                "identity": dict(self.identity),
                "world_size": self.ranks.world_size,
                **vars(self.position),
                "objective": self.objective.state(),
                "optimizer": self.optimizer.state_dict(),
            }
            self.states.save(self.position.step, state)
        self.ranks.wait()
        self.saved_at = time.monotonic()
        self.seconds_of_a_save = self.saved_at - began

    def check_loss(self, loss: Tensor, measurements: Mapping[str, Tensor]) -> None:
        """Before anything is made of the loss. Where it is no number on one rank, all end."""
        broken = not bool(torch.isfinite(loss))
        if self.ranks.any(broken):
            parts = {name: float(value) for name, value in measurements.items()} if broken else {}
            listed = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
            self._end(f"loss is {loss.item()} ({listed})" if broken else "", parts)

    def check_gradients(self, norms: Mapping[str, float]) -> None:
        """Before the optimizer uses them: clipping by an infinite norm would make the weights infinite or not a number.

        They are averages over ranks, so that all ranks find the same.
        """
        broken = {name: norm for name, norm in norms.items() if not math.isfinite(norm)}
        if broken:
            self._end(", ".join(f"gradient of {name} is {norm}" for name, norm in broken.items()), broken)

    def _end(self, words: str, numbers: Mapping[str, float]) -> NoReturn:
        step = self.position.step
        line = f"{words} at step {step}{self._name_samples(words, numbers)}; try a lower learning rate" if words else ""
        said = next(filter(None, self.ranks.collect(line)))
        raise NonFiniteLossError(said) if self.ranks.is_first else OtherProcessError(said)

    def _name_samples(self, words: str, numbers: Mapping[str, float]) -> str:
        """The images of the step, all of them in a file."""
        ids = self.observer.sample_ids(self.position.step) if self.observer.sample_ids is not None else []
        if not ids:
            return ""
        name = NON_FINITE if self.ranks.world_size == 1 else f"rank={self.ranks.rank}.{NON_FINITE}"
        values = {key: str(value) for key, value in numbers.items()}
        content = {"step": self.position.step, "what": words, "values": values, "sample_ids": ids}
        (self.work / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
        more = f" and {len(ids) - NAMED_SAMPLES} more, all in {name}" if len(ids) > NAMED_SAMPLES else f", in {name}"
        return f" with images {', '.join(ids[:NAMED_SAMPLES])}{more}"


def _earlier_position(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    states: TrainingStates,
    identity: Mapping[str, Any],
    ranks: Ranks,
    earlier_state: EarlierState,
) -> Position:
    """Where an earlier session of this run stopped, its state loaded; the start without one."""
    state = None if earlier_state == "discard" else states.newest()
    if state is not None and state["identity"] != dict(identity):
        changes = describe_changes(state["identity"], identity)
        if earlier_state == "resume":
            raise InputError(
                f"{states.folder}: holds step {state['step']} of another run ({changes}); take back what changed to go on "
                "with it, choose another --out, or add --restart to discard it"
            )
        state = None
    _check_alike(ranks, {**identity, "step to go on from": 0 if state is None else state["step"]})
    if state is None:
        ranks.wait()  # nobody may still read what is now removed
        if ranks.is_first:
            states.clear()
            (states.folder / METRICS).unlink(missing_ok=True)
            shutil.rmtree(states.folder / TENSORBOARD, ignore_errors=True)
        ranks.wait()
        return Position()
    if state["world_size"] != ranks.world_size and settings.same_ranks_because:
        raise InputError(
            f"{states.folder}: the run was started on {state['world_size']} devices and cannot go on with "
            f"{ranks.world_size}: {settings.same_ranks_because}; use {state['world_size']}, or --restart"
        )
    objective.load_state(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    return Position(int(state["step"]), float(state["seconds"]), float(state["device_seconds"]), dict(state["last"]))


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`learning_rate: 0.001 -> 0.0003; weights: changed`, at most four of them."""

    def words(name: str) -> str:
        old, new = str(before.get(name, "none")), str(now.get(name, "none"))
        return f"{name}: {old} -> {new}" if len(old) + len(new) < 60 else f"{name}: changed"

    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    return "; ".join(map(words, names[:4])) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")


def _check_alike(ranks: Ranks, facts: dict[str, Any]) -> None:
    """Ranks that start from other weights, data or states would train a mixture without a word."""
    for rank, others in enumerate(ranks.collect(facts)):
        if others != facts and rank == 0:
            raise InputError(
                f"rank {ranks.rank} differs from rank 0 ({describe_changes(others, facts)}); all nodes need the same dataset, "
                "weights, settings and folder for --out"
            )
        if others != facts:
            raise OtherProcessError(f"rank {rank} differs from rank {ranks.rank}")


def _set_schedules(objective: Objective, optimizer: torch.optim.Optimizer, settings: LoopSettings, step: int) -> None:
    rising: dict[int, float] = {}
    for name, num_steps in settings.rise.items():
        since = step - settings.frozen.get(name, 0)
        if 0 <= since < num_steps:
            rising |= dict.fromkeys(map(id, objective.trained_modules()[name].parameters()), since / num_steps)
    for group in optimizer.param_groups:
        share = rising.get(id(group["params"][0]), 1.0)
        group["lr"] = float(settings.learning_rate[step]) * group["lr_multiplier"] * share
        group["weight_decay"] = float(settings.weight_decay[step]) if group["decays"] else 0.0


def _hold_still(objective: Objective, settings: LoopSettings, step: int) -> None:
    """Drop the gradients of frozen modules: AdamW leaves a parameter without gradient alone, its decay included."""
    for name, num_steps in settings.frozen.items():
        if step < num_steps:
            module, _, part = name.partition(".")
            for parameter in objective.trained_modules()[module].get_submodule(part).parameters():
                parameter.grad = None


def _clip(objective: Objective, settings: LoopSettings) -> dict[str, float]:
    """Bound the gradient of each module by itself, as DINOv2 does. Returns the norms before."""
    norms = {}
    for name, module in objective.trained_modules().items():
        parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
        norms[name] = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm or float("inf")))
    return norms


@contextmanager
def _explained(device: torch.device, settings: LoopSettings, ranks: Ranks) -> Iterator[None]:
    """One line for what happens on large machines: no memory, another rank gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        total = f" ({torch.cuda.get_device_properties(device).total_memory / 1e9:.0f} GB)" if device.type == "cuda" else ""
        raise OutOfMemoryError(
            f"out of memory on {device}{total} with {settings.images_per_step // ranks.world_size} images per device; "
            "set loop.activation_checkpointing: true or precision: bf16, lower batch_size, or use more devices"
        ) from None
    except RuntimeError as error:
        if ranks.world_size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise OtherProcessError("another rank ended; it says why") from None
        raise
