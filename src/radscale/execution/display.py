"""Show a run: live bars with ETA on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from radscale.execution.artifact import Step
from radscale.execution.runner import Outcome


class RunDisplay:
    """Overall bar weighted by the steps' estimated `seconds`, and one bar for every step at work."""

    def __init__(self, console: Console, steps: list[Step], seconds: Mapping[str, float] | None = None) -> None:
        self.console = console
        self.remaining = {step.name for step in steps}
        self.num_steps = len(steps)
        self.weights = {step.name: max((seconds or {}).get(step.name, 1.0), 0.01) for step in steps}
        self.fraction: dict[str, float] = {}
        self.live = console.is_terminal
        self.bars: dict[str, TaskID] = {}
        self.printed: dict[str, float] = {}
        self.waited_for: set[str] = set()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.live,
        )

    def __enter__(self) -> "RunDisplay":
        self.started_at = time.monotonic()
        self.progress.start()
        self.total = self.progress.add_task(f"[bold]{self.num_steps} steps", total=100)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def started(self, step: Step) -> None:
        self.bars[step.name] = self.progress.add_task(f"  {step.name}", total=None)

    def waiting(self, step: Step) -> None:
        if step.name not in self.waited_for:
            self.waited_for.add(step.name)
            self.progress.console.print(f"another run works on {step.name}: waiting for it", highlight=False, soft_wrap=True)

    def progressed(self, step: Step, done: int, total: int, what: str) -> None:
        self.fraction[step.name] = done / total if total else 0.0
        self.progress.update(
            self.bars[step.name], completed=done, total=total or None, description=f"  {step.name} [dim]{what}"
        )
        self._update_total()
        # A log file wants to know that a long step is alive, but not twice a second.
        now = time.monotonic()
        if not self.live and now - self.printed.setdefault(step.name, now) > 30:
            self.printed[step.name] = now
            self.console.print(f"{step.name}: {done}/{total} {what}, {self._eta()}", highlight=False)

    def finished(self, step: Step, outcome: Outcome, reason: str, seconds: float) -> None:
        self.fraction[step.name] = 1.0
        self.remaining.discard(step.name)
        if step.name in self.bars:
            self.progress.remove_task(self.bars.pop(step.name))
        self._update_total()
        if outcome == "skipped":
            # One cause can skip hundreds of steps; the summary counts them and names the cause.
            return
        count = f"[{self.num_steps - len(self.remaining)}/{self.num_steps}]".replace("[", r"\[")
        style = {"done": "green", "failed": "bold red"}.get(outcome, "")
        line = f"{count} [{style}]{outcome:<7}[/] {step.name} [dim]{seconds:.1f} s[/]" if style else f"{count} {step.name}"
        self.progress.console.print(line + (f"\n    {reason}" if reason else ""), highlight=False, soft_wrap=True)

    def _share(self) -> float:
        total = sum(self.weights.values())
        return (
            sum(self.weights[name] * part for name, part in self.fraction.items() if name in self.weights) / total
            if total
            else 1.0
        )

    def _update_total(self) -> None:
        self.progress.update(self.total, completed=100 * self._share())

    def _eta(self) -> str:
        share, elapsed = self._share(), time.monotonic() - self.started_at
        return f"about {elapsed / share - elapsed:.0f} s left in all" if share > 0.01 else "time left not known yet"


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


class _Rate(ProgressColumn):
    """How many are done in a second."""

    def render(self, task: Task) -> Text:
        return Text(_per_second(task.speed) if task.speed else "")


class OneBar:
    """Progress of a single command; call it with (done, total, what)."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.live = console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not self.live)
        self.last = 0.0
        self.first: tuple[float, int] | None = None
        self.before = (0, 0)
        """Done and total of the last call."""

    def __enter__(self) -> "OneBar":
        self.progress.start()
        self.task = self.progress.add_task(self.title, total=None)
        self.last = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        if done < self.before[0] or total != self.before[1]:  # something else is counted now, at a speed of its own
            self.progress.reset(self.task)
            self.first = None
        self.before = (done, total)
        self.progress.update(self.task, completed=done, total=total or None, description=f"{self.title} [dim]{what}")
        now = time.monotonic()
        # A resumed command does not begin at 0.
        began, before = self.first = self.first or (now, done)
        if not self.live and now - self.last > 30:
            self.last = now
            rate = (done - before) / (now - began) if now > began else 0.0
            eta = f", about {(total - done) / rate:.0f} s left" if total and rate else ""
            left = f", {_per_second(rate)}{eta}" if rate else ""
            self.console.print(f"{self.title}: {done}{f'/{total}' if total else ''} {what}{left}", highlight=False)
