"""From prediction tables to the tables of the answer page: scores, comparisons, fits, curves, gains of more data, subgroups."""

import csv
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radscale.analysis.bootstrap import (
    ArmReplicates,
    ImageValues,
    TaskScores,
    bootstrap_arms,
    bootstrap_image_means,
    minimum_detectable_difference,
)
from radscale.analysis.data_plan import plan_data
from radscale.analysis.fit_comparison import Estimate, mean_over_seeds, size_that_beats
from radscale.analysis.fit_tables import EXTRAPOLATION, curve_rows
from radscale.analysis.measures import AUPRC, OF_SEGMENTATION, Measure
from radscale.analysis.records import IMAGE_MEASURES, read_predictions, read_segmentations, row_keys
from radscale.analysis.resampling import identity_keys
from radscale.analysis.results_table import AVERAGE, Curve
from radscale.analysis.scaling_law import ScalingLawFit, fit_scaling_law
from radscale.analysis.stratification import NAMED_STRATA, UNKNOWN, strata_of, stratify
from radscale.errors import InputError
from radscale.metrics import average_precision, roc_auc

COLUMNS = {
    "results": "evaluation arm objective subset_size replicate seed task auprc auroc hausdorff_px hd95_px dice "
    "cldice prevalence num_positives num_samples",
    "comparisons": "evaluation measure arm_a size_a arm_b size_b task difference low high p_value p_holm significant mean_a "
    "mean_b standard_error detectable num_bootstrap",
    "fits": "evaluation measure task arm form alpha k k_low k_high num_encoders min_size max_size open_weights_arm target "
    "target_low target_high beats beats_low beats_high verdict note",
    "curves": "evaluation measure task arm subset_size estimate low high extrapolated",
    "data_plan": "evaluation measure task arm form current_size next_size current gain low high verdict samples_for_gain note",
    "subgroups": "evaluation arm subset_size variable stratum auprc low high auroc prevalence num_positives num_tasks "
    "num_samples small",
    "excluded_tasks": "evaluation task reason",
}
Progress = Callable[[int, int, str], None]
NUM_CURVE_POINTS = 40
FORM = "power"
"""The paper's law, for curves, exponents and what follows from them: one account of the data on one page."""


@dataclass
class RunScores:
    """All score vectors of one task on its test set."""

    targets: np.ndarray
    sample_ids: np.ndarray
    patient_ids: np.ndarray
    vectors: dict[tuple[str, int, int, int], np.ndarray]
    """By (arm, subset_size, replicate, seed)."""


@dataclass
class ImageScores:
    """All measurements of one segmentation task on its test images."""

    present: np.ndarray
    sample_ids: np.ndarray
    vectors: dict[tuple[str, int, int, int], dict[str, np.ndarray]]
    """By (arm, subset_size, replicate, seed), then by measure; NaN: nothing drawn on either side."""


def summarise(
    evaluations: Mapping[str, Sequence[Path]],
    arms: Mapping[str, Mapping[str, Any]],
    manifests: Mapping[str, Path],
    out: Path,
    *,
    segmentations: Mapping[str, Sequence[Path]] | None = None,
    num_bootstrap: int = 500,
    seed: int = 0,
    excluded_tasks: Sequence[Mapping[str, str]] = (),
    progress: Progress | None = None,
) -> None:
    """Write one CSV file for each name in `COLUMNS` files into `out`.

    Args:
        evaluations: prediction tables by evaluation.
        arms: by arm: `open_weights_arm` (None for open weights), `objective`, `label`.
        manifests: dataset folder (or manifest file) of each evaluation.
        out: folder.
        segmentations: tables of segmented test images by name of the segmentation.
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
        for name, rows in _scaling(results, arms).items():
            tables[name] += list(_with(rows, evaluation))
        if progress is not None:
            progress(4 * index + 3, 4 * len(evaluations), f"subgroups of {evaluation}")
        subgroups = _subgroups(scores, arms, manifests[evaluation], num_bootstrap, seed)
        tables["subgroups"] += list(_with(subgroups, evaluation))
    for name, paths in (segmentations or {}).items():
        images = collect_images(paths)
        found = list(_image_results(images, arms))
        tables["results"] += list(_with(found, name))
        for measure in OF_SEGMENTATION:
            compared = _image_comparisons(images, arms, measure, num_bootstrap, seed)
            tables["comparisons"] += list(_with(compared, name))
            for table, rows in _scaling(found, arms, measure).items():
                tables[table] += list(_with(rows, name))
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
        yield {**row, "evaluation": evaluation}


def collect_scores(paths: Sequence[Path]) -> dict[str, RunScores]:
    """Score vectors by task, all on the same samples in the same order.

    Raises:
        InputError: a run whose samples or targets differ from the others'.
    """
    tasks: dict[str, RunScores] = {}
    for path in paths:
        for (task, arm, size, replicate, seed), rows in _runs(read_predictions(path)):
            ids = rows["sample_id"].to_numpy(zero_copy_only=False)
            targets, patients = (rows[name].to_numpy(zero_copy_only=False) for name in ("target", "patient_id"))
            known = tasks.setdefault(task, RunScores(targets, ids, patients, {}))
            if not (np.array_equal(known.sample_ids, ids) and np.array_equal(known.targets, targets)):
                raise InputError(
                    f"{path.name}: arm '{arm}' has other test samples of task '{task}' than the arms before it; "
                    "probe all arms on one dataset with one label setting"
                )
            known.vectors[arm, size, replicate, seed] = rows["prediction"].to_numpy()
    return tasks


def collect_images(paths: Sequence[Path]) -> dict[str, ImageScores]:
    """Measurements by task, all on the same images in the same order.

    Raises:
        InputError: a run whose images or masks differ from the others'.
    """
    tasks: dict[str, ImageScores] = {}
    for path in paths:
        for (task, arm, size, replicate, seed), rows in _runs(read_segmentations([path])):
            ids, present = (rows[name].to_numpy() for name in ("sample_id", "present"))
            known = tasks.setdefault(task, ImageScores(present.astype(bool), ids, {}))
            if not (np.array_equal(known.sample_ids, ids) and np.array_equal(known.present, present)):
                raise InputError(
                    f"{path.name}: arm '{arm}' has other test images or masks of task '{task}' than the arms before it; "
                    "segment all arms with one mask table"
                )
            known.vectors[arm, size, replicate, seed] = {
                name: rows[name].to_numpy().astype(np.float64) for name in IMAGE_MEASURES
            }
    return tasks


def _image_results(images: dict[str, ImageScores], arms: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over the images where a mask was drawn on either side (rule `any` of `segment`), and their mean over tasks."""
    averages: dict[tuple[str, int, int, int], list[dict[str, Any]]] = {}
    for task, item in images.items():
        facts = {
            "prevalence": float(item.present.mean()),
            "num_positives": int(item.present.sum()),
            "num_samples": len(item.present),
        }
        for key, vectors in item.vectors.items():
            means = {name: float(np.nanmean(vector)) for name, vector in vectors.items()}
            row = {**_run_columns(key, arms), "task": task, **means, **facts}
            averages.setdefault(key, []).append(row)
            yield row
    for key, rows in averages.items():
        mean = {name: float(np.mean([row[name] for row in rows])) for name in (*IMAGE_MEASURES, "prevalence")}
        yield {**_run_columns(key, arms), "task": AVERAGE, **mean}


def _image_comparisons(
    images: dict[str, ImageScores],
    arms: Mapping[str, Mapping[str, Any]],
    measure: Measure,
    num_bootstrap: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    groups = _groups(images)

    def values() -> Iterator[ImageValues]:
        for task, item in images.items():
            matrices = {
                _name(*group): np.stack([item.vectors[key][measure.key] for key in keys]) for group, keys in groups.items()
            }
            yield ImageValues(task, item.present, matrices, identity_keys(item.sample_ids))

    replicates = bootstrap_image_means(values(), num_replicates=num_bootstrap, seed=seed)
    yield from _compared(replicates, groups, arms, measure)


def _runs(table: pa.Table) -> Iterator[tuple[tuple[str, str, int, int, int], pa.Table]]:
    """The rows of each task and run, by sample id."""
    names = ["task", "arm", "subset_size", "replicate", "seed"]
    keys = row_keys(table, names)
    order = np.lexsort([row_keys(table, ["sample_id"]), keys])
    table, keys = table.take(pa.array(order)), keys[order]
    # Of a sorted table, a run is a slice that begins where its names change.
    changes = np.diff(keys) != 0
    starts = [0, *(np.flatnonzero(changes) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], table.num_rows], strict=True):
        if stop > start:
            rows = table.slice(start, stop - start)
            task, arm, size, replicate, seed = (rows[name][0].as_py() for name in names)
            yield (task, arm, size, replicate, seed), rows


def _results(scores: dict[str, RunScores], arms: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
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
    scores: dict[str, RunScores], arms: Mapping[str, Mapping[str, Any]], num_bootstrap: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Every arm at every size against all open weights, every pair of arms at every common size, and open weights in pairs."""
    if not scores:
        return
    groups = _groups(scores)
    replicates = bootstrap_arms(
        (_task_scores(task, item, groups) for task, item in scores.items()), num_replicates=num_bootstrap, seed=seed
    )["auprc"]
    yield from _compared(replicates, groups, arms, AUPRC)


Groups = Mapping[tuple[str, int], Sequence[tuple[str, int, int, int]]]


def _groups(
    scores: Mapping[str, Any],
) -> dict[tuple[str, int], list[tuple[str, int, int, int]]]:
    """Runs (replicates and seeds) of each arm and size, from `RunScores` or `ImageScores` by task."""
    groups: dict[tuple[str, int], list[tuple[str, int, int, int]]] = {}
    for key in next(iter(scores.values())).vectors:
        groups.setdefault(key[:2], []).append(key)
    return groups


def _compared(
    replicates: ArmReplicates, groups: Groups, arms: Mapping[str, Mapping[str, Any]], measure: Measure
) -> Iterator[dict[str, Any]]:
    tasks = set(replicates.observed)
    for pair in _pairs(groups, arms):
        a, b = pair
        result = replicates.difference(_name(*a), _name(*b))
        for task, difference in {**result.per_task, AVERAGE: result.macro, "pooled": result.pooled}.items():
            mean_a, mean_b = (replicates.estimate(_name(*s), task if task in tasks else None).observed for s in pair)
            yield {
                "measure": measure.key,
                "arm_a": a[0],
                "size_a": a[1],
                "arm_b": b[0],
                "size_b": b[1],
                "task": task,
                "difference": difference.observed,
                "low": difference.low,
                "high": difference.high,
                "p_value": difference.p_value,
                "p_holm": difference.p_holm,
                "significant": difference.significant,
                "mean_a": mean_a,
                "mean_b": mean_b,
                # Replicates of all tasks in one heap spread mostly between tasks: they say nothing about what can be detected.
                "standard_error": math.nan if task == "pooled" else difference.standard_error,
                "detectable": math.nan if task == "pooled" else minimum_detectable_difference(difference.standard_error),
                "num_bootstrap": replicates.num_replicates,
            }


def _name(arm: str, size: int) -> str:
    return f"{arm}@{size}"


def _task_scores(
    task: str, item: RunScores, groups: Mapping[tuple[str, int], Sequence[tuple[str, int, int, int]]]
) -> TaskScores:
    """A task as each (arm, size) scored it: replicates and seeds are runs."""
    matrices = {_name(*group): np.stack([item.vectors[key] for key in keys]) for group, keys in groups.items()}
    return TaskScores(task, item.targets, matrices, identity_keys(item.sample_ids), identity_keys(item.patient_ids))


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


def _scaling(
    results: list[dict[str, Any]], arms: Mapping[str, Mapping[str, Any]], measure: Measure = AUPRC
) -> dict[str, list[dict[str, Any]]]:
    """`fits`, `curves` and `data_plan` of every trained arm on every task, the average first."""
    tables: dict[str, list[dict[str, Any]]] = {"fits": [], "curves": [], "data_plan": []}
    by_model: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results:
        by_model.setdefault((row["task"], row["arm"]), []).append(row)
    for task, arm in itertools.product(dict.fromkeys([AVERAGE, *(row["task"] for row in results)]), arms):
        open_arm, rows = arms[arm]["open_weights_arm"], by_model.get((task, arm))
        if open_arm is None or rows is None:
            continue
        sizes, scores = (np.array([row[name] for row in rows]) for name in ("subset_size", measure.key))
        curve = Curve("", arm, task, sizes, scores, [str(row["replicate"]) for row in rows])
        opened = [row[measure.key] for row in by_model.get((task, open_arm), [])]
        target = mean_over_seeds(opened) if opened else Estimate(math.nan, math.nan, math.nan)
        row, fit = _fit_row(curve, target, measure)
        tables["fits"].append({"task": task, "arm": arm, "open_weights_arm": open_arm, **row})
        if fit is not None:
            tables["curves"] += [{"task": task, "arm": arm, **point} for point in curve_rows(fit, num_points=NUM_CURVE_POINTS)]
        tables["data_plan"].append(_plan_row(curve, measure))
    for row in itertools.chain.from_iterable(tables.values()):
        row["measure"] = measure.key
    return tables


def _fit_row(curve: Curve, target: Estimate, measure: Measure) -> tuple[dict[str, Any], ScalingLawFit | None]:
    smallest, largest = int(curve.sizes.min()), int(curve.sizes.max())
    facts: dict[str, Any] = {"form": FORM, "min_size": smallest, "max_size": largest}
    facts["num_encoders"] = len(set(zip(curve.sizes.tolist(), curve.encoders, strict=True)))
    facts |= {"target": target.value, "target_low": target.low, "target_high": target.high}
    try:
        fit = fit_scaling_law(curve.sizes, curve.scores, FORM, curve.encoders, larger_is_better=measure.larger_is_better)
    except InputError as error:
        return {**facts, "verdict": "no fit", "note": str(error)}, None
    low, high = fit.parameter_interval("k")
    beats = size_that_beats(fit, target) if math.isfinite(target.value) else target
    return {
        **facts,
        **fit.parameters,
        "k_low": low,
        "k_high": high,
        "beats": beats.value,
        "beats_low": beats.low,
        "beats_high": beats.high,
        "verdict": _verdict(beats.value, smallest, largest),
    }, fit


def _verdict(beats: float, smallest: float, largest: float) -> str:
    if math.isnan(beats):
        return "no open weights"
    if math.isinf(beats):
        return "not reached"
    if beats <= smallest:
        return "below smallest"
    return "within range" if beats <= largest else "extrapolated"


def _plan_row(curve: Curve, measure: Measure) -> dict[str, Any]:
    """What `EXTRAPOLATION` times the largest size brings."""
    size = float(curve.sizes.max())
    (plan,) = plan_data(
        [curve],
        (EXTRAPOLATION - 1) * size,
        form=FORM,
        min_gain=measure.min_gain,
        larger_is_better=measure.larger_is_better,
        best_score=measure.best,
    )
    return {**vars(plan), "form": FORM, "current_size": size, "next_size": EXTRAPOLATION * size}


def _subgroups(
    scores: dict[str, RunScores],
    arms: Mapping[str, Mapping[str, Any]],
    manifest: Path,
    num_bootstrap: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Open weights and the largest size of each arm, within each stratum."""
    path = manifest / "manifest.parquet" if manifest.is_dir() else manifest
    known = set(pq.read_schema(path).names)  # a manifest of an older radscale has no ethnicity
    columns = [name for name in ("sample_id", "age_years", *NAMED_STRATA) if name in known]
    metadata = pq.read_table(path, columns=columns).to_pydict()
    row_of = {sample: row for row, sample in enumerate(metadata["sample_id"])}
    strata = strata_of(metadata)
    largest: dict[str, int] = {}
    for item in scores.values():
        for arm, size, _, _ in item.vectors:
            largest[arm] = max(size, largest.get(arm, 0))
    groups: dict[tuple[str, int], list[tuple[str, int, int, int]]] = {}
    for key in next(iter(scores.values())).vectors if scores else ():
        if key[1] == largest[key[0]]:
            groups.setdefault(key[:2], []).append(key)
    tasks = [_task_scores(task, item, groups) for task, item in scores.items()]
    for variable, values in strata.items():
        members = [np.array([values[row_of[sample]] for sample in item.sample_ids]) for item in scores.values()]
        if len({name for found in members for name in found if name}) < 2:
            continue
        # The page shows known strata; `radscale stratify` also lists samples whose stratum is unknown.
        for score in stratify(tasks, members, num_replicates=min(num_bootstrap, 200), seed=seed):
            arm, _, trained_on = score.arm.rpartition("@")
            if score.stratum != UNKNOWN and score.auprc is not None and score.auroc is not None:
                yield {
                    "arm": arm,
                    "subset_size": int(trained_on),
                    "variable": variable,
                    "stratum": score.stratum,
                    "auprc": score.auprc.observed,
                    "low": score.auprc.low,
                    "high": score.auprc.high,
                    "auroc": score.auroc.observed,
                    "prevalence": score.prevalence,
                    "num_positives": score.num_positives,
                    "num_tasks": score.num_tasks,
                    "num_samples": score.num_samples,
                    "small": score.small,
                }
