"""Run steps in dependency order on this machine, each in a process of its own, and survive whatever happens to them.

A step that fails does not stop the others: what cannot do without it is skipped and said. Two runs at once share the work: each
waits for a step that the other is working on, and takes its output. A process of its own returns its
memory, may be killed without harm, and starts in milliseconds because it is forked from a server that has already
imported torch.
"""

import errno
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Protocol

from radscale.errors import InputError
from radscale.execution.artifact import ArtifactStore, Record, Step, StepContext, StepState
from radscale.execution.provenance import collect_provenance

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 0.5
# Read once, when a library is loaded: the fork server loads with one thread what all workers share, and torch, if it is
# there already, is told again in each worker.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Outcome = Literal["done", "kept", "failed", "skipped"]


@dataclass
class RunSummary:
    """What became of every step."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return all(outcome in ("done", "kept") for outcome in self.outcomes.values())

    def names(self, outcome: Outcome) -> list[str]:
        return [name for name, value in self.outcomes.items() if value == outcome]


class Display(Protocol):
    """Whoever shows the run to a person."""

    def started(self, step: Step) -> None: ...
    def waiting(self, step: Step) -> None: ...
    def progressed(self, step: Step, done: int, total: int, what: str) -> None: ...
    def finished(self, step: Step, outcome: Outcome, reason: str, seconds: float) -> None: ...


def topological_order(targets: Sequence[Step]) -> list[Step]:
    """All steps needed for `targets`, upstream first, each once, in the order in which they were named."""
    order: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.name in order:
            return
        for upstream in step.inputs.values():
            visit(upstream)
        order[step.name] = step

    for target in targets:
        visit(target)
    return list(order.values())


def run_steps(
    targets: Sequence[Step],
    store: ArtifactStore,
    *,
    display: Display,
    num_workers: int = 1,
    rebuild: bool = False,
    preload: Sequence[str] = (),
) -> RunSummary:
    """Make every step in `targets` and what it needs; leave alone what is already there.

    Args:
        targets: steps to make.
        store: where outputs stand.
        display: receives events.
        num_workers: worker processes at a time.
        rebuild: replace outputs that were made with other settings; otherwise they are an error.
        preload: modules that the fork server imports once for all workers.

    Raises:
        InputError: if outputs with other settings stand in the way and `rebuild` is not set.
    """
    steps = topological_order(targets)
    states = {step.name: store.state(step) for step in steps}
    _refuse_stale(steps, states, rebuild)
    summary = RunSummary()
    for step in steps:
        if states[step.name].status == "done":
            summary.outcomes[step.name] = "kept"
    waiting = [step for step in steps if step.name not in summary.outcomes]
    started = time.monotonic()
    pool = _Pool(store, display, num_workers, preload)
    try:
        while waiting or pool.running:
            waiting = _start_ready(waiting, summary, pool, rebuild)
            for step, outcome, reason, seconds in pool.collect():
                if outcome is None:
                    waiting.append(step)
                else:
                    _finish(step, outcome, reason, seconds, summary, display)
    finally:
        pool.stop()
    summary.seconds = time.monotonic() - started
    return summary


def _refuse_stale(steps: Sequence[Step], states: dict[str, StepState], rebuild: bool) -> None:
    stale = [step for step in steps if states[step.name].status == "stale"]
    if not stale or rebuild:
        return
    first = stale[0]
    changes = "; ".join(states[first.name].changes[:4]) or "an input changed"
    raise InputError(
        f"{len(stale)} finished outputs were made with other settings, the first is {first.name} ({changes}). "
        "Choose another --out to keep both, or add --rebuild to replace them"
    )


def _finish(step: Step, outcome: Outcome, reason: str, seconds: float, summary: RunSummary, display: Display) -> None:
    summary.outcomes[step.name] = outcome
    summary.reasons[step.name] = reason
    display.finished(step, outcome, reason, seconds)


def _start_ready(waiting: list[Step], summary: RunSummary, pool: "_Pool", rebuild: bool) -> list[Step]:
    still_waiting = []
    for step in waiting:
        outcomes = {name: summary.outcomes.get(upstream.name) for name, upstream in step.inputs.items()}
        lacking = {name for name, outcome in outcomes.items() if outcome in ("failed", "skipped")}
        blocking = lacking - step.optional or (lacking if lacking and lacking >= step.optional else set())
        if blocking:
            cause = step.inputs[min(blocking)].name
            _finish(step, "skipped", f"needs {cause}", 0.0, summary, pool.display)
        elif None in outcomes.values() or not pool.has_room(step):
            still_waiting.append(step)
        else:
            step = step.without(lacking) if lacking else step
            # Another run may have been here since this one began.
            state = pool.store.state(step)
            if state.status == "running":
                pool.display.waiting(step)
                still_waiting.append(step)
            elif state.status == "done":
                _finish(step, "kept", "", 0.0, summary, pool.display)
            elif state.status == "stale" and not rebuild:
                _finish(step, "failed", "another run made it meanwhile with other settings", 0.0, summary, pool.display)
            else:
                pool.start(step)
    return still_waiting


@dataclass
class _Running:
    step: Step
    process: BaseProcess
    started: float
    slots: int
    shown: str = ""


class _Pool:
    """The worker processes of one run."""

    def __init__(self, store: ArtifactStore, display: Display, num_workers: int, preload: Sequence[str]) -> None:
        self.store, self.display, self.num_workers = store, display, max(1, num_workers)
        self.running: list[_Running] = []
        # Its helper cleans up after ended workers; that it had to is nothing to tell a person.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__, *preload])
        with _environment(dict.fromkeys(THREAD_VARIABLES, "1")):
            ensure_running()

    def has_room(self, step: Step) -> bool:
        return sum(item.slots for item in self.running) + self._slots(step) <= self.num_workers

    def _slots(self, step: Step) -> int:
        return self.num_workers if step.slots == 0 else min(max(step.slots, step.num_threads), self.num_workers)

    def start(self, step: Step) -> None:
        slots = self._slots(step)
        process = self.context.Process(target=_work, args=(self.store.root, step, slots), name=step.name)
        process.start()
        self.running.append(_Running(step, process, time.monotonic(), slots))
        self.display.started(step)

    def collect(self) -> list[tuple[Step, Outcome | None, str, float]]:
        """Wait a moment; return what has ended (None: another run has the step), and pass on the others' progress."""
        wait([item.process.sentinel for item in self.running], timeout=POLL_SECONDS)
        ended = []
        for item in list(self.running):
            self._show_progress(item)
            if item.process.is_alive():
                continue
            item.process.join()
            self.running.remove(item)
            outcome, reason = self._outcome(item)
            ended.append((item.step, outcome, reason, time.monotonic() - item.started))
        return ended

    def _outcome(self, item: _Running) -> tuple[Outcome | None, str]:
        # The process's own exit code decides; the record proves it.
        if item.process.exitcode == EXIT_BUSY:
            return None, ""
        state = self.store.state(item.step)
        if item.process.exitcode == 0 and state.status == "done":
            return "done", ""
        if state.status == "failed":
            return "failed", state.reason
        reason = _describe_exit(item.process.exitcode)
        self.store.record_failure(item.step, reason, "")
        return "failed", reason

    def _show_progress(self, item: _Running) -> None:
        try:
            text = (self.store.partial(item.step) / "progress.json").read_text(encoding="utf-8")
            value = json.loads(text) if text != item.shown else None
        except (OSError, json.JSONDecodeError):
            return
        if value:
            item.shown = text
            self.display.progressed(item.step, value["done"], value["total"], value["what"])

    def stop(self) -> None:
        for item in self.running:
            item.process.terminate()
        for item in self.running:
            item.process.join(timeout=20)
            if item.process.is_alive():
                item.process.kill()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for what is started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _describe_exit(code: int | None) -> str:
    if code == EXIT_NO_SPACE:
        return NO_SPACE
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often: out of memory; try fewer --workers)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit code {code} and no result"


EXIT_FAILED = 1
EXIT_NO_SPACE = 74
EXIT_BUSY = 75
NO_SPACE = "no space left on the disk: free some, then run again; what is done stays done"


def _work(root: Path, step: Step, slots: int) -> None:
    """Body of a worker process: run one step and commit it, or record why not."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(step.num_threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(step.num_threads)
    # Ctrl-C reaches the whole process group: the parent decides, and ends its workers with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _exit_with_parent()
    store = ArtifactStore(root)
    try:
        with store.lock(step) as free:
            if not free:
                sys.exit(EXIT_BUSY)
            if not store.is_done(step):
                execute_step(step, store, num_workers=slots)
    except Exception as error:
        # A full disk may not even hold the reason: then the exit code tells it.
        store.record_failure(step, describe_error(error), traceback.format_exc())
        sys.exit(EXIT_NO_SPACE if _is_full(error) else EXIT_FAILED)


def _exit_with_parent() -> None:
    """Ask Linux to end this process when the fork server dies, so that a killed run leaves no orphan at work."""
    if sys.platform.startswith("linux"):
        import ctypes

        pr_set_pdeathsig = 1
        parent = os.getppid()
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(EXIT_FAILED)


def execute_step(step: Step, store: ArtifactStore, *, num_workers: int = 1) -> Record:
    """Run one step in this process and commit its output."""
    out, work = store.open_partial(step)
    context = StepContext(
        work=work,
        num_workers=num_workers,
        options=step.options,
        progress=_ProgressFile(store.partial(step) / "progress.json"),
    )
    inputs = {name: store.path(upstream) for name, upstream in step.inputs.items()} | dict(step.external)
    module, function = step.function.split(":")
    started = time.monotonic()
    result = getattr(import_module(module), function)(step.config, inputs, out, context)
    record = Record(
        name=step.name,
        fingerprint=store.fingerprint(step),
        identity=store.identity(step),
        result=result,
        seconds=round(time.monotonic() - started, 3),
        peak_memory_gb=round(peak_memory_gb(), 3),
        provenance=collect_provenance(),
    )
    store.commit(step, record)
    return record


def _is_full(error: BaseException) -> bool:
    # Writers outside Python (safetensors) pass the system's error on as text only.
    in_words = f"(os error {errno.ENOSPC})" in str(error)
    return in_words or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))


def describe_error(error: BaseException) -> str:
    """One line for a person."""
    if isinstance(error, InputError):
        return str(error)
    if _is_full(error):
        return NO_SPACE
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.filename}: {error.strerror}; make it accessible, or choose another --out"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def peak_memory_gb() -> float:
    """Largest resident memory so far of this process or of one of its children, in GB."""
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9


class _ProgressFile:
    """Throttled progress for whoever watches: the runner's display, or `status` in another terminal."""

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self.last < PROGRESS_SECONDS and done < total:
            return
        self.last = now
        value: dict[str, Any] = {"done": done, "total": total, "what": what}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.replace(temporary, self.path)


def describe_progress(value: tuple[int, int, str] | None) -> str:
    """`37 % training` for a progress triple."""
    if value is None or not value[1]:
        return ""
    return f"{100 * value[0] / value[1]:.0f} % {value[2]}".strip()
