"""A command of radscale that is killed with SIGKILL in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def kill_when(arguments: Sequence[str], there: Path, *, after: float = 0.0) -> None:
    """Start `radscale ARGUMENTS`, and kill it so many seconds after a file has come."""
    process = subprocess.Popen([sys.executable, "-m", "radscale.cli", *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not there.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert there.exists()
