"""Results as rows for a terminal, Markdown or JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median

from radscale.benchmarks.measure import Result
from radscale.benchmarks.measure import machine as machine
from radscale.errors import InputError

COLUMNS = ("who", "median", "min", "max", "x ours", "difference", "whole job")


def rows(result: Result) -> list[tuple[str, ...]]:
    """One per contestant, in the order of COLUMNS; times per unit."""
    table = []
    for row in result.rows:
        times = (show_seconds(value) for value in (median(row.seconds), min(row.seconds), max(row.seconds)))
        mean = sum(row.seconds) / len(row.seconds)
        total = "" if result.total_units is None else show_seconds(mean * result.total_units)
        difference = "" if row.difference is None else f"{row.difference:.2g}"
        table.append((f"{row.name} ({row.version})", *times, f"{row.ratio:.3g}", difference, total))
    return table


def notes(result: Result) -> list[str]:
    """What a reader needs beside the numbers."""
    lines = [f"{name} is not installed: pip install {package}" for name, package in result.missing.items()]
    for row in result.rows:
        if row.tally:
            shares = (f"{name} {of / max(total, 1):.1%} of {total:,}" for name, (of, total) in row.tally.items())
            lines.append(f"{row.name}: {', '.join(shares)}")
    return [*filter(None, [result.note]), f"peak memory of the process: {result.peak_memory_gb:.2f} GB", *lines]


def show_seconds(value: float) -> str:
    """With a unit that suits."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1, 1e3, "ms")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.4g} s"


def check_out(path: Path) -> None:
    """Before minutes are spent."""
    if path.suffix not in (".json", ".md"):
        raise InputError(f"--out {path}: give a file that ends in .json or .md")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: folder {path.parent} does not exist; make it first")


def write(path: Path, part: str, results: list[Result]) -> None:
    """JSON with every round, or Markdown tables."""
    if path.suffix == ".json":
        path.write_text(json.dumps({"part": part, "machine": machine(), "results": [asdict(r) for r in results]}, indent=1))
        return
    lines = [f"`radscale bench {part}`: {machine()}", ""]
    for result in results:
        lines += [f"{result.title}, per {result.unit}:", "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows(result)]
        lines += ["", *(f"- {line}" for line in notes(result)), ""]
    path.write_text("\n".join(lines))
