"""Trained heads on images with masks: metrics of each image, their summary, overlays."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from radscale.datasets import Dataset
from radscale.datasets.masks import MaskTable
from radscale.models import Encoder, visible_box
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.evaluation import SEGMENTATION_SCHEMA, SUMMARY_COLUMNS, score_image, summarise
from radscale.segmentation.frames import predicted_masks
from radscale.segmentation.head import StackedHead
from radscale.segmentation.overlays import Case, choose_cases, write_sheet
from radscale.training.features import ComputedFeatures
from radscale.training.reading import read_ahead

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class HeldOutImages:
    """Trained heads on images that they were not trained on; each passes through the encoder once."""

    config: SegmentationConfig
    dataset: Dataset
    table: MaskTable | None
    """None: nothing can be measured, only found."""
    rows: np.ndarray
    """(n,) rows of the dataset."""
    known: np.ndarray
    """(n, K) bool: images and tasks whose mask is known."""
    columns: np.ndarray
    """(K,) columns of the mask table."""
    tasks: list[str]
    """K tasks, in the order of the head."""
    encoder: Encoder
    head: StackedHead
    features: ComputedFeatures
    """Of `rows`."""
    names: dict[str, Any]
    """Columns that say what is measured: arm, objective, subset_size, replicate."""

    def in_order(self, function: Callable[[tuple[int, Tensor]], Result], num_workers: int) -> Iterator[Result]:
        """`function` of each image's position and logits (seeds, K, g, g), in order, computed by threads."""
        return read_ahead(function, self._logits(), num_workers, depth=4 * num_workers)

    @torch.no_grad()
    def _logits(self) -> Iterator[tuple[int, Tensor]]:
        position = 0
        for batch in self.features.compute(np.arange(len(self.rows))):
            for logits in self.head(batch).transpose(0, 1):
                yield position, logits
                position += 1

    def find(self, position: int, logits: Tensor) -> np.ndarray:
        """The masks (..., K, H, W) of logits (..., K, g, g) in pixels of the stored image."""
        shape = int(self._sizes[0][self.rows[position]]), int(self._sizes[1][self.rows[position]])
        box = visible_box(self.encoder.preprocessing, shape)
        return predicted_masks(logits, box, shape, self.config.threshold)

    @cached_property
    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset.sizes_px()

    @cached_property
    def _patients(self) -> list[str]:
        return list(self.dataset.column("patient_id").take(pa.array(self.rows)).to_pylist())

    @cached_property
    def samples(self) -> list[str]:
        """(n,) sample ids."""
        return self.dataset.sample_ids(self.rows)

    def measure(self, item: tuple[int, Tensor]) -> list[dict[str, Any]]:
        """Rows of `SEGMENTATION_SCHEMA`: the image's known masks, for each seed."""
        position, logits = item
        row = int(self.rows[position])
        target, predictions = self._target(position), self.find(position, logits)
        rows = []
        for index in np.flatnonzero(self.known[position]):
            tips = self._masks.tips(row, int(self.columns[index]))
            for seed, prediction in zip(self.config.seeds, predictions, strict=True):
                rows.append(
                    {
                        **self.names,
                        "sample_id": self.samples[position],
                        "patient_id": self._patients[position],
                        "seed": seed,
                        "task": self.tasks[index],
                        **score_image(prediction[index], target[index], tips),
                    }
                )
        return rows

    @property
    def _masks(self) -> MaskTable:
        assert self.table is not None
        return self.table

    def _target(self, position: int) -> np.ndarray:
        """(K, H, W) bool."""
        return self._masks.read(int(self.rows[position]))[self.columns]

    @torch.no_grad()
    def write_overlays(self, folder: Path, scores: pa.Table) -> None:
        """A sheet for each task: test images that have it, by the Hausdorff distance of the first seed."""
        folder.mkdir(exist_ok=True)
        seed = self.config.seeds[0]
        place = {sample: position for position, sample in enumerate(self.samples)}
        rows: dict[str, list[dict[str, Any]]] = {task: [] for task in self.tasks}
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
            title = f"{task}, {self.names['arm']}, seed {seed}, {len(rows[task])} test images with it"
            sheet = {name: [self._case(found, index, row) for row in part] for name, part in cases.items()}
            write_sheet(folder / f"{task}.png", title, sheet)

    def _case(self, logits: dict[int, Tensor], index: int, row: dict[str, Any]) -> Case:
        target, prediction = self._target(row["position"]), self.find(row["position"], logits[row["position"]])
        image = self.dataset.read_image(int(self.rows[row["position"]]))
        caption = f"Hausdorff {row['hausdorff_px']:.0f} px  Dice {row['dice']:.2f}  clDice {row['cldice']:.2f}"
        return Case(image, target[index], prediction[index], caption)


def write_scores(rows: list[dict[str, Any]], images: HeldOutImages, out: Path) -> list[dict[str, Any]]:
    """Write segmentation.parquet, summary.csv and the overlays; returns the rows of the summary."""
    scores = pa.Table.from_pylist(rows, SEGMENTATION_SCHEMA).sort_by([(name, "ascending") for name in ("task", "seed")])
    pq.write_table(scores, out / "segmentation.parquet", compression="zstd")
    summary = summarise(scores)
    _write_csv(out / "summary.csv", [{"arm": images.names["arm"], **row} for row in summary])
    if images.config.num_overlays:
        images.write_overlays(out / "overlays", scores)
    return summary


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
