"""Apply trained heads to other images: the masks that they find, and their metrics where masks are known."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from radscale.datasets import Dataset
from radscale.datasets.manifest import MASK_SCHEMA
from radscale.datasets.masks import MaskTable, encode_mask
from radscale.errors import InputError
from radscale.segmentation.config import SegmentationConfig
from radscale.segmentation.held_out import HeldOutImages, write_scores
from radscale.segmentation.saved_heads import read_heads
from radscale.segmentation.segment import as_seen, name_columns, open_encoder
from radscale.training.devices import choose_device
from radscale.training.features import ComputedFeatures, Progress

PREDICTED = "masks.parquet"
MASKS_AT_ONCE = 1024
"""So many masks are held before they are written."""


def apply_heads(
    config: SegmentationConfig,
    *,
    heads: Path,
    encoder: Path | tuple[str, Path],
    dataset: Path,
    out: Path,
    masks: Path | None = None,
    split: str = "test",
    encoder_name: str | None = None,
    device: str = "auto",
    num_workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Segment the images of a dataset with heads that `run_segmentation` kept; nothing is trained.

    Args:
        config: views, threshold, overlays and tasks (None: those of the heads); seeds and geometry are those of the heads.
        heads: folder that `radscale segment` made, or its heads.safetensors.
        encoder: the one that the heads were trained on, as in `run_segmentation`.
        dataset: folder (docs/data_format.md, section 1); its images may be of any size.
        out: folder for masks.parquet (section 6): what is found, by the mean logit of all seeds; created if absent. With
            `masks` also segmentation.parquet, summary.csv and overlays/TASK.png, as in `run_segmentation`.
        masks: mask table of the dataset. Only images with a known mask are then used.
        split: "train", "validation", "test" or "all". Images that heads were trained on say nothing about them.

    Returns:
        Literals: arm, num_images, tasks -> num_found (images in which something is found); with `masks` also summary.

    Raises:
        InputError: heads of another encoder or geometry, no image of that split and those views, tasks that the heads or the
            masks do not have, an encoder that gives no numbers.
    """
    began = time.perf_counter()
    run_device = choose_device(device)
    saved = read_heads(heads)
    config = saved.settings(config)
    data = Dataset(dataset)
    data.check_reviewed()
    table = MaskTable(masks, data) if masks is not None else None
    tasks = list(config.tasks or ())
    rows = data.select(split=None if split == "all" else split, view=config.views)
    known, columns = np.zeros((len(rows), len(tasks)), bool), np.arange(len(tasks))
    if table is not None:
        missing = [task for task in tasks if task not in table.tasks]
        if missing:
            raise InputError(
                f"task '{missing[0]}' of the heads is not in the mask table, which has {', '.join(table.tasks) or 'no rows'}; "
                "choose tasks with --task, or leave --masks out"
            )
        columns = np.array([table.tasks.index(task) for task in tasks])
        known = ~np.isnan(table.presence(rows)[:, columns])
        rows, known = rows[known.any(axis=1)], known[known.any(axis=1)]
    if not len(rows):
        masked = " with a known mask" if table is not None else ""
        raise InputError(
            f"split '{split}': no image{masked} is {' or '.join(config.views)}; choose another --split, or set `views`"
        )
    model = open_encoder(encoder, run_device)
    saved.check_encoder(model)
    model.preprocessing = as_seen(model, config)
    head = saved.head(tasks).to(run_device)
    images = HeldOutImages(
        config=config,
        dataset=data,
        table=table,
        rows=rows,
        known=known,
        columns=columns,
        tasks=tasks,
        encoder=model,
        head=head,
        features=ComputedFeatures(
            data,
            rows,
            model,
            grid=head.shape.grid,
            batch_size=config.image_batch_size,
            device=run_device,
            num_workers=num_workers,
        ),
        names=name_columns(config, encoder, encoder_name),
    )

    def find(item: tuple[int, Tensor]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        position, logits = item
        masks = images.find(position, logits.mean(0))
        drawn = [
            {
                "sample_id": images.samples[position],
                "task": task,
                "png": encode_mask(mask) if mask.any() else None,
                "tips": None,
            }
            for task, mask in zip(tasks, masks, strict=True)
        ]
        return drawn, images.measure(item) if table is not None else []

    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    scored: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(out / PREDICTED, MASK_SCHEMA, compression="zstd") as writer:
        for done, (drawn, measured) in enumerate(images.in_order(find, num_workers), start=1):
            counts.update(row["task"] for row in drawn if row["png"] is not None)
            scored += measured
            waiting += drawn
            if len(waiting) >= MASKS_AT_ONCE or done == len(rows):
                writer.write_table(pa.Table.from_pylist(waiting, schema=MASK_SCHEMA))
                waiting = []
            if progress:
                progress(done, len(rows), "images")
    facts: dict[str, Any] = {
        "arm": images.names["arm"],
        "num_images": len(rows),
        "tasks": {task: {"num_found": counts[task]} for task in tasks},
    }
    if table is not None:
        facts["summary"] = write_scores(scored, images, out)
    return {**facts, "seconds": round(time.perf_counter() - began, 3)}
