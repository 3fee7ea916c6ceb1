"""The folder of an unfinished run: held by one process, and continued with the settings it was begun with only."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radscale.errors import InputError
from radscale.execution.fingerprint import describe_changes

SETTINGS, LOCK = "_settings.json", "_lock"


@contextmanager
def work_folder(work: Path, settings: dict[str, Any], out: Path, results: str) -> Iterator[None]:
    """Hold the folder, made if needed, and note the settings in it.

    Args:
        work: the folder.
        settings: everything that decides the results, as JSON types.
        out: what the run makes, for messages.
        results: pattern of the files in it that another run may go on from.

    Raises:
        InputError: another process holds it, or results in it are of other settings.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out {out}: another run is writing it; wait for its end or choose another name") from None
        begun = work / SETTINGS
        settings = json.loads(json.dumps(settings))
        if begun.exists() and any(work.glob(results)):
            changes = describe_changes(json.loads(begun.read_text(encoding="utf-8")), settings)
            if changes:
                raise InputError(
                    f"--out {out}: an unfinished run there had other settings ({'; '.join(changes)}); "
                    f"repeat those to go on, or remove {work} to start again"
                )
        temporary = begun.with_suffix(".tmp")
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        os.replace(temporary, begun)
        yield
