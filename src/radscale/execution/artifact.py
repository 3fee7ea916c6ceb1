"""Steps, their records, and the folder in which their outputs stand.

A step's output is either absent or whole: it is written under `.partial/`, and renamed to its readable name together
with its record when it is done. `STORE/pretraining/unicl/n=1000/replicate=0/record.json` says what was run, from what,
and how.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from radscale.errors import InputError
from radscale.execution.fingerprint import describe_changes, external_identity, fingerprint

RECORD = "record.json"
OWNER = "experiment.json"

Status = Literal["done", "incomplete", "stale", "running", "failed", "interrupted", "missing"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A plain function with complete settings, to be run once.

    `function` is "package.module:name" and is called as `function(config, inputs, out, context) -> dict`. `config`
    holds literals, `inputs` the upstream steps, `external` files and folders that no step made (known by content).
    `options` are handed over too but never enter the identity (paths of secrets, names for people). `version` is raised
    when the meaning of the function changes. `slots` is how many workers it occupies (0: all of them).

    `num_threads` of the numerical libraries are part of the identity, because sums are split among them: were they taken
    from the machine, its cores and its workers would decide the last bits of a result.

    `optional` names inputs that it can do without: if their steps fail, it is made from the others, as long as it has one.
    """

    name: str
    function: str
    config: dict[str, Any]
    inputs: dict[str, "Step"] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    external: dict[str, Path] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    num_threads: int = 1
    slots: int = 1
    description: str = ""

    @property
    def stage(self) -> str:
        """First part of the name, e.g. `pretraining`."""
        return self.name.split("/")[0]

    def without(self, lacking: Collection[str]) -> "Step":
        """This step made from fewer inputs: another identity, so that it never passes for the whole one."""
        return replace(self, inputs={name: step for name, step in self.inputs.items() if name not in lacking})


@dataclass(frozen=True)
class Record:
    """What is written beside a finished output."""

    name: str
    fingerprint: str
    identity: dict[str, Any]
    result: dict[str, Any]
    seconds: float
    peak_memory_gb: float
    provenance: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """The record in `folder`, or None if there is no whole artifact there."""
        try:
            return cls(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write durably: the record is what makes an output whole."""
        with (folder / RECORD).open("w", encoding="utf-8") as file:
            json.dump(self.__dict__, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class StepState:
    """Status of one step, and why."""

    status: Status
    reason: str = ""
    changes: tuple[str, ...] = ()
    progress: tuple[int, int, str] | None = None


@dataclass(frozen=True)
class StepContext:
    """What a running step may use beside its settings."""

    work: Path
    """Survives a kill: a step may keep its own resume state here."""
    num_workers: int
    options: dict[str, Any]
    progress: Callable[[int, int, str], None]


class ArtifactStore:
    """A folder of artifacts, one per step, addressed by the step's readable name."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        # By object: two steps of one name may differ in their settings. The step is kept so that its id stays its own.
        self._identities: dict[int, tuple[Step, dict[str, Any]]] = {}

    def check_owner(self, name: str) -> None:
        """Outputs are replaced whole, so they must never stand in a folder that holds anything else.

        Raises:
            InputError: the folder belongs to another experiment, or holds files that no run made.
        """
        owner = _read_json(self.root / OWNER)
        if owner is not None and owner.get("name") != name:
            other = owner.get("name")
            raise InputError(
                f"--out {self.root}: belongs to the experiment '{other}', this one is '{name}'; choose another folder"
            )
        if owner is None and self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise InputError(f"--out {self.root}: holds files that no run of an experiment made; choose a new or empty folder")

    def claim(self, name: str) -> None:
        """Make the folder and write into it whose it is.

        Raises:
            InputError: see `check_owner`; or it cannot be written to.
        """
        self.check_owner(name)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            _write_json(self.root / OWNER, {"name": name})
        except OSError as error:
            raise InputError(f"--out {self.root}: cannot be written to ({error.strerror}); choose another folder") from None

    def path(self, step: Step | str) -> Path:
        return self.root / (step if isinstance(step, str) else step.name)

    def partial(self, step: Step) -> Path:
        return self.root / ".partial" / step.name.replace("/", "__")

    def record(self, step: Step) -> Record | None:
        return Record.read(self.path(step))

    def identity(self, step: Step) -> dict[str, Any]:
        """Everything that decides what the step's result is."""
        if id(step) not in self._identities:
            identity = {
                "function": step.function,
                "version": step.version,
                "num_threads": step.num_threads,
                "config": step.config,
                "inputs": {name: self.fingerprint(upstream) for name, upstream in step.inputs.items()},
                "external": self._external_identities(step),
            }
            self._identities[id(step)] = (step, identity)
        return self._identities[id(step)][1]

    def _external_identities(self, step: Step) -> dict[str, str]:
        identities = {}
        for name, path in step.external.items():
            try:
                identities[name] = external_identity(path)
            except FileNotFoundError:
                # A source that was moved away after it was used does not make its result unknown.
                record = self.record(step)
                identities[name] = record.identity["external"].get(name, "missing") if record else "missing"
        return identities

    def fingerprint(self, step: Step) -> str:
        return fingerprint(self.identity(step))

    def state(self, step: Step) -> StepState:
        """What is on disk for `step`."""
        partial = self.partial(step)
        if self._is_locked(step):
            return StepState("running", progress=_read_progress(partial))
        if self.is_done(step):
            return StepState("done")
        failure = _read_json(partial / "failed.json")
        if failure is not None and failure.get("fingerprint") == self.fingerprint(step):
            return StepState("failed", str(failure.get("error", "")))
        record = self.record(step)
        if record is not None:
            lacking = step.inputs.keys() - record.identity["inputs"].keys()
            if lacking and lacking <= step.optional and record.fingerprint == self.fingerprint(step.without(lacking)):
                return StepState("incomplete", f"made without {', '.join(sorted(lacking))}")
            changes = tuple(_explain_changes(record.identity, self.identity(step)))
            return StepState("stale", "made with other settings or inputs", changes)
        if partial.exists():
            return StepState("interrupted", "will be resumed or done again", progress=_read_progress(partial))
        return StepState("missing")

    def is_done(self, step: Step) -> bool:
        """The output is there, and made with these settings."""
        record = self.record(step)
        return record is not None and record.fingerprint == self.fingerprint(step)

    def open_partial(self, step: Step) -> tuple[Path, Path]:
        """Fresh `out` and surviving `work` folders for a run of `step` (work survives only for the same settings)."""
        partial = self.partial(step)
        claim = partial / "claim.json"
        current = self.fingerprint(step)
        if (_read_json(claim) or {}).get("fingerprint") != current:
            shutil.rmtree(partial, ignore_errors=True)
        out, work = partial / "out", partial / "work"
        shutil.rmtree(out, ignore_errors=True)
        (partial / "failed.json").unlink(missing_ok=True)
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)
        _write_json(claim, {"name": step.name, "fingerprint": current})
        return out, work

    def commit(self, step: Step, record: Record) -> None:
        """Turn the partial output into the artifact; nothing half-written ever carries its name."""
        partial, target = self.partial(step), self.path(step)
        record.write(partial / "out")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            # Without its record first: what a kill leaves of the old output must not pass for whole.
            (target / RECORD).unlink(missing_ok=True)
            shutil.rmtree(target)
        os.replace(partial / "out", target)
        shutil.rmtree(partial, ignore_errors=True)

    def record_failure(self, step: Step, error: str, details: str) -> None:
        """Keep why the step failed, as far as the disk allows; the half output goes, and gives its space back."""
        partial = self.partial(step)
        shutil.rmtree(partial / "out", ignore_errors=True)
        with suppress(OSError):
            partial.mkdir(parents=True, exist_ok=True)
            failure = {"error": error, "details": details, "fingerprint": self.fingerprint(step)}
            _write_json(partial / "failed.json", failure)

    @contextmanager
    def lock(self, step: Step | str, *, wait: bool = False) -> Iterator[bool]:
        """Hold the step's lock; yields False if another process holds it. The system frees it when a process dies."""
        file = self._lock_file(step)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def _lock_file(self, step: Step | str) -> Path:
        name = step if isinstance(step, str) else step.name
        return self.root / ".locks" / (name.replace("/", "__") + ".lock")

    def _is_locked(self, step: Step) -> bool:
        # Opened for reading: whoever may only look at a folder may ask for its status.
        try:
            with self._lock_file(step).open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def _explain_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Changed settings in full; of what the step reads only the names, for hashes tell a person nothing."""
    changes = describe_changes({"config": old["config"]}, {"config": new["config"]})
    if (old["function"], old["version"]) != (new["function"], new["version"]):
        changes.append("made by another version of the step")
    if old.get("num_threads") != new["num_threads"]:
        changes.append(f"num_threads: {old.get('num_threads', 'not recorded')} -> {new['num_threads']}")
    for key, what in (("inputs", "input"), ("external", "source")):
        names = sorted(old[key].keys() | new[key].keys())
        changes += [f"{what} {name} is another" for name in names if old[key].get(name) != new[key].get(name)]
    return changes


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)


def _read_progress(partial: Path) -> tuple[int, int, str] | None:
    value = _read_json(partial / "progress.json")
    return (int(value["done"]), int(value["total"]), str(value["what"])) if value else None
