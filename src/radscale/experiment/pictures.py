"""Pictures for the answer page: contact sheets of datasets and patch-similarity maps of encoders (paper, Figure 1)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from radscale.datasets import Dataset
    from radscale.models.encoder import Encoder

TILE_PX = 200
GAP_PX = 6


def square(image: np.ndarray, size_px: int) -> np.ndarray:
    """Centre crop of a (H, W) image, resized to (size_px, size_px)."""
    side = min(image.shape)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    crop = image[top : top + side, left : left + side]
    shrinks = side > size_px
    return np.asarray(cv2.resize(crop, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def contact_sheet(images: list[np.ndarray], num_columns: int) -> np.ndarray:
    """Tile (H, W) uint8 images on a dark sheet, row by row; returns (H', W') uint8."""
    num_rows = -(-len(images) // num_columns)
    step = TILE_PX + GAP_PX
    sheet = np.full((num_rows * step + GAP_PX, num_columns * step + GAP_PX), 24, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // num_columns) * step + GAP_PX, (index % num_columns) * step + GAP_PX
        sheet[top : top + TILE_PX, left : left + TILE_PX] = square(image, TILE_PX)
    return sheet


def write_contact_sheet(dataset: "Dataset", out: Path, *, title: str, num_images: int, seed: int) -> None:
    """Write `sheet.png` with randomly drawn images, frontal ones first, and its caption."""
    rng = np.random.default_rng(seed)
    views = np.array(dataset.manifest["view"].to_pylist())
    lateral = rng.permutation(np.flatnonzero(views == "lateral"))[: num_images // 4]
    frontal = rng.permutation(np.flatnonzero(views != "lateral"))[: num_images - len(lateral)]
    rows = [*frontal, *lateral]
    sheet = contact_sheet([dataset.read_image(int(row)) for row in rows], num_columns=6)
    cv2.imwrite(str(out / "sheet.png"), sheet)
    caption = f"{len(rows)} images drawn at random ({len(frontal)} frontal, {len(lateral)} lateral), centre crops."
    (out / "sheet.json").write_text(json.dumps({"title": title, "caption": caption}), encoding="utf-8")


Query = tuple[np.ndarray, tuple[float, float], str]
"""Image (H, W) uint8, point (y, x) as shares of it, and what stands there."""


def device_tips(archive: Path, num_images: int, rng: np.random.Generator) -> list[Query]:
    """Images of a phantom archive with the tip of a device, as shares of the picture, and what it is."""
    import csv

    from radscale.experiment.patch_similarity import read_grey

    with (archive / "truth" / "devices.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["type"] in ("CT", "NGT", "PICC", "IJ", "SGC")]
    files = {path.stem: path for path in (archive / "dicom").rglob("*.dcm")}
    chosen: list[Query] = []
    for index in rng.permutation(len(rows)):
        row = rows[index]
        image = read_grey(files[row["sop_uid"]])
        point = (float(row["tip_y_px"]) / image.shape[0], float(row["tip_x_px"]) / image.shape[1])
        if not all(0.08 < share < 0.92 for share in point):
            continue
        chosen.append((image, point, f"box at the tip of a device: {row['type']}, {row['side']}, {row['tip']}"))
        if len(chosen) == num_images:
            break
    return chosen


def fixed_points(dataset: "Dataset", point: tuple[float, float], num_images: int, rng: np.random.Generator) -> list[Query]:
    """Random test images with one and the same query point, given as shares of the centre square, which all encoders see."""
    rows = rng.permutation(dataset.select(split="test", view=("frontal", "unknown")))[:num_images]
    caption = f"box at {point[0]:.0%} from the top, {point[1]:.0%} from the left (no device positions are known here)"
    chosen: list[Query] = []
    for row in rows:
        image = dataset.read_image(int(row))
        side = min(image.shape)
        y, x = (0.5 + (share - 0.5) * side / length for share, length in zip(point, image.shape, strict=True))
        chosen.append((image, (y, x), caption))
    return chosen


def write_similarity(
    encoders: dict[str, "Encoder"],
    image: np.ndarray,
    point: tuple[float, float],
    stem: Path,
    *,
    title: str,
    caption: str,
) -> None:
    """Write the picture, the query point and the four similarity maps of every encoder.

    Args:
        encoders: by label.
        image: (H, W) uint8.
        point: (y, x) of the query as shares of the image.
        stem: path without suffix; `.png`, `.npz` (see `similarity_maps`) and `.json` are written.
        title: of the picture.
        caption: what stands at the query point.

    Raises:
        InputError: an encoder crops the point away.
    """
    from radscale.experiment.patch_similarity import shown, similarity_maps

    maps = similarity_maps(encoders, image, point)
    picture = shown(image)
    cv2.imwrite(str(stem.with_suffix(".png")), picture)
    np.savez_compressed(stem.with_suffix(".npz"), **maps)  # type: ignore[arg-type]
    pixel = [int(share * length) for share, length in zip(point, picture.shape, strict=True)]
    facts = {"title": title, "caption": caption, "point": pixel}
    stem.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
