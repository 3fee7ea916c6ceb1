"""Tables in, statistics out: what the commands `compare` and `fit` do with files that anybody may have made."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radscale.analysis.bootstrap import BootstrapResult, paired_bootstrap
from radscale.analysis.records import read_predictions
from radscale.analysis.scaling_law import ScalingLawFit, fit_scaling_law
from radscale.errors import InputError


def compare_arms(
    tables: Sequence[Path], a: str, b: str, *, num_replicates: int = 500, seed: int = 0, by_patient: bool = False
) -> BootstrapResult:
    """Paired bootstrap of two arms of prediction tables.

    Args:
        tables: Parquet or CSV files (docs/data_format.md, section 4).
        a: arm, or `arm@size` where an arm has several subset sizes.
        b: likewise.
        num_replicates: bootstrap samples.
        seed: of the draws.
        by_patient: resample patients instead of images.

    Raises:
        InputError: an arm that is not there, or arms scored on different samples.
    """
    table = read_predictions(list(tables))
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    chosen = {side: _rows_of(columns, side) for side in (a, b)}
    tasks = [t for t in dict.fromkeys(columns["task"][chosen[a]]) if t in set(columns["task"][chosen[b]])]
    if not tasks:
        raise InputError(f"'{a}' and '{b}' have no task in common")
    targets, groups = {}, {}
    scores: dict[str, dict[str, np.ndarray]] = {a: {}, b: {}}
    for task in tasks:
        samples: dict[str, list[str]] = {}
        for side in (a, b):
            rows = chosen[side][columns["task"][chosen[side]] == task]
            samples[side], facts, scores[side][task] = _stack(columns, rows, side, task)
            targets[task], groups[task] = facts
        if samples[a] != samples[b]:
            raise InputError(f"task '{task}': '{a}' and '{b}' have different samples; score both on the same test set")
    return paired_bootstrap(
        targets, scores[a], scores[b], num_replicates=num_replicates, seed=seed, groups=groups if by_patient else None
    )


def _rows_of(columns: dict[str, np.ndarray], side: str) -> np.ndarray:
    arm, _, size = side.partition("@")
    keep = columns["arm"] == arm
    if not keep.any():
        raise InputError(f"arm '{arm}' is not in the tables; they have {', '.join(sorted(set(columns['arm'])))}")
    sizes = sorted(set(columns["subset_size"][keep].tolist()))
    if not size and len(sizes) > 1:
        raise InputError(f"arm '{arm}' has several subset sizes ({', '.join(map(str, sizes))}); say {arm}@{sizes[-1]}")
    if size:
        if not size.isdigit() or int(size) not in sizes:
            raise InputError(f"'{side}': arm '{arm}' has the subset sizes {', '.join(map(str, sizes))}")
        keep &= columns["subset_size"] == int(size)
    return np.flatnonzero(keep)


def _stack(
    columns: dict[str, np.ndarray], rows: np.ndarray, side: str, task: str
) -> tuple[list[str], tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Samples in order, (targets, patients), and (runs, n) predictions: replicates and seeds are rows."""
    runs: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        runs.setdefault((int(columns["replicate"][row]), int(columns["seed"][row])), []).append(int(row))
    ordered = [np.array(found)[np.argsort(columns["sample_id"][found].astype(str))] for found in runs.values()]
    samples = columns["sample_id"][ordered[0]].tolist()
    for found in ordered[1:]:
        if columns["sample_id"][found].tolist() != samples:
            raise InputError(f"task '{task}': the seeds of '{side}' have different samples; each needs the whole test set")
    first = ordered[0]
    return (
        samples,
        (columns["target"][first], columns["patient_id"][first]),
        np.stack([columns["prediction"][r] for r in ordered]),
    )


def fit_arms(results: Path, *, form: str = "power", score: str = "score") -> dict[str, ScalingLawFit]:
    """One scaling law per arm from a CSV with `subset_size`, a score, and optionally `arm` and `replicate`.

    Rows of one arm, size and replicate are seeds of one encoder. Open weights (size 0) are left out.

    Raises:
        InputError: no such file, missing columns, a value that is not a number.
    """
    try:
        with results.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{results}: no such file; give a CSV with subset_size and {score}") from None
    found = list(rows[0]) if rows else []
    for column in ("subset_size", score):
        if column not in found:
            raise InputError(f"{results.name}: no column '{column}'; found {', '.join(found) or 'no rows'} (see --score)")
    arms: dict[str, list[tuple[float, float, str]]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            size, value = float(row["subset_size"]), float(row[score])
        except ValueError:
            raise InputError(f"{results.name}, line {number}: subset_size and {score} must be numbers") from None
        if size > 0:
            arms.setdefault(row.get("arm") or "all", []).append((size, value, row.get("replicate") or str(number)))
    if not arms:
        raise InputError(f"{results.name}: no row with a subset_size above 0")
    return {
        arm: fit_scaling_law([s for s, _, _ in points], [v for _, v, _ in points], form, [g for _, _, g in points])
        for arm, points in arms.items()
    }
