"""Segment with one frozen encoder on one dataset: features, heads of all seeds, metrics per image, summary, overlays."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from radscale.datasets import Dataset
from radscale.datasets.file_hash import sha256_of
from radscale.datasets.masks import MaskTable
from radscale.datasets.splits import check_patients_apart
from radscale.errors import InputError
from radscale.execution.work_folder import work_folder
from radscale.models import Encoder, Preprocessing, visible_box
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.frames import seen_mask
from radscale.segmentation.head import HeadShape, train_head, training_batches
from radscale.segmentation.held_out import HeldOutImages, write_scores
from radscale.segmentation.saved_heads import HEADS, write_heads
from radscale.training.checkpointing import encoder_fingerprint
from radscale.training.devices import choose_device
from radscale.training.features import ComputedFeatures, FeatureSource, Progress, cached_features
from radscale.training.open_weights import load_encoder
from radscale.training.training_state import TrainingState

KEPT = "kept-{}"
"""Names of what a killed run goes on from."""
MIN_HIERARCHICAL_GRID = 37
"""RAD-DINO's grid at 518 px."""


@dataclass(frozen=True)
class SegmentationPlan:
    """Tasks that can be evaluated, their columns in the mask table, and the dataset rows of both splits."""

    tasks: list[str]
    columns: np.ndarray
    train_rows: np.ndarray
    test_rows: np.ndarray
    train_known: np.ndarray
    """(n, K) bool."""
    test_known: np.ndarray
    counts: dict[str, dict[str, int]]
    """Per task: images with it and without, in training and in test."""
    excluded: list[dict[str, str]]


def run_segmentation(
    config: SegmentationConfig,
    *,
    encoder: Path | tuple[str, Path],
    dataset: Path,
    masks: Path,
    out: Path,
    work: Path | None = None,
    encoder_name: str | None = None,
    device: str = "auto",
    num_workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train heads on the masks of the training images and write what they find in the test images.

    Args:
        encoder: a checkpoint folder, or name and weights as for `load_encoder`.
        dataset: folder (docs/data_format.md, section 1).
        masks: mask table (section 6).
        out: folder for segmentation.parquet (section 7), summary.csv, heads.safetensors and overlays/TASK.png; created if
            absent.
        work: folder of what a killed run goes on from (features, training), for the caller to remove; default: one in `out`,
            removed at the end.
        encoder_name: default of `config.arm`; None: the name of the folder.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        num_workers: threads that read images ahead of the encoder and measure masks behind it.

    Returns:
        Literals: arm, num_train, num_test, grid, tasks -> counts, excluded_tasks, summary (rows of `summarise`), seconds.

    Raises:
        InputError: masks that do not fit the dataset, no task with masks in training and in test, an encoder that gives no
            numbers, a feature cache beyond its limit or the free disk, a `work` that was begun with other settings.
    """
    run_device = choose_device(device)
    data = Dataset(dataset)
    data.check_reviewed()
    table = MaskTable(masks, data)
    plan = plan_segmentation(config, data, table)
    model = open_encoder(encoder, run_device)
    fingerprint = encoder_fingerprint(model)
    model.preprocessing = as_seen(model, config)
    grid = config.grid or _encoder_grid(model, data, int(plan.train_rows[0]), run_device)
    names = name_columns(config, encoder, encoder_name)
    settings = {
        **asdict(config),
        "encoder": fingerprint,
        "images": data.fingerprint(np.concatenate([plan.train_rows, plan.test_rows])),
        "masks": sha256_of(masks),
    }
    out.mkdir(parents=True, exist_ok=True)
    kept = work or out / "work"
    began = time.perf_counter()
    num_train, num_test = len(plan.train_rows), len(plan.test_rows)
    total = num_train * (config.cache_features + config.epochs) + num_test

    def report(before: int, what: str) -> Callable[[int], None] | None:
        return (lambda done: progress(before + done, total, what)) if progress else None

    def features_of(rows: np.ndarray) -> ComputedFeatures:
        return ComputedFeatures(
            data, rows, model, grid=grid, batch_size=config.image_batch_size, device=run_device, num_workers=num_workers
        )

    with work_folder(kept, settings, out, KEPT.format("*")):
        state = TrainingState(kept / KEPT.format("training.safetensors"))
        cache = kept / KEPT.format("features.npy")
        features: FeatureSource = features_of(plan.train_rows)
        if config.cache_features and state.steps < len(training_batches(config, num_train)):
            features = cached_features(
                cache,
                features_of(plan.train_rows),
                dtype=config.feature_dtype,
                limit_bytes=config.cache_limit_gb * 1e9,
                progress=report(0, "features"),
            )
        extracted = time.perf_counter()
        head = train_head(
            features,
            _mask_reader(data, table, plan, model, config.mask_size_px or model.preprocessing.image_size_px),
            plan.train_known,
            HeadShape(
                in_channels=sum(model.feature_channels),
                grid=grid,
                num_tasks=len(plan.tasks),
                kernel_size=config.kernel_size,
                upsampling=config.upsampling,
            ),
            config,
            device=run_device,
            state=state,
            progress=report(num_train * config.cache_features, "head"),
        )
        cache.unlink(missing_ok=True)
        trained = time.perf_counter()
        write_heads(out / HEADS, head, config, plan.tasks, fingerprint, {"arm": names["arm"], "num_train": num_train})
        test = HeldOutImages(
            config=config,
            dataset=data,
            table=table,
            rows=plan.test_rows,
            known=plan.test_known,
            columns=plan.columns,
            tasks=plan.tasks,
            encoder=model,
            head=head,
            features=features_of(plan.test_rows),
            names=names,
        )
        rows: list[dict[str, Any]] = []
        for done, found in enumerate(test.in_order(test.measure, num_workers), start=1):
            rows += found
            if progress:
                progress(total - num_test + done, total, "test images")
        summary = write_scores(rows, test, out)
    if work is None:
        shutil.rmtree(kept)
    return {
        "arm": names["arm"],
        "num_train": num_train,
        "num_test": num_test,
        "grid": grid,
        "tasks": plan.counts,
        "excluded_tasks": plan.excluded,
        "summary": summary,
        "seconds_features": round(extracted - began, 3),
        "seconds_training": round(trained - extracted, 3),
        "seconds_test": round(time.perf_counter() - trained, 3),
    }


def open_encoder(encoder: Path | tuple[str, Path], device: torch.device) -> Encoder:
    """A checkpoint folder, or name and weights, on the device and in evaluation mode."""
    return (load_encoder(*encoder) if isinstance(encoder, tuple) else load_encoder(str(encoder))).to(device).eval()


def as_seen(encoder: Encoder, config: SegmentationConfig) -> Preprocessing:
    """The encoder's preprocessing, without the cropping if the whole image is to be seen."""
    return replace(encoder.preprocessing, resize="squash") if config.whole_image else encoder.preprocessing


def name_columns(config: SegmentationConfig, encoder: Path | tuple[str, Path], encoder_name: str | None) -> dict[str, Any]:
    """arm, objective, subset_size, replicate: the columns of a table that say what was measured."""
    source = Path(encoder[1] if isinstance(encoder, tuple) else encoder)
    names = {name: getattr(config, name) for name in ("objective", "subset_size", "replicate")}
    return {"arm": config.arm or encoder_name or source.resolve().name, **names}


def plan_segmentation(config: SegmentationConfig, dataset: Dataset, table: MaskTable) -> SegmentationPlan:
    """Choose tasks and images: those of the chosen views with a known mask of any of the tasks.

    Raises:
        InputError: a task that the table does not have, or nothing that can be trained and evaluated.
    """
    wanted = list(config.tasks) if config.tasks is not None else table.tasks
    unknown = [task for task in wanted if task not in table.tasks]
    if unknown:
        raise InputError(f"task '{unknown[0]}' is not in the mask table; it has {', '.join(table.tasks) or 'no rows'}")
    rows = {split: dataset.select(split=split, view=config.views) for split in ("train", "test")}
    patients = dataset.column("patient_id")
    check_patients_apart(*(patients.take(pa.array(own)) for own in rows.values()))
    columns = np.array([table.tasks.index(task) for task in wanted])
    rows = {split: own[~np.isnan(table.presence(own)[:, columns]).all(axis=1)] for split, own in rows.items()}
    if config.max_train is not None and len(rows["train"]) > config.max_train:
        rows["train"] = np.sort(np.random.default_rng(0).permutation(rows["train"])[: config.max_train])
    counts, excluded = {}, []
    for task, column in zip(wanted, columns, strict=True):
        found = {split: table.presence(own)[:, column] for split, own in rows.items()}
        few = [f"{n} in {split}" for split, own in found.items() if (n := int((own == 1).sum())) < config.min_positives]
        if few:
            excluded.append(
                {"task": task, "reason": f"images with it: {', '.join(few)}; at least {config.min_positives} needed"}
            )
            continue
        counts[task] = {
            f"num_{split}_{word}": int((own == value).sum())
            for split, own in found.items()
            for word, value in (("present", 1), ("absent", 0))
        }
    if not counts:
        first = f"{excluded[0]['task']}: {excluded[0]['reason']}" if excluded else "the table is empty"
        raise InputError(
            f"masks: none of the {len(wanted)} tasks can be trained and evaluated ({first}); "
            f"check the masks, the splits, and `views` ({', '.join(config.views)})"
        )
    columns = np.array([table.tasks.index(task) for task in counts])
    train_known, test_known = (~np.isnan(table.presence(rows[split])[:, columns]) for split in ("train", "test"))
    used = {"train": train_known.any(axis=1), "test": test_known.any(axis=1)}
    return SegmentationPlan(
        tasks=list(counts),
        columns=columns,
        train_rows=rows["train"][used["train"]],
        test_rows=rows["test"][used["test"]],
        train_known=train_known[used["train"]],
        test_known=test_known[used["test"]],
        counts=counts,
        excluded=excluded,
    )


@torch.inference_mode()
def _encoder_grid(encoder: Encoder, dataset: Dataset, row: int, device: torch.device) -> int:
    maps = encoder.forward_features(encoder.preprocess([dataset.read_image(row)]).to(device))
    third = int(maps[2].shape[-1])
    return third if all(feature_map.shape[-1] == third for feature_map in maps) else max(third, MIN_HIERARCHICAL_GRID)


def _mask_reader(
    dataset: Dataset, table: MaskTable, plan: SegmentationPlan, encoder: Encoder, size_px: int
) -> Callable[[np.ndarray], Tensor]:
    """Masks of training images by position, (b, K, S, S) float32, as the encoder sees them."""

    def read(positions: np.ndarray) -> Tensor:
        images = []
        for row in plan.train_rows[positions]:
            masks = table.read(int(row))[plan.columns]
            box = visible_box(encoder.preprocessing, masks.shape[1:])
            images.append(np.stack([seen_mask(mask, box, size_px) for mask in masks]))
        return torch.from_numpy(np.stack(images))

    return read
