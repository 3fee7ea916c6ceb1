"""Time contestants side by side: rounds of A B C A B C, so that a slow moment of the machine meets all of them."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

Tally = Mapping[str, tuple[int, int]]
"""What was counted of a result: name -> (how many, of how many)."""


@dataclass(frozen=True)
class Options:
    """What the user asks of a part."""

    quick: bool = False
    repeat: int | None = None
    """Rounds; None leaves it to the part."""
    seed: int = 0
    dataset: Path | None = None
    """The user's own, where a part reads images; None: made ones."""


@dataclass(frozen=True)
class Contestant:
    """One way of doing the work. `load` imports what it needs and returns the function to time: workload -> result."""

    name: str
    package: str
    load: Callable[[], Callable[[Any], Any]]
    units: int = 1
    """Of work done by one call."""
    own_clock: bool = False
    """A program with a start-up that is none of the work: the call returns the seconds that its steps took by its own log."""


@dataclass(frozen=True)
class Case:
    """A workload and who does it; the first contestant is ours."""

    title: str
    unit: str
    workload: Callable[[int], Any]
    """Round -> data; made outside the clock."""
    contestants: list[Contestant]
    rounds: int
    difference: Callable[[Any, Any], float] | None = None
    """How far a result is from ours."""
    tally: Callable[[Any, Any], Tally] | None = None
    """Workload and result -> what is counted, added up over the rounds."""
    total_units: int | None = None
    """Of the whole job, where contestants run a part of it and their totals are extrapolated."""
    warm_up: bool = True
    note: str = ""


@dataclass
class Row:
    """Seconds per unit of one contestant."""

    name: str
    version: str
    seconds: list[float] = field(default_factory=list)
    ratio: float = float("nan")
    """Median over rounds of its time by ours."""
    difference: float | None = None
    tally: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Of one case."""

    title: str
    unit: str
    note: str
    total_units: int | None
    rows: list[Row]
    missing: dict[str, str]
    """Contestant -> package to install."""
    peak_memory_gb: float
    """Of the whole process so far, data and all contestants included."""


def compare(case: Case, progress: Callable[[int, int, str], None] | None = None) -> Result:
    """Run a case; contestants that cannot be imported are listed as missing."""
    from radscale.execution.runner import peak_memory_gb

    functions: dict[str, Callable[[Any], Any]] = {}
    rows: dict[str, Row] = {}
    missing: dict[str, str] = {}
    present = []
    for contestant in case.contestants:
        try:
            functions[contestant.name] = contestant.load()
        except ImportError:
            missing[contestant.name] = contestant.package
            continue
        present.append(contestant)
        rows[contestant.name] = Row(contestant.name, f"{contestant.package} {_version(contestant.package)}")
    if case.warm_up:
        data = case.workload(0)
        for contestant in present:
            functions[contestant.name](data)
    for number in range(case.rounds):
        data = case.workload(number)
        results = []
        for index, contestant in enumerate(present):
            if progress is not None:
                progress(number * len(present) + index, case.rounds * len(present), contestant.name)
            started = time.perf_counter()
            results.append(functions[contestant.name](data))
            seconds = results[-1] if contestant.own_clock else time.perf_counter() - started
            rows[contestant.name].seconds.append(seconds / contestant.units)
        if case.difference is not None:
            for contestant, result in zip(present, results, strict=True):
                row, value = rows[contestant.name], case.difference(results[0], result)
                row.difference = value if row.difference is None else max(value, row.difference)
        if case.tally is not None:
            for contestant, result in zip(present, results, strict=True):
                tally = rows[contestant.name].tally
                for name, (number_of, total) in case.tally(data, result).items():
                    before = tally.get(name, (0, 0))
                    tally[name] = (before[0] + number_of, before[1] + total)
    ours = rows[present[0].name].seconds
    for row in rows.values():
        row.ratio = median(theirs / mine for theirs, mine in zip(row.seconds, ours, strict=True))
    return Result(case.title, case.unit, case.note, case.total_units, list(rows.values()), missing, peak_memory_gb())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def machine() -> str:
    """Processor, cores, load and versions in one line; no host or user name."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores{load}, Python {platform.python_version()}, numpy {_version('numpy')}"
