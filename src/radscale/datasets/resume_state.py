"""One ingest into a folder: that nobody else writes there, what has been done, and how the whole takes its place.

Everything is made in the folder `work`, and moved into the dataset at the end. A file `done.json` says that all is there; from
then on moving is only repeated until it has succeeded, so that a kill never leaves half of an old and half of a new dataset.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from radscale.datasets.journal import sync_folder
from radscale.errors import InputError

WORK = ".ingest"
DONE = "done.json"
SETTINGS = "settings.json"
SHARDS = "shards"
TABLES = "tables"


@contextmanager
def exclusive(folder: Path, *, shared: bool = False, wait: bool = False, mode: int = 0o777) -> Iterator[None]:
    """Hold a folder against a second ingest; the system lets it go when the process dies.

    Args:
        folder: made if it is not there.
        shared: others may hold it too that share it (the parts of one ingest).
        wait: until it is free.
        mode: of the folder where it is made.

    Raises:
        InputError: another ingest holds it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError:
        raise InputError(f"{folder}: another ingest is writing into it; wait until it has ended") from None
    finally:
        os.close(descriptor)


def open_work(work: Path, settings: dict[str, Any], secret_check: str) -> bool:
    """Begin, or go on with what an interrupted ingest left: whether there is any.

    Raises:
        InputError: it was begun with another key or other settings.
    """
    found = read_json(work / SETTINGS)
    if found is None:
        clear(work)
        return False
    if found["secret_check"] != secret_check:
        raise InputError(
            f"{work.parent}: an ingest with another secret was interrupted here; give the key that it was begun with, or "
            "remove the folder to start anew"
        )
    settings = json.loads(json.dumps(settings))  # tuples have become lists there
    changed = sorted(key for key in settings if settings[key] != found["settings"].get(key))
    if changed:
        raise InputError(
            f"{work.parent}: an ingest with another {changed[0]} was interrupted here; repeat it as it was begun, or remove "
            f"the folder {work} to start anew"
        )
    return True


def begin(work: Path, settings: dict[str, Any], secret_check: str, facts: dict[str, Any]) -> None:
    """Note what the ingest is made with; from here on it can go on."""
    write_json(work / SETTINGS, {"settings": settings, "secret_check": secret_check, "facts": facts})


def facts_of(work: Path) -> dict[str, Any]:
    """What was found out when the ingest began."""
    facts: dict[str, Any] = (read_json(work / SETTINGS) or {})["facts"]
    return facts


def finish(work: Path, out: Path) -> None:
    """Say that the tables and shards below `work` are whole, and move them into the dataset."""
    write_json(work / DONE, sorted(path.name for path in (work / TABLES).iterdir()))
    move_into_place(work, out)


def move_into_place(work: Path, out: Path) -> bool:
    """Move what a finished ingest made, or the rest of it; whether there was a finished one."""
    tables = read_json(work / DONE)
    if tables is None:
        # A kill may have come when nothing was left to remove but the folder.
        if (out / "dataset.json").exists() and work.is_dir() and not any(work.iterdir()):
            work.rmdir()
            return True
        return False
    if any(not (work / TABLES / name).exists() and not (out / name).exists() for name in tables):
        clear(work)  # the dataset was removed while it took its place
        return False
    (out / SHARDS).mkdir(parents=True, exist_ok=True)
    for shard in sorted((work / SHARDS).glob("*")):
        shard.rename(out / SHARDS / shard.name)
    for name in sorted(tables, key=lambda name: name == "dataset.json"):  # it says that the others are there
        if (work / TABLES / name).exists():
            (work / TABLES / name).rename(out / name)
    sync_folder(out)
    clear(work, keep=DONE)  # last: while it is there, a kill meanwhile is made good
    clear(work)
    work.rmdir()
    return True


def clear(folder: Path, keep: str = "") -> None:
    """Remove what is in a folder, but for the file `keep`."""
    for path in folder.iterdir():
        if path.name == keep:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Its value; None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
