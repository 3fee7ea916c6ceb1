"""Step functions that the runner's tests run in worker processes."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from radscale.errors import InputError
from radscale.execution import StepContext


def write_text(config: dict[str, Any], inputs: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    upstream = "".join((path / "text.txt").read_text() for path in inputs.values() if path.is_dir())
    (out / "text.txt").write_text(upstream + config["text"])
    context.progress(1, 1, "written")
    return {"length": len(upstream + config["text"])}


def fail(config: dict[str, Any], inputs: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    (out / "half.txt").write_text("half of an output")
    raise InputError(config["message"])


def fill_disk(config: dict[str, Any], inputs: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    (out / "half.txt").write_text("half of an output")
    raise OSError(28, "No space left on device")


def fill_disk_for_good(config: dict[str, Any], inputs: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Nothing can be written any more, not even why."""
    import radscale.execution.artifact as artifact

    def full(path: Path, value: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    artifact._write_json = full
    raise OSError(28, "No space left on device")


def die(config: dict[str, Any], inputs: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    (out / "half.txt").write_text("half of an output")
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def count_up(config: dict[str, Any], inputs: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Resumable: counts to `config["total"]`, keeping its place in the work folder."""
    place = context.work / "place.txt"
    start = int(place.read_text()) if place.exists() else 0
    for number in range(start + 1, config["total"] + 1):
        temporary = context.work / "place.tmp"
        temporary.write_text(str(number))
        temporary.replace(place)
        time.sleep(0.02)
    (out / "text.txt").write_text(place.read_text())
    return {"started_at": start}


def count_threads(config: dict[str, Any], inputs: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    import torch

    return {"torch": torch.get_num_threads()}
