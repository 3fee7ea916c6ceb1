"""Probe one frozen encoder on one dataset: features once, then a classifier per task set and seed, then predictions."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from radscale.analysis.records import PREDICTION_SCHEMA
from radscale.datasets import Dataset, read_label_table, task_table
from radscale.errors import InputError
from radscale.metrics import average_precision
from radscale.models import Encoder
from radscale.probing.classifier import ProbeShape, StackedProbe, predict, train_probe
from radscale.probing.features import (
    CachedFeatures,
    ComputedFeatures,
    FeatureSource,
    Progress,
    Selection,
    write_feature_cache,
)
from radscale.probing.task_sets import resolve_tasks
from radscale.training.open_weights import load_encoder

VIEWS = ("frontal", "lateral", "unknown")
SHUFFLE_STREAM = 1


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of a probe; the defaults are the paper's (section 5.1) or, where it is silent, ours.

    Exactly one of `tasks` and `task_sets` is given.
    """

    tasks: str | tuple[str, ...] | None = None
    """One task set: "findings", "tubes", "all" or task keys; written to predictions.parquet."""
    task_sets: dict[str, str | tuple[str, ...]] | None = None
    """Named task sets on the same features, each with probes of its own; written to predictions.NAME.parquet."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Paper: three seeds."""
    epochs: int = 25
    """Paper."""
    batch_size: int = 512
    """Paper."""
    learning_rate: float = 1e-3
    """AdamW, cosine to 0. The paper names neither optimiser nor rate. On 900 real X-rays and DINOv2 features the mean AUROC
    was within 0.007 from 3e-4 to 1e-2 at this batch size; smaller batches want smaller rates."""
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    """Share of the steps in which the rate rises linearly."""
    grid: int | None = None
    """Side of the common grid in cells. None: that of the encoder's third map (33 for MedImageInsight, 37 for RAD-DINO,
    as in the paper). The cost falls with its square; a smaller one averages neighbouring cells."""
    width: int | None = None
    """Channels that each map is projected to. None: those of the encoder's third map (1024 and 768, as in the paper)."""
    kernel_size: int = 1
    """Of the projecting convolution; the paper names none. 3 costs nine times the training time."""
    views: tuple[str, ...] = ("frontal",)
    """Images used; paper: frontal. Add "unknown" for datasets that do not state the view."""
    max_train: int | None = None
    """At most so many training images, drawn at random; None: all."""
    min_positives: int = 5
    """A task needs so many positives and as many negatives in training and in test, or it is excluded. Below five, more
    than one bootstrap replicate in 150 would have no positive (exp(-5) = 0.7 %)."""
    not_mentioned: Literal["negative", "unknown"] = "negative"
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"
    engine: str | None = None
    """Whose statements of the label table to use; None: those of the only engine that it holds."""
    arm: str = ""
    """`arm` column of the predictions; empty: the encoder's name."""
    objective: str = "open_weights"
    subset_size: int = 0
    replicate: int = 0
    image_batch_size: int = 32
    """Images in one pass of the encoder."""
    cache_features: bool = True
    """False computes the features anew in every epoch: for encoders and datasets whose features fit no disk."""
    feature_dtype: Literal["float16", "float32"] = "float16"
    cache_limit_gb: float = 50.0
    shuffle_labels: bool = False
    """Control experiment: labels move to other images, in training and in test, so that nothing can be learned and
    AUPRC must equal the prevalence. All seeds share the order, which the first seed draws."""

    def __post_init__(self) -> None:
        if (self.tasks is None) == (self.task_sets is None):
            raise InputError("tasks, task_sets: give exactly one of them")
        for name in self.task_sets or {}:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise InputError(f"task_sets: the name '{name}' may have letters, digits, - and _ only; rename it")
        if self.task_sets is not None and not self.task_sets:
            raise InputError("task_sets: empty; name at least one task set")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds: {list(self.seeds)}; give one or more different numbers from 0")
        if not self.views or any(view not in VIEWS for view in self.views):
            raise InputError(f"views: {list(self.views)}; choose from {', '.join(VIEWS)}")
        for name in ("epochs", "batch_size", "image_batch_size", "min_positives", "grid", "width", "max_train"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size is {self.kernel_size}: it must be odd and positive; use 1 or 3")
        if self.learning_rate <= 0 or self.weight_decay < 0 or not 0 <= self.warmup_fraction < 1:
            raise InputError("learning_rate must be above 0, weight_decay at least 0, warmup_fraction in [0, 1)")
        if self.cache_limit_gb <= 0:
            raise InputError(f"cache_limit_gb is {self.cache_limit_gb}: it must be above 0")


@dataclass(frozen=True)
class LabelledImages:
    """Manifest rows (n,) and their targets (n, T): 1, 0 or NaN."""

    rows: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class TaskSetPlan:
    """The tasks of a set that can be evaluated, and the labelled images of both splits."""

    name: str
    tasks: list[str]
    train: LabelledImages
    test: LabelledImages


def run_probing(
    config: ProbeConfig,
    *,
    encoder: Path | tuple[str, Path],
    dataset: Path,
    labels: Path,
    out: Path,
    work: Path | None = None,
    encoder_name: str | None = None,
    device: str = "auto",
    num_workers: int = 0,
    save_probe: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Extract features of the train and test images, train the probes, write the predictions on the test images.

    Args:
        encoder: a checkpoint folder, or name and weights as for `load_encoder`.
        dataset: folder (docs/data_format.md, section 1).
        labels: label table, or the folder with its labels.parquet (section 2).
        out: folder for predictions.parquet or predictions.NAME.parquet (section 4), one row per task, seed and test
            image with a known target, in this order; created if absent.
        work: folder for the feature cache, which is removed at the end; default `out`.
        encoder_name: default of `config.arm`; None: the name of the folder.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        num_workers: threads that read images ahead of the encoder.
        save_probe: also write probe.safetensors (probe.NAME.safetensors): the tensors of `AttentionProbe` under
            "SEED." for each seed.

    Returns:
        Counts, sizes and seconds; per task set and task the prevalences, counts and AUPRC of each seed (NaN never occurs:
        tasks that cannot be evaluated stand in `excluded_tasks` with the reason).

    Raises:
        InputError: no image of the chosen views, no task that can be evaluated, a feature cache beyond the limits.
    """
    run_device = _choose_device(device)
    data = Dataset(dataset)
    model = (load_encoder(*encoder) if isinstance(encoder, tuple) else load_encoder(str(encoder))).to(run_device).eval()
    source = Path(encoder[1] if isinstance(encoder, tuple) else encoder)
    columns = {
        "arm": config.arm or encoder_name or source.resolve().name,
        **{name: getattr(config, name) for name in ("objective", "subset_size", "replicate")},
    }
    train_rows = _thin(select_images(data, "train", config.views), config.max_train)
    test_rows = select_images(data, "test", config.views)
    plans, excluded = plan_task_sets(config, data, labels, train_rows, test_rows)
    rows = np.unique(np.concatenate([part.rows for plan in plans for part in (plan.train, plan.test)]))
    grid, width = _probe_sizes(model, data, rows[0], config, run_device)

    out.mkdir(parents=True, exist_ok=True)
    cache = (work or out) / "features.npy"
    cache.parent.mkdir(parents=True, exist_ok=True)
    steps = _Steps(progress, len(rows) if config.cache_features else 0, [config.epochs * len(p.train.rows) for p in plans])
    started = time.perf_counter()
    try:
        features: FeatureSource
        if config.cache_features:
            write_feature_cache(
                cache,
                data,
                rows,
                model,
                grid=grid,
                batch_size=config.image_batch_size,
                dtype=config.feature_dtype,
                limit_bytes=config.cache_limit_gb * 1e9,
                device=run_device,
                num_workers=num_workers,
                progress=steps.report_features,
            )
            features = CachedFeatures(cache, run_device)
        else:
            features = ComputedFeatures(data, rows, model, grid, config.image_batch_size, run_device)
        extracted = time.perf_counter()
        results = {}
        for index, plan in enumerate(plans):
            shape = ProbeShape(
                in_channels=tuple(model.feature_channels),
                grid=grid,
                width=width,
                num_tasks=len(plan.tasks),
                kernel_size=config.kernel_size,
            )
            probe = train_probe(
                Selection(features, np.searchsorted(rows, plan.train.rows)),
                plan.train.targets,
                shape,
                seeds=config.seeds,
                epochs=config.epochs,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                warmup_fraction=config.warmup_fraction,
                device=run_device,
                progress=steps.training(index, plan.name),
            )
            probabilities = predict(probe, features, np.searchsorted(rows, plan.test.rows))
            suffix = f".{plan.name}" if config.task_sets else ""
            path = out / f"predictions{suffix}.parquet"
            write_predictions(path, data, plan, config.seeds, probabilities, columns)
            if save_probe:
                _save_probe(probe, config.seeds, plan.tasks, out / f"probe{suffix}.safetensors")
            results[plan.name] = {"predictions": path.name, "tasks": _score(plan, probabilities)}
    finally:
        cache.unlink(missing_ok=True)
    return {
        "arm": columns["arm"],
        "num_train": len(train_rows),
        "num_test": len(test_rows),
        "num_labelled": len(rows),
        "grid": grid,
        "width": width,
        "task_sets": results,
        "excluded_tasks": excluded,
        "seconds_features": round(extracted - started, 3),
        "seconds_training": round(time.perf_counter() - extracted, 3),
    }


def select_images(dataset: Dataset, split: str, views: Sequence[str]) -> np.ndarray:
    """Manifest rows of a split with one of the views, in manifest order.

    Raises:
        InputError: there is none; the views that the split does have are named.
    """
    rows = dataset.select(split=split, view=tuple(views))
    if not len(rows):
        found = Counter(dataset.manifest["view"].take(pa.array(dataset.select(split=split))).to_pylist())
        present = ", ".join(f"{view} ({count:,})" for view, count in sorted(found.items())) or "no image"
        raise InputError(
            f"views: no {split} image is {' or '.join(views)}; that split has {present}; set `views` or split anew"
        )
    return rows


def write_predictions(
    path: Path,
    dataset: Dataset,
    plan: TaskSetPlan,
    seeds: Sequence[int],
    probabilities: np.ndarray,
    columns: dict[str, Any],
) -> None:
    """Write the prediction table (docs/data_format.md, section 4), sorted by task, seed and manifest row.

    Args:
        probabilities: (S, n, T) for the test images and tasks of the plan.
        columns: values of arm, objective, subset_size and replicate.
    """
    samples = dataset.manifest.select(["sample_id", "patient_id"]).take(pa.array(plan.test.rows))
    parts = []
    for column in sorted(range(len(plan.tasks)), key=plan.tasks.__getitem__):
        targets = plan.test.targets[:, column]
        known = np.flatnonzero(~np.isnan(targets))
        for index in sorted(range(len(seeds)), key=seeds.__getitem__):
            values = {
                **columns,
                **{name: samples[name].take(pa.array(known)).combine_chunks() for name in samples.column_names},
                "seed": seeds[index],
                "task": plan.tasks[column],
                "target": targets[known].astype(np.int8),
                "prediction": probabilities[index, known, column],
            }
            arrays = [_column(values[field.name], field.type, len(known)) for field in PREDICTION_SCHEMA]
            parts.append(pa.table(arrays, schema=PREDICTION_SCHEMA))
    pq.write_table(pa.concat_tables(parts), path, compression="zstd")


def _column(value: Any, kind: pa.DataType, length: int) -> pa.Array:
    if isinstance(value, np.ndarray | pa.Array):
        return pa.array(value, kind)
    return pa.repeat(pa.scalar(value, kind), length)


def _score(plan: TaskSetPlan, probabilities: np.ndarray) -> dict[str, dict[str, Any]]:
    """Per task: counts and prevalences of both splits, AUPRC on the test images for each seed."""
    scores = {}
    for column, task in enumerate(plan.tasks):
        train, test = plan.train.targets[:, column], plan.test.targets[:, column]
        known = ~np.isnan(test)
        scores[task] = {
            "num_train": int((~np.isnan(train)).sum()),
            "num_test": int(known.sum()),
            "num_test_positives": int(np.nansum(test)),
            "train_prevalence": float(np.nanmean(train)),
            "test_prevalence": float(np.nanmean(test)),
            "auprc": [float(average_precision(test[known], of_seed[known, column])) for of_seed in probabilities],
        }
    return scores


def _save_probe(probe: StackedProbe, seeds: Sequence[int], tasks: Sequence[str], path: Path) -> None:
    tensors = {
        f"{seed}.{name}": tensor.contiguous()
        for index, seed in enumerate(seeds)
        for name, tensor in probe.unstack(index).state_dict().items()
    }
    save_file(tensors, path, metadata={"tasks": " ".join(tasks)})


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise InputError(f"device is '{device}': choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but torch finds no GPU; use auto or cpu")
    return torch.device(device)


def _thin(rows: np.ndarray, limit: int | None) -> np.ndarray:
    if limit is None or len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(0).permutation(rows)[:limit])


def plan_task_sets(
    config: ProbeConfig, dataset: Dataset, labels: Path, train_rows: np.ndarray, test_rows: np.ndarray
) -> tuple[list[TaskSetPlan], list[dict[str, str]]]:
    """Choose tasks and images of each task set, and list the tasks left out (task_set, task, reason).

    Raises:
        InputError: a task set of which nothing can be evaluated.
    """
    table = _one_engine(read_label_table(labels), config.engine)
    labelled = set(pc.unique(table["task"]).to_pylist())
    plans, excluded = [], []
    for name, tasks in _wanted_task_sets(config).items():
        keys = resolve_tasks(tasks, labelled)
        present = [task for task in keys if task in labelled]
        train, test = (
            _targets(config, dataset, table, present, rows, part) for part, rows in enumerate((train_rows, test_rows))
        )
        usable, reasons = usable_tasks(present, train, test, config.min_positives)
        reasons = {task: reasons.get(task, "not in the label table") for task in keys if task not in usable}
        if not usable:
            first = next(iter(reasons.items()), ("", ""))
            raise InputError(
                f"task set '{name}': none of its {len(keys)} tasks can be evaluated ({': '.join(first)}); "
                "check the label table, or choose other tasks"
            )
        columns = [present.index(task) for task in usable]
        plans.append(
            TaskSetPlan(name, usable, _labelled(train_rows, train[:, columns]), _labelled(test_rows, test[:, columns]))
        )
        excluded += [{"task_set": name, "task": task, "reason": reason} for task, reason in reasons.items()]
    return plans, excluded


def _one_engine(table: pa.Table, engine: str | None) -> pa.Table:
    """The statements of one engine: what rules, models and people say is never mixed in one number.

    Raises:
        InputError: several engines and none chosen, or one that the table does not have.
    """
    engines = sorted(pc.unique(table["engine"]).to_pylist())
    if engine is None and len(engines) > 1:
        raise InputError(f"engine: the label table mixes {', '.join(engines)}; choose one")
    if engine is not None and engine not in engines:
        raise InputError(f"engine: '{engine}' is not in the label table; it has {', '.join(engines) or 'no rows'}")
    return table.filter(pc.equal(table["engine"], engine)) if engine is not None else table


def usable_tasks(tasks: Sequence[str], train: np.ndarray, test: np.ndarray, minimum: int) -> tuple[list[str], dict[str, str]]:
    """Tasks with at least `minimum` positives and negatives in both target arrays (n, T); the reasons of the others."""
    usable, reasons = [], {}
    for column, task in enumerate(tasks):
        lacking = [
            f"{count} {word} in {split}"
            for split, targets in (("train", train), ("test", test))
            for word, value in (("positives", 1), ("negatives", 0))
            if (count := int((targets[:, column] == value).sum())) < minimum
        ]
        if lacking:
            reasons[task] = f"{', '.join(lacking)}; at least {minimum} needed"
        else:
            usable.append(task)
    return usable, reasons


def _wanted_task_sets(config: ProbeConfig) -> dict[str, str | tuple[str, ...]]:
    if config.task_sets is not None:
        return config.task_sets
    return {config.tasks if isinstance(config.tasks, str) else "tasks": config.tasks or ()}


def _targets(
    config: ProbeConfig, dataset: Dataset, table: pa.Table, tasks: list[str], rows: np.ndarray, part: int
) -> np.ndarray:
    """(n, T) targets; with `shuffle_labels` those of other images of the same split."""
    if not tasks:
        return np.zeros((len(rows), 0), np.float32)
    targets = task_table(
        dataset, table, tasks, rows=rows, not_mentioned=config.not_mentioned, uncertain=config.uncertain
    ).targets
    if config.shuffle_labels:
        targets = np.random.default_rng([config.seeds[0], SHUFFLE_STREAM, part]).permutation(targets)
    return targets


def _labelled(rows: np.ndarray, targets: np.ndarray) -> LabelledImages:
    """Leave out images without a known target."""
    known = ~np.isnan(targets).all(axis=1)
    return LabelledImages(rows[known], targets[known])


@torch.inference_mode()
def _probe_sizes(encoder: Encoder, dataset: Dataset, row: int, config: ProbeConfig, device: torch.device) -> tuple[int, int]:
    """Grid and width: as configured, else those of the encoder's third map."""
    if config.grid is not None and config.width is not None:
        return config.grid, config.width
    third = encoder.forward_features(encoder.preprocess([dataset.read_image(row)]).to(device))[2]
    return config.grid or third.shape[-1], config.width or third.shape[1]


class _Steps:
    """One running count over features and training for the caller's progress display; the unit is images seen."""

    def __init__(self, progress: Progress | None, num_features: int, num_training: list[int]) -> None:
        self._progress, self._num_features, self._num_training = progress, num_features, num_training
        self._total = num_features + sum(num_training)

    def report_features(self, done: int, total: int, what: str) -> None:
        if self._progress:
            self._progress(done, self._total, what)

    def training(self, index: int, name: str) -> Callable[[int, int], None] | None:
        if self._progress is None:
            return None
        report, before = self._progress, self._num_features + sum(self._num_training[:index])
        return lambda done, total: report(before + done, self._total, f"probe {name}")
