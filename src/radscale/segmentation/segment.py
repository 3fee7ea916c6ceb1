"""Segment with one frozen encoder on one dataset: features, heads of all seeds, metrics per image, summary, overlays."""

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from radscale.datasets import Dataset
from radscale.datasets.masks import MaskTable
from radscale.errors import InputError
from radscale.models import Encoder, visible_box
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.evaluation import SEGMENTATION_SCHEMA, SUMMARY_COLUMNS, score_image, summarise
from radscale.segmentation.frames import predicted_masks, seen_mask
from radscale.segmentation.head import HeadShape, StackedHead, train_head
from radscale.segmentation.overlays import Case, choose_cases, write_sheet
from radscale.training.devices import choose_device
from radscale.training.features import CachedFeatures, ComputedFeatures, FeatureSource, Progress, write_feature_cache
from radscale.training.open_weights import load_encoder
from radscale.training.reading import read_ahead

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
        out: folder for segmentation.parquet (section 7), summary.csv and overlays/TASK.png; created if absent.
        work: folder for the feature cache, which is removed at the end; default `out`.
        encoder_name: default of `config.arm`; None: the name of the folder.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        num_workers: threads that read images ahead of the encoder and measure masks behind it.

    Returns:
        Literals: arm, num_train, num_test, grid, tasks -> counts, excluded_tasks, summary (rows of `summarise`), seconds.

    Raises:
        InputError: masks that do not fit the dataset, no task with masks in training and in test, an encoder that gives no
            numbers, a feature cache beyond its limit or the free disk.
    """
    run_device = choose_device(device)
    data = Dataset(dataset)
    table = MaskTable(masks, data)
    plan = plan_segmentation(config, data, table)
    model = (load_encoder(*encoder) if isinstance(encoder, tuple) else load_encoder(str(encoder))).to(run_device).eval()
    if config.whole_image:
        model.preprocessing = replace(model.preprocessing, resize="squash")
    grid = config.grid or _encoder_grid(model, data, int(plan.train_rows[0]), run_device)
    shape = HeadShape(
        in_channels=sum(model.feature_channels),
        grid=grid,
        num_tasks=len(plan.tasks),
        kernel_size=config.kernel_size,
        upsampling=config.upsampling,
    )
    source = Path(encoder[1] if isinstance(encoder, tuple) else encoder)
    names = {
        "arm": config.arm or encoder_name or source.resolve().name,
        **{name: getattr(config, name) for name in ("objective", "subset_size", "replicate")},
    }
    out.mkdir(parents=True, exist_ok=True)
    train_images, test_images = (
        ComputedFeatures(
            data, rows, model, grid=grid, batch_size=config.image_batch_size, device=run_device, num_workers=num_workers
        )
        for rows in (plan.train_rows, plan.test_rows)
    )
    num_train, num_test = len(plan.train_rows), len(plan.test_rows)
    total = num_train * (config.cache_features + config.epochs) + num_test
    began = time.perf_counter()

    def report(before: int, what: str) -> Callable[[int], None] | None:
        return (lambda done: progress(before + done, total, what)) if progress else None

    cache = (work or out) / "features.npy"
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        features: FeatureSource = train_images
        if config.cache_features:
            limit = config.cache_limit_gb * 1e9
            write_feature_cache(
                cache, train_images, dtype=config.feature_dtype, limit_bytes=limit, progress=report(0, "features")
            )
            features = CachedFeatures(cache, run_device)
        extracted = time.perf_counter()
        head = train_head(
            features,
            _mask_reader(data, table, plan, model, config.mask_size_px or model.preprocessing.image_size_px),
            plan.train_known,
            shape,
            config,
            device=run_device,
            progress=report(num_train * config.cache_features, "head"),
        )
    finally:
        cache.unlink(missing_ok=True)
    trained = time.perf_counter()
    test = _TestImages(config, data, table, plan, model, head, test_images)
    rows = test.score(names, num_workers, report(total - num_test, "test images"))
    scores = pa.Table.from_pylist(rows, SEGMENTATION_SCHEMA).sort_by([(name, "ascending") for name in ("task", "seed")])
    pq.write_table(scores, out / "segmentation.parquet", compression="zstd")
    summary = summarise(scores)
    _write_csv(out / "summary.csv", [{"arm": names["arm"], **row} for row in summary])
    if config.num_overlays:
        test.write_overlays(out / "overlays", scores, str(names["arm"]))
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


@dataclass(frozen=True)
class _TestImages:
    """The trained heads on the test images; each image passes through the encoder once."""

    config: SegmentationConfig
    dataset: Dataset
    table: MaskTable
    plan: SegmentationPlan
    encoder: Encoder
    head: StackedHead
    features: ComputedFeatures

    def score(self, names: dict[str, Any], num_workers: int, progress: Callable[[int], None] | None) -> list[dict[str, Any]]:
        """Rows of the table, image by image."""
        samples = [self.dataset.manifest[name] for name in ("sample_id", "patient_id")]
        rows: list[dict[str, Any]] = []
        scored = read_ahead(self._score, self._logits(), num_workers, depth=4 * num_workers)
        for position, found in enumerate(scored):
            sample, patient = (column[int(self.plan.test_rows[position])].as_py() for column in samples)
            rows += [{**names, "sample_id": sample, "patient_id": patient, **row} for row in found]
            if progress:
                progress(position + 1)
        return rows

    @torch.no_grad()
    def _logits(self) -> Iterator[tuple[int, Tensor]]:
        """Position and (seeds, K, g, g) logits of each test image."""
        position = 0
        for batch in self.features.compute(np.arange(len(self.plan.test_rows))):
            for logits in self.head(batch).transpose(0, 1):
                yield position, logits
                position += 1

    def _masks(self, position: int, logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Target (K, H, W), and the masks (..., K, H, W) of logits (..., K, g, g)."""
        target = self.table.read(int(self.plan.test_rows[position]))[self.plan.columns]
        shape = (target.shape[1], target.shape[2])
        box = visible_box(self.encoder.preprocessing, shape)
        return target, predicted_masks(logits, box, shape, self.config.threshold)

    def _score(self, item: tuple[int, Tensor]) -> list[dict[str, Any]]:
        position, logits = item
        target, predictions = self._masks(position, logits)
        rows = []
        for index in np.flatnonzero(self.plan.test_known[position]):
            tips = self.table.tips(int(self.plan.test_rows[position]), int(self.plan.columns[index]))
            for seed, prediction in zip(self.config.seeds, predictions, strict=True):
                scores = score_image(prediction[index], target[index], tips)
                rows.append({"seed": seed, "task": self.plan.tasks[index], **scores})
        return rows

    @torch.no_grad()
    def write_overlays(self, folder: Path, scores: pa.Table, arm: str) -> None:
        """A sheet for each task: test images that have it, by the Hausdorff distance of the first seed."""
        folder.mkdir(exist_ok=True)
        seed = self.config.seeds[0]
        samples = self.dataset.manifest["sample_id"].take(pa.array(self.plan.test_rows)).to_pylist()
        place = {sample: position for position, sample in enumerate(samples)}
        rows: dict[str, list[dict[str, Any]]] = {task: [] for task in self.plan.tasks}
        for row in scores.to_pylist():
            if row["seed"] == seed and row["present"]:
                rows[row["task"]].append(row | {"position": place[row["sample_id"]]})
        chosen = {
            task: {
                name: [own[number] for number in numbers]
                for name, numbers in choose_cases(
                    np.array([row["hausdorff_px"] for row in own]), self.config.num_overlays
                ).items()
            }
            for task, own in rows.items()
        }
        # An image may be a case of several tasks; it passes through the encoder once more, not once for each.
        needed = np.unique([row["position"] for cases in chosen.values() for part in cases.values() for row in part])
        logits = torch.cat([self.head(batch)[0].cpu() for batch in self.features.compute(needed)])
        found = dict(zip(needed.tolist(), logits, strict=True))
        for index, (task, cases) in enumerate(chosen.items()):
            title = f"{task}, {arm}, seed {seed}, {len(rows[task])} test images with it"
            sheet = {name: [self._case(found, index, row) for row in part] for name, part in cases.items()}
            write_sheet(folder / f"{task}.png", title, sheet)

    def _case(self, logits: dict[int, Tensor], index: int, row: dict[str, Any]) -> Case:
        target, prediction = self._masks(row["position"], logits[row["position"]])
        image = self.dataset.read_image(int(self.plan.test_rows[row["position"]]))
        caption = f"Hausdorff {row['hausdorff_px']:.0f} px  Dice {row['dice']:.2f}  clDice {row['cldice']:.2f}"
        return Case(image, target[index], prediction[index], caption)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("arm", *SUMMARY_COLUMNS), lineterminator="\n")
        writer.writeheader()
        # An empty field is not known, as in all tables of results.
        writer.writerows(
            {
                name: "" if value != value else f"{value:.10g}" if isinstance(value, float) else value
                for name, value in row.items()
            }
            for row in rows
        )
