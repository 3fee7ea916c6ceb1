"""Where a result comes from: code version, packages, kind of machine, command. Beside the data, not in its identity."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("radscale", "torch", "numpy", "lightning-fabric", "pydicom", "imagecodecs")


@cache
def _git_commit() -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def collect_provenance() -> dict[str, Any]:
    """Facts that a reader needs to trust or repeat a result. No user name, host name or path."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "command": [Path(sys.argv[0]).name, *(Path(word).name for word in sys.argv[1:])],
        "python": platform.python_version(),
        "packages": _versions(),
        "processor": platform.machine(),
        "num_cores": os.cpu_count(),
        "system": platform.system(),
    }
