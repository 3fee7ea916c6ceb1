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
PICTURE_PX = 320


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


def write_similarity(
    encoders: dict[str, "Encoder"],
    image: np.ndarray,
    point: tuple[int, int],
    stem: Path,
    *,
    title: str,
    caption: str,
) -> None:
    """Write the picture, the query point and the four similarity maps of every encoder.

    Args:
        encoders: by label.
        image: (H, W) uint8.
        point: (row, column) of the query patch, in pixels of the square picture.
        stem: path without suffix; `.png`, `.npz` and `.json` are written.
        title: of the picture.
        caption: what stands at the query point.
    """
    import torch

    from radscale.models.similarity import patch_similarity

    picture = square(image, PICTURE_PX)
    maps = {}
    for label, encoder in encoders.items():
        with torch.inference_mode():
            features = encoder.forward_features(encoder.preprocess([picture]))
        for layer, feature_map in enumerate(features):
            height, width = feature_map.shape[-2:]
            row, column = point[0] * height // PICTURE_PX, point[1] * width // PICTURE_PX
            maps[f"{label}|{layer}"] = patch_similarity(feature_map[0], row, column).numpy().astype(np.float32)
    cv2.imwrite(str(stem.with_suffix(".png")), picture)
    np.savez_compressed(stem.with_suffix(".npz"), **maps)
    facts = {"title": title, "caption": caption, "point": list(point)}
    stem.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
