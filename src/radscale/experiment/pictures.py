"""Pictures for the answer page: contact sheets of datasets and patch-similarity maps of encoders (paper, Figure 1)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


Query = tuple[np.ndarray, tuple[int, int], str]


def device_tips(archive: Path, num_images: int, rng: np.random.Generator) -> list[Query]:
    """Images of a phantom archive with the tip of a device, in pixels of the square picture, and what it is."""
    import csv

    from radscale.datasets.dicom import read_dicom
    from radscale.datasets.resize import normalise_to_8bit

    with (archive / "truth" / "devices.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["type"] in ("CT", "NGT", "PICC", "IJ", "SGC")]
    files = {path.stem: path for path in (archive / "dicom").rglob("*.dcm")}
    chosen: list[Query] = []
    for index in rng.permutation(len(rows)):
        row = rows[index]
        pixels = read_dicom(files[row["sop_uid"]]).pixels
        image, size = normalise_to_8bit(pixels), pixels.shape[0]
        place = (float(row["tip_y_px"]) / size, float(row["tip_x_px"]) / size)
        if image is None or not all(0.08 < share < 0.92 for share in place):
            continue
        point = (int(place[0] * PICTURE_PX), int(place[1] * PICTURE_PX))
        chosen.append((image, point, f"box at the tip of a device: {row['type']}, {row['side']}, {row['tip']}"))
        if len(chosen) == num_images:
            break
    return chosen


def fixed_points(dataset: "Dataset", point: tuple[float, float], num_images: int, rng: np.random.Generator) -> list[Query]:
    """Random test images with one and the same query point, given as shares of the square."""
    rows = rng.permutation(dataset.select(split="test", view=("frontal", "unknown")))[:num_images]
    pixel = (int(point[0] * PICTURE_PX), int(point[1] * PICTURE_PX))
    caption = f"box at {point[0]:.0%} from the top, {point[1]:.0%} from the left (no device positions are known here)"
    return [(dataset.read_image(int(row)), pixel, caption) for row in rows]


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
    maps: dict[str, Any] = {}
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


def save_similarity(weights: Path, model: str | None, image: Path, point: tuple[float, float], out: Path) -> None:
    """One encoder, one image: the picture of Figure 1 as a file.

    Raises:
        InputError: weights or image that cannot be read.
    """
    from tempfile import TemporaryDirectory

    from radscale.datasets.dicom import read_dicom
    from radscale.datasets.exclusions import Excluded
    from radscale.datasets.images import read_image_file
    from radscale.datasets.resize import normalise_to_8bit
    from radscale.errors import InputError
    from radscale.html_report.figures import similarity_figure
    from radscale.training.open_weights import load_encoder

    try:
        pixels = read_dicom(image).pixels if image.suffix.lower() in (".dcm", ".dicom", "") else read_image_file(image)
    except Excluded as verdict:
        raise InputError(f"{image}: {verdict}") from None
    grey = normalise_to_8bit(pixels)
    if grey is None:
        raise InputError(f"{image}: all pixels have one value; there is nothing to compare")
    encoder = load_encoder(str(weights)) if model is None else load_encoder(model, weights)
    pixel = (int(point[0] * PICTURE_PX), int(point[1] * PICTURE_PX))
    with TemporaryDirectory() as folder:
        stem = Path(folder) / "similarity"
        write_similarity({weights.name: encoder}, grey, pixel, stem, title="", caption="")
        with np.load(stem.with_suffix(".npz"), allow_pickle=False) as maps:
            figure = similarity_figure(square(grey, PICTURE_PX), pixel, dict(maps))
    try:
        figure.savefig(out, bbox_inches="tight", dpi=150)
    except ValueError as error:
        raise InputError(f"--out {out}: {error}") from None
