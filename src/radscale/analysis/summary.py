"""From prediction tables to the tables of the answer page: scores, comparisons, fits, curves, subgroups."""

import csv
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from radscale.analysis.bootstrap import bootstrap_average_precision, combine_tasks
from radscale.analysis.records import read_predictions
from radscale.analysis.scaling_law import ScalingLawFit, fit_scaling_law
from radscale.analysis.stratification import score_stratum, strata_of
from radscale.errors import InputError
from radscale.metrics import average_precision, roc_auc

COLUMNS = {
    "results": "evaluation arm objective subset_size replicate seed task auprc auroc prevalence num_positives num_samples",
    "comparisons": "evaluation arm_a size_a arm_b size_b task difference low high p_value p_holm significant mean_a mean_b "
    "num_bootstrap",
    "fits": "evaluation task arm form alpha k k_low k_high num_encoders min_size max_size open_weights_arm target "
    "samples_needed samples_low samples_high verdict note",
    "curves": "evaluation task arm subset_size estimate low high extrapolated",
    "subgroups": "evaluation arm subset_size variable stratum auprc low high auroc prevalence num_positives num_samples small",
    "excluded_tasks": "evaluation task reason",
}
Progress = Callable[[int, int, str], None]
EXTRAPOLATION = 10
NUM_CURVE_POINTS = 40


@dataclass
class TaskScores:
    """All score vectors of one task on its test set."""

    targets: np.ndarray
    sample_ids: list[str]
    vectors: dict[tuple[str, int, int, int], np.ndarray]
    """By (arm, subset_size, replicate, seed)."""


def summarise(
    evaluations: Mapping[str, Sequence[Path]],
    arms: Mapping[str, Mapping[str, Any]],
    manifests: Mapping[str, Path],
    out: Path,
    *,
    num_bootstrap: int = 500,
    seed: int = 0,
    excluded_tasks: Sequence[Mapping[str, str]] = (),
    progress: Progress | None = None,
) -> None:
    """Write results, comparisons, fits, curves, subgroups and excluded_tasks as CSV files into `out`.

    Args:
        evaluations: prediction tables by evaluation.
        arms: by arm: `open_weights_arm` (None for open weights), `objective`, `label`.
        manifests: dataset folder (or manifest file) of each evaluation.
        out: folder.
        num_bootstrap: replicates of the paired bootstrap (A.8: 500).
        seed: of all draws.
        excluded_tasks: rows with evaluation, task, reason.
        progress: called with (done, all, what).

    Raises:
        InputError: an arm that was not scored on the same samples as the others.
    """
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
    tables["excluded_tasks"] = [dict(row) for row in excluded_tasks]
    for index, (evaluation, paths) in enumerate(evaluations.items()):
        scores = collect_scores(paths)
        if progress is not None:
            progress(4 * index, 4 * len(evaluations), f"bootstrap of {evaluation}")
        tables["results"] += list(_with(_results(scores, arms), evaluation))
        tables["comparisons"] += list(_with(_comparisons(scores, arms, num_bootstrap, seed), evaluation))
        if progress is not None:
            progress(4 * index + 2, 4 * len(evaluations), f"scaling laws of {evaluation}")
        results = [row for row in tables["results"] if row["evaluation"] == evaluation]
        fits, curves = _fits(results, arms)
        tables["fits"] += list(_with(fits, evaluation))
        tables["curves"] += list(_with(curves, evaluation))
        if progress is not None:
            progress(4 * index + 3, 4 * len(evaluations), f"subgroups of {evaluation}")
        subgroups = _subgroups(scores, arms, manifests[evaluation], num_bootstrap, seed)
        tables["subgroups"] += list(_with(subgroups, evaluation))
    for name, rows in tables.items():
        write_table(rows, COLUMNS[name].split(), out / f"{name}.csv")


def write_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """A CSV with ten significant digits: enough for every figure, and the same on every machine."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_text(row.get(column)) for column in columns] for row in rows)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _with(rows: Iterator[dict[str, Any]] | list[dict[str, Any]], evaluation: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {"evaluation": evaluation, **row}


def collect_scores(paths: Sequence[Path]) -> dict[str, TaskScores]:
    """Score vectors by task, all on the same samples in the same order.

    Raises:
        InputError: a run whose samples or targets differ from the others'.
    """
    tasks: dict[str, TaskScores] = {}
    for path in paths:
        table = read_predictions(path)
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
        keys = list(
            zip(columns["task"], columns["arm"], columns["subset_size"], columns["replicate"], columns["seed"], strict=True)
        )
        places: dict[tuple[Any, ...], list[int]] = {}
        for row, key in enumerate(keys):
            places.setdefault(key, []).append(row)
        for (task, arm, size, replicate, seed), rows in places.items():
            order = np.array(rows)[np.argsort(columns["sample_id"][rows].astype(str), kind="stable")]
            ids = columns["sample_id"][order].tolist()
            targets = columns["target"][order]
            known = tasks.setdefault(task, TaskScores(targets, ids, {}))
            if known.sample_ids != ids or not np.array_equal(known.targets, targets):
                raise InputError(
                    f"{path.name}: arm '{arm}' has other test samples of task '{task}' than the arms before it; "
                    "probe all arms on one dataset with one label setting"
                )
            run = (str(arm), int(size), int(replicate), int(seed))
            known.vectors[run] = columns["prediction"][order].astype(np.float64)
    return tasks


def _results(scores: dict[str, TaskScores], arms: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    averages: dict[tuple[str, int, int, int], list[dict[str, Any]]] = {}
    for task, item in scores.items():
        facts = {
            "prevalence": float(item.targets.mean()),
            "num_positives": int(item.targets.sum()),
            "num_samples": len(item.targets),
        }
        for key, vector in item.vectors.items():
            row = {
                **_run_columns(key, arms),
                "task": task,
                "auprc": average_precision(item.targets, vector),
                "auroc": roc_auc(item.targets, vector),
                **facts,
            }
            averages.setdefault(key, []).append(row)
            yield row
    for key, rows in averages.items():
        mean = {name: float(np.mean([row[name] for row in rows])) for name in ("auprc", "auroc", "prevalence")}
        yield {**_run_columns(key, arms), "task": "average", **mean}


def _run_columns(key: tuple[str, int, int, int], arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    arm, size, replicate, seed = key
    return {"arm": arm, "objective": arms[arm]["objective"], "subset_size": size, "replicate": replicate, "seed": seed}


def _comparisons(
    scores: dict[str, TaskScores], arms: Mapping[str, Mapping[str, Any]], num_bootstrap: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Every arm at every size against all open weights, every pair of arms at every common size, and open weights in pairs."""
    groups: dict[tuple[str, int], list[tuple[str, int, int, int]]] = {}
    for key in next(iter(scores.values())).vectors if scores else ():
        groups.setdefault(key[:2], []).append(key)
    replicates = {
        task: dict(
            zip(
                item.vectors,
                bootstrap_average_precision(
                    item.targets, np.stack(list(item.vectors.values())), num_replicates=num_bootstrap, seed=seed, task=task
                ).T,
                strict=True,
            )
        )
        for task, item in scores.items()
    }
    observed = {
        task: {key: average_precision(item.targets, vector) for key, vector in item.vectors.items()}
        for task, item in scores.items()
    }
    for a, b in _pairs(groups, arms):
        differences = {
            task: np.mean([values[key] for key in groups[a]], axis=0) - np.mean([values[key] for key in groups[b]], axis=0)
            for task, values in replicates.items()
        }
        means = {
            side: {task: float(np.mean([values[key] for key in groups[side]])) for task, values in observed.items()}
            for side in (a, b)
        }
        result = combine_tasks(differences)
        rows = {**result.per_task, "average": result.macro, "pooled": result.pooled}
        for task, difference in rows.items():
            mean_a, mean_b = (means[s].get(task, float(np.mean(list(means[s].values())))) for s in (a, b))
            yield {
                "arm_a": a[0],
                "size_a": a[1],
                "arm_b": b[0],
                "size_b": b[1],
                "task": task,
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "p_value": difference.p_value,
                "p_holm": difference.p_holm,
                "significant": difference.significant,
                "mean_a": mean_a,
                "mean_b": mean_b,
                "num_bootstrap": num_bootstrap,
            }


def _pairs(
    groups: Mapping[tuple[str, int], Any], arms: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    sizes = sorted({size for _, size in groups if size})
    names = [arm for arm, facts in arms.items() if facts["open_weights_arm"] is not None]
    opened = [(arm, 0) for arm, facts in arms.items() if facts["open_weights_arm"] is None and (arm, 0) in groups]
    for size in sizes:
        present = [(arm, size) for arm in names if (arm, size) in groups]
        yield from itertools.product(present, opened)
        yield from itertools.combinations(present, 2)
    yield from itertools.combinations(opened, 2)


def _fits(
    results: list[dict[str, Any]], arms: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    fits, curves = [], []
    tasks = ["average", *dict.fromkeys(row["task"] for row in results if row["task"] != "average")]
    for task in tasks:
        by_arm: dict[str, list[dict[str, Any]]] = {}
        for row in results:
            if row["task"] == task:
                by_arm.setdefault(row["arm"], []).append(row)
        for arm, facts in arms.items():
            open_arm = facts["open_weights_arm"]
            if open_arm is None or arm not in by_arm:
                continue
            reference = [row["auprc"] for row in by_arm.get(open_arm, [])]
            target = float(np.mean(reference)) if reference else math.nan
            row, fit = _fit_row(by_arm[arm], target)
            fits.append({"task": task, "arm": arm, "open_weights_arm": open_arm, "target": target, **row})
            if fit is not None:
                curves += [{"task": task, "arm": arm, **point} for point in _curve(fit)]
    return fits, curves


def _fit_row(rows: list[dict[str, Any]], target: float) -> tuple[dict[str, Any], ScalingLawFit | None]:
    sizes = [row["subset_size"] for row in rows]
    facts: dict[str, Any] = {"form": "power", "min_size": min(sizes), "max_size": max(sizes)}
    facts["num_encoders"] = len({(row["subset_size"], row["replicate"]) for row in rows})
    try:
        fit = fit_scaling_law(sizes, [row["auprc"] for row in rows], groups=[row["replicate"] for row in rows])
    except InputError as error:
        return {**facts, "verdict": "no fit", "note": str(error)}, None
    low, high = fit.parameter_interval("k")
    needed = fit.samples_needed(target) if math.isfinite(target) else (math.nan,) * 3
    return {
        **facts,
        **fit.parameters,
        "k_low": low,
        "k_high": high,
        "samples_needed": needed[0],
        "samples_low": needed[1],
        "samples_high": needed[2],
        "verdict": _verdict(needed[0], min(sizes), max(sizes)),
    }, fit


def _verdict(needed: float, smallest: float, largest: float) -> str:
    if math.isnan(needed):
        return "no open weights"
    if math.isinf(needed):
        return "not reached"
    if needed <= smallest:
        return "below smallest"
    return "within range" if needed <= largest else "extrapolated"


def _curve(fit: ScalingLawFit) -> Iterator[dict[str, Any]]:
    sizes = np.geomspace(fit.min_size, EXTRAPOLATION * fit.max_size, NUM_CURVE_POINTS)
    low, high = fit.interval(sizes)
    for size, estimate, below, above in zip(sizes, fit.predict(sizes), low, high, strict=True):
        beyond = bool(size > fit.max_size)
        yield {
            "subset_size": float(size),
            "estimate": float(estimate),
            "low": float(below),
            "high": float(above),
            "extrapolated": beyond,
        }


def _subgroups(
    scores: dict[str, TaskScores],
    arms: Mapping[str, Mapping[str, Any]],
    manifest: Path,
    num_bootstrap: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Open weights and the largest size of each arm, within each stratum."""
    path = manifest / "manifest.parquet" if manifest.is_dir() else manifest
    columns = ["sample_id", "sex", "age_years", "manufacturer", "care_setting"]
    metadata = pq.read_table(path, columns=columns).to_pydict()
    row_of = {sample: row for row, sample in enumerate(metadata["sample_id"])}
    strata = strata_of(metadata)
    largest: dict[str, int] = {}
    for item in scores.values():
        for arm, size, _, _ in item.vectors:
            largest[arm] = max(size, largest.get(arm, 0))
    for variable, values in strata.items():
        members = {task: [values[row_of[sample]] for sample in item.sample_ids] for task, item in scores.items()}
        names = sorted({name for found in members.values() for name in found if name is not None})
        if len(names) < 2:
            continue
        for stratum in names:
            chosen = {task: np.array([name == stratum for name in found]) for task, found in members.items()}
            targets = {task: item.targets[chosen[task]] for task, item in scores.items()}
            for arm in (arm for arm in arms if arm in largest):
                vectors = {
                    task: np.stack([v[chosen[task]] for key, v in item.vectors.items() if key[:2] == (arm, largest[arm])])
                    for task, item in scores.items()
                }
                name = f"{variable}/{stratum}"
                score = score_stratum(targets, vectors, num_replicates=min(num_bootstrap, 200), seed=seed, name=name)
                if score is not None:
                    yield {
                        "arm": arm,
                        "subset_size": largest[arm],
                        "variable": variable,
                        "stratum": stratum,
                        **{k: getattr(score, k) for k in ("auprc", "low", "high", "auroc", "prevalence")},
                        "num_positives": score.num_positives,
                        "num_samples": score.num_samples,
                        "small": score.small,
                    }
