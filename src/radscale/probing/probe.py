"""Probe one frozen encoder on one dataset: features once, then a classifier per task set, then predictions."""

import csv
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from radscale.datasets import Dataset, read_label_table
from radscale.execution.work_folder import work_folder
from radscale.models import Encoder
from radscale.probing.classifier import ProbeShape, StackedProbe, predict, train_probe
from radscale.probing.config import ProbeConfig
from radscale.probing.predictions import score, write_predictions
from radscale.probing.studies import ProbeRun, draw_label_efficiency, label_efficiency, layer_ablation, layer_shares
from radscale.probing.targets import TaskSetPlan, plan_task_sets
from radscale.training.checkpointing import encoder_fingerprint
from radscale.training.devices import choose_device
from radscale.training.features import ComputedFeatures, FeatureSource, Progress, Selection, cached_features
from radscale.training.open_weights import load_encoder
from radscale.training.training_state import TrainingState

KEPT = "probe.{}"
"""Files in the work folder that a killed run goes on from."""


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
    on_plan: Callable[[list[TaskSetPlan], list[dict[str, str]]], None] | None = None,
) -> dict[str, Any]:
    """Extract features of the train and test images, train the probes, write the predictions on the test images.

    Killed at any moment and called again with the same `work`, it goes on a minute back at most and ends with the same bytes.

    Args:
        encoder: a checkpoint folder, or name and weights as for `load_encoder`.
        dataset: folder (docs/data_format.md, section 1).
        labels: label table, or the folder with its labels.parquet (section 2).
        out: folder for predictions.parquet or predictions.NAME.parquet (section 4), one row per task, seed and test
            image with a known target, in this order; created if absent.
        work: folder of what a killed run goes on from (features, trainings), for the caller to remove; default: one in `out`,
            removed at the end.
        encoder_name: default of `config.arm`; None: the name of the folder.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        num_workers: threads that read images ahead of the encoder.
        on_plan: called with the task sets and the tasks left out before anything is computed.
        save_probe: also write probe.safetensors (probe.NAME.safetensors): the tensors of `AttentionProbe` under
            "SEED." for each seed.

    Returns:
        Literals: arm, num_train and num_test (images with a label of any task set), grid, width, seconds; `task_sets`:
        name -> predictions (file name), tasks -> counts, prevalences and AUPRC of each seed, and the rows of studies that
        were asked for (layers, layer_shares, label_efficiency: docs/probing.md), which are also written as NAME.csv;
        `excluded_tasks`: rows task_set, task, reason, for tasks that cannot be evaluated.

    Raises:
        InputError: no image of the chosen views, a task set of which nothing can be evaluated, a feature cache beyond its
            limit or the free disk, a `work` that was begun with other settings, images, labels or weights.
    """
    run_device = choose_device(device)
    data = Dataset(dataset)
    data.check_reviewed()
    plans, excluded = plan_task_sets(config, data, read_label_table(labels))
    if on_plan is not None:
        on_plan(plans, excluded)
    train_rows = np.unique(np.concatenate([plan.train.rows for plan in plans]))
    test_rows = np.unique(np.concatenate([plan.test.rows for plan in plans]))
    rows = np.union1d(train_rows, test_rows)
    model = (load_encoder(*encoder) if isinstance(encoder, tuple) else load_encoder(str(encoder))).to(run_device).eval()
    grid, width = _probe_sizes(model, data, rows[0], config, run_device)
    source = Path(encoder[1] if isinstance(encoder, tuple) else encoder)
    columns = {
        "arm": config.arm or encoder_name or source.resolve().name,
        **{name: getattr(config, name) for name in ("objective", "subset_size", "replicate")},
    }
    out.mkdir(parents=True, exist_ok=True)
    kept = work or out / "work"
    settings = {
        **asdict(config),
        "encoder": encoder_fingerprint(model),
        "images": data.fingerprint(rows),
        "labels": _fingerprint(plans),
    }
    # Trainings of a task set, counted in passes over its training images: the layer study has eight more.
    trainings = 1 + 2 * len(model.feature_channels) * config.layer_study + sum(f for f in config.label_fractions if f < 1)
    seen = sum(round(trainings * config.epochs * len(plan.train.rows)) for plan in plans)
    counter = _Counter(progress, len(rows) * config.cache_features + seen)
    results = {}
    started = time.perf_counter()
    computed = ComputedFeatures(
        data, rows, model, grid=grid, batch_size=config.image_batch_size, device=run_device, num_workers=num_workers
    )
    with work_folder(kept, settings, out, KEPT.format("*")):
        features: FeatureSource = computed
        if config.cache_features:
            features = cached_features(
                kept / KEPT.format("features.npy"),
                computed,
                dtype=config.feature_dtype,
                limit_bytes=config.cache_limit_gb * 1e9,
                progress=counter.part("features", computed.shape[0]),
            )
        extracted = time.perf_counter()
        trained = itertools.count(1)  # trainings come in the same order in every run
        for plan in plans:
            shape = ProbeShape(
                in_channels=tuple(model.feature_channels),
                grid=grid,
                width=width,
                num_tasks=len(plan.tasks),
                kernel_size=config.kernel_size,
            )
            train_positions, test_positions = (np.searchsorted(rows, part.rows) for part in (plan.train, plan.test))

            def train(
                source: FeatureSource, positions: np.ndarray, targets: np.ndarray, shape: ProbeShape, what: str
            ) -> StackedProbe:
                state = TrainingState(kept / KEPT.format(f"training-{next(trained)}.safetensors"))
                return _train(config, Selection(source, positions), targets, shape, run_device, state, counter, what)

            probe = train(features, train_positions, plan.train.targets, shape, f"probe {plan.name}")
            probabilities = predict(probe, features, test_positions)
            suffix = f".{plan.name}" if config.task_sets else ""
            write_predictions(out / f"predictions{suffix}.parquet", data, plan, config.seeds, probabilities, columns)
            if save_probe:
                _save_probe(probe, config.seeds, plan.tasks, out / f"probe{suffix}.safetensors")
            results[plan.name] = {"predictions": f"predictions{suffix}.parquet", "tasks": score(plan, probabilities)}
            run = ProbeRun(
                plan,
                shape,
                features,
                train_positions,
                test_positions,
                data.columns("patient_id", rows=plan.train.rows)["patient_id"].to_pylist(),
                np.asarray(data.columns("patient_id", rows=plan.test.rows)["patient_id"]),
                probe,
                probabilities,
                train,
            )
            results[plan.name] |= _study(config, run, columns["arm"], out, suffix)
    if work is None:
        shutil.rmtree(kept)
    return {
        "arm": columns["arm"],
        "num_train": len(train_rows),
        "num_test": len(test_rows),
        "grid": grid,
        "width": width,
        "task_sets": results,
        "excluded_tasks": excluded,
        "seconds_features": round(extracted - started, 3),
        "seconds_training": round(time.perf_counter() - extracted, 3),
    }


def _fingerprint(plans: list[TaskSetPlan]) -> str:
    """SHA-256 of the tasks and of all targets."""
    digest = hashlib.sha256()
    for plan in plans:
        digest.update(json.dumps([plan.name, plan.tasks]).encode())
        for part in (plan.train, plan.test):
            digest.update(np.ascontiguousarray(part.targets).data)
    return digest.hexdigest()


def _study(config: ProbeConfig, run: ProbeRun, arm: Any, out: Path, suffix: str) -> dict[str, Any]:
    """The studies that were asked for, as tables beside the predictions and as rows."""
    found: dict[str, Any] = {}
    if config.layer_study:
        found["layers"], found["layer_shares"] = layer_ablation(run), layer_shares(run)
    if config.label_fractions:
        found["label_efficiency"] = label_efficiency(run, config.label_fractions)
        draw_label_efficiency(found["label_efficiency"], out / f"label_efficiency{suffix}.svg")
    for name, rows in found.items():
        with (out / f"{name}{suffix}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["arm", *rows[0]], lineterminator="\n")
            writer.writeheader()
            # An empty field is not known, as in all tables of results.
            writer.writerows({"arm": arm, **{key: "" if v != v else v for key, v in row.items()}} for row in rows)
    return found


def _train(
    config: ProbeConfig,
    features: FeatureSource,
    targets: np.ndarray,
    shape: ProbeShape,
    device: torch.device,
    state: TrainingState,
    counter: "_Counter",
    what: str,
) -> StackedProbe:
    return train_probe(
        features,
        targets,
        shape,
        seeds=config.seeds,
        epochs=config.epochs,
        batch_size=config.batch_size,
        min_steps=config.min_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_fraction=config.warmup_fraction,
        device=device,
        state=state,
        progress=counter.part(what, config.epochs * len(targets)),
    )


def _save_probe(probe: StackedProbe, seeds: Sequence[int], tasks: Sequence[str], path: Path) -> None:
    tensors = {
        f"{seed}.{name}": tensor.contiguous()
        for index, seed in enumerate(seeds)
        for name, tensor in probe.unstack(index).state_dict().items()
    }
    save_file(tensors, path, metadata={"tasks": " ".join(tasks)})


@torch.inference_mode()
def _probe_sizes(encoder: Encoder, dataset: Dataset, row: int, config: ProbeConfig, device: torch.device) -> tuple[int, int]:
    """Grid and width: as configured, else those of the encoder's third map."""
    if config.grid is not None and config.width is not None:
        return config.grid, config.width
    third = encoder.forward_features(encoder.preprocess([dataset.read_image(row)]).to(device))[2]
    return config.grid or third.shape[-1], config.width or third.shape[1]


class _Counter:
    """One running count over several parts for the caller's progress display; the unit is images seen."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._before = progress, total, 0

    def part(self, what: str, length: int) -> Callable[[int], None]:
        """What the next part, of `length` images, calls with its own count."""
        before, self._before = self._before, self._before + length

        def report(done: int) -> None:
            if self._progress:
                self._progress(before + done, self._total, what)

        return report
