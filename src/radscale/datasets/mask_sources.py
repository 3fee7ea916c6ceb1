"""Masks from where they are published or made: RANZCR-CLiP, a phantom archive, any folder of mask files with a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from radscale.datasets.dataset import Dataset
from radscale.datasets.deidentification import pseudonym
from radscale.datasets.device_masks import DEVICE_TABLE, LINE_WIDTH_SHARE, RANZCR_TABLE, MarkedDevice, read_ranzcr
from radscale.datasets.exclusions import Excluded
from radscale.datasets.images import read_image_file
from radscale.datasets.masks import encode_mask, write_masks
from radscale.datasets.tables import read_csv
from radscale.errors import InputError

RANZCR_TASKS = {"ETT": "ETT", "NGT": "NGT", "CVC": "CVC", "Swan Ganz Catheter": "SGC"}
"""The four device types of the paper (section 5.2), by their names in the data set."""
MASK_COVERAGE = 0.5
"""A pixel of a resized mask belongs to it from this share of its area."""
EDGE_TOLERANCE = 0.01
"""Points up to this share of the shorter side outside the image are drawn at its edge: annotators slip."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class AnnotatedImage:
    """What is known about one image."""

    key: str
    """What its sample id was made from: SOP Instance UID, or the image's path in the table of its folder."""
    devices: tuple[MarkedDevice, ...]
    absent: frozenset[str]
    """Types that were looked for and are not there. Types in neither are unknown."""
    path: Path | None = None
    """The image, where its size is needed to place lines."""


def convert_masks(
    source: Path,
    dataset: Dataset,
    out: Path,
    *,
    secret: bytes,
    line_width_share: float = LINE_WIDTH_SHARE,
    skip_outside: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write the mask table of a dataset.

    Args:
        source: a phantom archive (truth/devices.csv), RANZCR-CLiP (train_annotations.csv), or a folder with devices.csv.
        dataset: made from the same source; masks get the size of its images.
        out: Parquet file.
        secret: key of the dataset's pseudonyms.
        line_width_share: width of drawn lines, as a share of the image's shorter side.
        skip_outside: leave out lines with a point outside their image (their type is then unknown there).

    Returns:
        Counts: images with masks, images that the dataset does not have (excluded there), lines left out; and per task drawn
        and absent.

    Raises:
        InputError: a source of no known kind, nothing in common with the dataset, a line outside its image, a mask of another
            shape than its image.
    """
    if not 0 < line_width_share < 0.5:
        raise InputError(f"line width of {line_width_share} of the image: give a share above 0 and below 0.5, e.g. 0.01")
    images = read_annotations(source)
    ids = [pseudonym(secret, "sample", image.key) for image in images]
    found = pc.index_in(pa.array(ids, pa.string()), value_set=dataset.column("sample_id").combine_chunks()).to_pylist()
    if all(row is None for row in found):
        raise InputError(
            f"{source}: none of its {len(images):,} images is in the dataset; give the source and the key that it was made with"
        )
    heights, widths = dataset.sizes_px()
    rows: list[dict[str, object]] = []
    outside: list[str] = []
    for done, (image, sample, row) in enumerate(zip(images, ids, found, strict=True), start=1):
        if row is None:
            continue
        shape = (int(heights[row]), int(widths[row]))
        masks, tips, doubtful = _draw(image, shape, line_width_share, outside)
        rows += [
            {"sample_id": sample, "task": task, "png": encode_mask(mask) if mask.any() else None, "tips": tips[task] or None}
            for task, mask in masks.items()
            if task not in doubtful
        ]
        rows += [{"sample_id": sample, "task": task, "png": None, "tips": None} for task in image.absent - set(masks)]
        if progress:
            progress(done, len(images), "images")
    if outside and not skip_outside:
        raise InputError(
            f"{len(outside):,} lines leave their image (first: {outside[0]}); correct them, or leave them out with "
            "--skip-outside"
        )
    write_masks(out, rows)
    tasks = sorted({str(row["task"]) for row in rows})
    return {
        "images": len({row["sample_id"] for row in rows}),
        "images_not_in_the_dataset": sum(row is None for row in found),
        "lines_left_out": len(outside),
        "tasks": {
            task: {
                "drawn": sum(row["task"] == task and row["png"] is not None for row in rows),
                "absent": sum(row["task"] == task and row["png"] is None for row in rows),
            }
            for task in tasks
        },
    }


def read_annotations(source: Path) -> list[AnnotatedImage]:
    """The annotated images of a folder of a known kind.

    Raises:
        InputError: of no known kind, or with nothing in it.
    """
    for table, reader in ((f"truth/{DEVICE_TABLE}", _phantom), (RANZCR_TABLE, _ranzcr), (DEVICE_TABLE, _device_table)):
        if (source / table).exists():
            images = reader(source)
            if not images:
                raise InputError(f"{source}: {table} has no rows; there is nothing to draw")
            return images
    raise InputError(
        f"{source}: no masks of a known kind; give a folder with {DEVICE_TABLE} (docs/data_format.md, section 6), "
        f"RANZCR-CLiP ({RANZCR_TABLE}) or a phantom archive"
    )


def _draw(
    image: AnnotatedImage, shape: tuple[int, int], line_width_share: float, outside: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, list[list[float]]], set[str]]:
    """Masks (H, W) and tips by task, and the tasks of which a line was left out; adds to `outside` what leaves the image."""
    masks: dict[str, np.ndarray] = {}
    tips: dict[str, list[list[float]]] = {}
    doubtful: set[str] = set()
    size = _size(image.path) if image.path is not None else None
    for device in image.devices:
        if device.course is not None:
            assert size is not None
            slack = EDGE_TOLERANCE * min(size)
            beyond = ((device.course < -slack) | (device.course > np.array(size) + slack)).any(axis=1)
            if beyond.any():
                y, x = device.course[np.argmax(beyond)]
                outside.append(f"row {device.row}, point [{x:g}, {y:g}] in an image of {size[1]} x {size[0]} px")
                doubtful.add(device.kind)
                continue
            scale = np.array(shape) / size
            mask = replace(device, course=np.clip(device.course * scale, 0, np.array(shape) - 1)).mask(shape, line_width_share)
        else:
            drawn = device.mask(shape)
            scale = np.array(shape) / drawn.shape
            # The dataset keeps the aspect ratio, up to a rounded pixel.
            if abs(drawn.shape[0] * scale[1] - shape[0]) > 1 + scale.max():
                raise InputError(
                    f"mask of row {device.row}: {drawn.shape[1]} x {drawn.shape[0]} px does not have the shape of its image "
                    f"({shape[1]} x {shape[0]} px in the dataset); give a mask of the image's own size"
                )
            shrunk = cv2.resize(drawn.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
            mask = shrunk >= MASK_COVERAGE
        masks[device.kind] = masks.get(device.kind, np.zeros(shape, bool)) | mask
        tips.setdefault(device.kind, []).extend([float(y * scale[0]), float(x * scale[1])] for y, x in device.tips)
    return masks, tips, doubtful


def _size(path: Path) -> tuple[int, int]:
    try:
        height, width = read_image_file(path).shape
    except Excluded as verdict:
        raise InputError(f"{path.name}: {verdict}; its lines cannot be placed, leave it out of {RANZCR_TABLE}") from None
    return height, width


def _ranzcr(folder: Path) -> list[AnnotatedImage]:
    """A type is absent where `train.csv` says so (all its columns 0), or without that table where others are drawn.

    Types that `train.csv` calls present and nobody drew are unknown.
    """
    lines = {image.path.stem: image for image in read_ranzcr(folder)}
    unknown = sorted({d.kind for image in lines.values() for d in image.devices} - set(RANZCR_TASKS))
    if unknown:
        raise InputError(
            f"{RANZCR_TABLE}: label '{unknown[0]}'; known are {', '.join(RANZCR_TASKS)}, each with ' - ' and a state"
        )
    stated: dict[str, Mapping[str, str]] = {}
    if (folder / "train.csv").exists():
        stated = {row["StudyInstanceUID"].strip(): row for row in read_csv(folder / "train.csv").rows}
    images = []
    for uid in sorted(lines.keys() | stated.keys()):
        devices = lines[uid].devices if uid in lines else ()
        drawn = {RANZCR_TASKS[device.kind] for device in devices}
        present = {
            task
            for name, task in RANZCR_TASKS.items()
            if any(value.strip() == "1" for column, value in stated.get(uid, {}).items() if column.startswith(name))
        }
        images.append(
            AnnotatedImage(
                key=f"train/{uid}.jpg",
                devices=tuple(replace(device, kind=RANZCR_TASKS[device.kind]) for device in devices),
                absent=frozenset(RANZCR_TASKS.values()) - drawn - present,
                path=folder / "train" / f"{uid}.jpg" if devices else None,
            )
        )
    return images


def _device_table(folder: Path) -> list[AnnotatedImage]:
    """Columns image and mask (relative paths), optionally mask_value, device, tip_x_px, tip_y_px.

    An image in the table is completely annotated: types without a row are absent. A row with an empty mask says only that.
    """
    table = read_csv(folder / DEVICE_TABLE)
    table.require(("image", "mask"), DEVICE_TABLE, DEVICE_TABLE)
    return _by_image(
        [
            (row["image"].strip(), _device(row, number, folder / row["mask"].strip()) if row["mask"].strip() else None)
            for number, row in enumerate(table.rows, start=1)
        ]
    )


def _phantom(archive: Path) -> list[AnnotatedImage]:
    """Every frontal image has a mask file; devices that others hide or that lie outside count as absent."""
    table = read_csv(archive / "truth" / DEVICE_TABLE)
    table.require(("sop_uid", "type", "mask_value", "tip_x_px", "tip_y_px"), DEVICE_TABLE, DEVICE_TABLE)
    named: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for number, row in enumerate(table.rows, start=1):
        named.setdefault(row["sop_uid"], []).append((number, row))
    found: list[tuple[str, MarkedDevice | None]] = []
    for path in sorted((archive / "truth" / "masks").glob("*.png")):
        rows = named.get(path.stem, [])
        visible = set(np.unique(read_image_file(path)).tolist()) if rows else set()
        found.append((path.stem, None))
        found += [
            (path.stem, _device({**row, "device": row["type"]}, number, path))
            for number, row in rows
            if int(row["mask_value"]) in visible
        ]
    return _by_image(found)


def _by_image(devices: list[tuple[str, MarkedDevice | None]]) -> list[AnnotatedImage]:
    kinds = {device.kind for _, device in devices if device is not None}
    images: dict[str, tuple[MarkedDevice, ...]] = {}
    for key, device in devices:
        images[key] = (*images.get(key, ()), *([device] if device is not None else []))
    return [AnnotatedImage(key, own, frozenset(kinds - {device.kind for device in own})) for key, own in images.items()]


def _device(row: Mapping[str, str], number: int, mask_file: Path) -> MarkedDevice:
    value, x, y = (_number(row, name, number) for name in ("mask_value", "tip_x_px", "tip_y_px"))
    return MarkedDevice(
        row=number,
        kind=row.get("device", "").strip() or "device",
        tips=((y, x),) if y is not None and x is not None else (),
        mask_file=mask_file,
        mask_value=None if value is None else int(value),
    )


def _number(row: Mapping[str, str], column: str, number: int) -> float | None:
    text = row.get(column, "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        value = float("nan")
    if value is not None and not np.isfinite(value):
        raise InputError(f"{DEVICE_TABLE}, row {number}: {column} is not a number; correct the row")
    return value
