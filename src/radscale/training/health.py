"""What a run shows while it runs: metrics.jsonl, TensorBoard, the line of progress, alarms."""

import json
import math
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radscale.errors import InputError
from radscale.training.distributed import Ranks

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
MUCH_WAITING = 0.3
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Observer:
    """Whoever watches a run, and what only the caller can tell about it."""

    progress: Progress | None = None
    """Called with (steps done, steps in all, what) after every step."""
    say: Callable[[str], None] = field(default=lambda line: warnings.warn(line, stacklevel=3))
    """Called with one line for a person, on the first rank."""
    input_facts: Callable[[], Mapping[str, float]] = dict
    """Measurements of the input, such as `waiting_share`: the share of the time in which the device waited for images."""
    sample_ids: Callable[[int], list[str]] | None = None
    """Pseudonymous ids of this rank's images of a step."""


class Health:
    """Numbers of a run, logged every so many steps by the first rank."""

    def __init__(
        self,
        work: Path,
        first_step: int,
        observer: Observer,
        ranks: Ranks,
        *,
        images_per_step: int,
        log_every: int,
        total_steps: int,
        tensorboard: bool = False,
    ) -> None:
        self.observer, self.ranks = observer, ranks
        self.images_per_step, self.log_every, self.total_steps = images_per_step, log_every, total_steps
        self.log = MetricsLog(work, first_step, tensorboard) if ranks.is_first else None
        self.rung: set[str] = set()
        self.logged_at, self.logged_seconds = first_step, 0.0
        self.line = ""

    def step_done(
        self,
        step: int,
        seconds: float,
        loss: Tensor,
        measurements: Mapping[str, Tensor],
        facts: Mapping[str, float],
        alarms: Callable[[dict[str, float]], list[str]] | None = None,
    ) -> dict[str, float] | None:
        """Log and show a step.

        Args:
            step: steps done.
            seconds: of training in this session.
            loss: of this rank.
            measurements: scalars of this rank; logged is their mean over ranks.
            facts: what is the same on all ranks (rates, norms).
            alarms: the objective's: "kind: what is wrong; what to try" for each.

        Returns:
            Loss and measurements, if this step was logged.
        """
        values = None
        if step == 1 or step % self.log_every == 0 or step == self.total_steps:
            values = self._mean({"loss": loss, **measurements})
            rate = self.images_per_step * (step - self.logged_at) / max(seconds - self.logged_seconds, 1e-9)
            self.logged_at, self.logged_seconds = step, seconds
            around = {"images_per_second": rate, **self.observer.input_facts(), "peak_memory_gb": peak_memory_gb()}
            waiting = around.get("waiting_share", 0.0)
            self.line = f", loss {values['loss']:.3f}, {rate:,.0f} images/s" + (f", waiting {waiting:.0%}" if waiting else "")
            self._write(step, {**values, **facts, **around})
            self._ring(step, [*(alarms(values) if alarms is not None else []), *_waiting_alarm(waiting)])
        if self.observer.progress is not None:
            self.observer.progress(step, self.total_steps, "steps" + self.line)
        return values

    def evaluated(
        self, step: int, values: dict[str, float], alarms: Callable[[dict[str, float]], list[str]] | None = None
    ) -> None:
        """Log an evaluation after so many steps."""
        self._write(step, values)
        self._ring(step, alarms(values) if alarms is not None else [])

    def close(self) -> None:
        if self.log is not None:
            self.log.close()

    def _mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        together = torch.stack([value.detach().float() for value in values.values()])
        return dict(zip(values, (self.ranks.sum(together) / self.ranks.world_size).tolist(), strict=True))

    def _ring(self, step: int, alarms: list[str]) -> None:
        for alarm in alarms:
            kind = re.sub(r"[\d.]+", "", alarm.partition(":")[0])  # the same alarm with other numbers is no news
            if kind not in self.rung:
                self.rung.add(kind)
                self._write(step, {"alarm": alarm})
                if self.ranks.is_first:
                    self.observer.say(f"step {step}: {alarm}")

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.write(step, values)


class MetricsLog:
    """metrics.jsonl, a JSON object per line, and TensorBoard's files if wanted. Lines of steps that a resumed run does again
    are dropped."""

    def __init__(self, work: Path, first_step: int, tensorboard: bool) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.path = work / METRICS
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.writer = _tensorboard_writer(work / TENSORBOARD, first_step) if tensorboard else None

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{name: _rounded(value) for name, value in values.items()}}) + "\n")
        if self.writer is None:
            return
        for name, value in values.items():
            if not isinstance(value, str):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def check_tensorboard() -> None:
    """Say at the start, and not after minutes of loading, that it is missing."""
    _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "tensorboard is not installed; pip install 'radscale[tensorboard]', or leave loop.tensorboard out: "
            "metrics.jsonl has the same numbers"
        ) from None
    return SummaryWriter


def _tensorboard_writer(folder: Path, first_step: int) -> Any:
    return _writer_class()(str(folder), purge_step=first_step + 1)


def _rounded(value: Any) -> Any:
    """Six digits; what is no number in JSON is null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _waiting_alarm(share: float) -> list[str]:
    if share <= MUCH_WAITING:
        return []
    return [f"waiting for images: {share:.0%} of the time; more CPU cores, a larger max_memory_gb, or shards on a faster disk"]


def peak_memory_gb() -> float:
    """Most memory held so far, in GB: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def reset_peak_memory() -> None:
    """Of the GPU; what a process once held cannot be forgotten."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device_memory_gb() -> float:
    """Of the GPU."""
    return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 1e9


class Stopwatch:
    """Seconds of training in this session. What is done beside it, saving and evaluating, does not count against the budget."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began
