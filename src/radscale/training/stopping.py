"""How a run is asked to end before its last step, and how it says that it did."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
EXIT_INTERRUPTED = 143
WALL_CLOCK = "wall clock"


class RunStopped(SystemExit):
    """The run ended early, on request, with its state saved: started again, it goes on."""

    def __init__(self, reason: str, step: int, total_steps: int) -> None:
        super().__init__(EXIT_INTERRUPTED)
        self.reason, self.step, self.total_steps = reason, step, total_steps
        """Name of the signal, or `WALL_CLOCK`; steps done, and steps in all."""

    @property
    def by_the_user(self) -> bool:
        """Ctrl-C, and not a scheduler or a limit, after which the run should be started again."""
        return self.reason == signal.SIGINT.name


@dataclass
class StopRequest:
    """Asked by a signal, or by the clock once the time that is left is needed to save."""

    deadline: float | None = None
    """Of `time.monotonic`."""
    seconds_to_save: float = 10.0
    """Kept free before the deadline: the loop sets it to what a step and a save took."""
    signalled: str = ""

    @property
    def reason(self) -> str:
        """Why the run should end now, or ""."""
        if self.deadline is not None and time.monotonic() + self.seconds_to_save > self.deadline:
            return self.signalled or WALL_CLOCK
        return self.signalled


@contextmanager
def stop_requests(deadline: float | None = None) -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGINT and SIGUSR1 (a scheduler, Ctrl-C) into a request that the loop honours at the end of its step.

    A second signal finds what was there before, so that a run that hangs can still be ended. A signal that is ignored stays
    so. Python lets only the main thread receive signals; elsewhere whoever started the thread stops it.
    """
    request = StopRequest(deadline)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def note(number: int, frame: FrameType | None) -> None:
        request.signalled = signal.Signals(number).name
        signal.signal(number, before[signal.Signals(number)])

    for number in taken:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in taken:
            signal.signal(number, before[number])
