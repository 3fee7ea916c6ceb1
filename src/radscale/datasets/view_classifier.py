"""Frontal or lateral, from the pixels, where a tag does not say it or says it wrongly (docs/views.md).

A linear score on edge directions and on the symmetry of left and right, neither of which depends on brightness, on contrast, or
on which side the patient faces. It learned laterals from the phantom and frontals from the phantom and from real X-rays.
"""

from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

import cv2
import numpy as np

FromPixels = Literal["never", "absent", "wrong"]
WEIGHTS = "view_classifier.npz"
SIDE_PX = 64
NUM_DIRECTIONS, NUM_CELLS = 8, 6
EDGE_FLOOR = 5.0
"""Where edges are weaker than this in grey levels, their directions say little."""
NUM_TILES = 12
NUM_COLUMNS = 16
SHIFTS_PX = range(-12, 13, 2)
"""In which the best axis of symmetry is looked for."""
BORDER_PX = 8


class ViewGuess(NamedTuple):
    """What the pixels say."""

    view: str
    """frontal, lateral, or unsure."""
    score: float
    """Larger is more lateral."""


def guess_view(image: np.ndarray) -> ViewGuess:
    """View of an (H, W) uint8 X-ray, upright and brighter where tissue is denser."""
    weights = _weights()
    features = (view_features(image) - weights["mean"]) / weights["scale"]
    score = float(features @ weights["coefficients"] + weights["intercept"])
    frontal_below, lateral_above = (float(limit) for limit in weights["limits"])
    return ViewGuess("lateral" if score > lateral_above else "frontal" if score < frontal_below else "unsure", score)


def decide_view(image: np.ndarray, tag: str, owner: str = "unknown", from_pixels: FromPixels = "absent") -> tuple[str, str]:
    """View of an image and who says so.

    Args:
        image: (H, W) uint8.
        tag: what its header or table says: frontal, lateral or unknown.
        owner: view of all images that do not say it, where their owner knows; else unknown.
        from_pixels: see `IngestConfig.view_from_pixels`.

    Returns:
        frontal, lateral or unknown; and `tag`, `owner`, `pixels`, `nobody`, or `contradicted`: a tag that pixels contradict.
    """
    if tag == "unknown" and owner != "unknown":
        return owner, "owner"
    guess = "unsure" if from_pixels == "never" else guess_view(image).view
    if tag == "unknown":
        return ("unknown", "nobody") if guess == "unsure" else (guess, "pixels")
    if guess in ("unsure", tag):
        return tag, "tag"
    return (guess, "pixels") if from_pixels == "wrong" else (tag, "contradicted")


def view_features(image: np.ndarray) -> np.ndarray:
    """(898,) float32; a mirrored image has the same.

    Args:
        image: (H, W) uint8.
    """
    small = cv2.equalizeHist(cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
    mirrored = np.ascontiguousarray(small[:, ::-1])
    grey = small.astype(np.float32) / 255
    edges, edges_mirrored = edge_directions(small), edge_directions(mirrored)
    tiles = cv2.resize(grey, (NUM_TILES, NUM_TILES), interpolation=cv2.INTER_AREA)
    tiles = (tiles - tiles.mean()) / (tiles.std() + 1e-3)
    lungs = grey[SIDE_PX // 4 : -SIDE_PX // 8].mean(0)
    profile = cv2.resize(lungs[None], (NUM_COLUMNS, 1), interpolation=cv2.INTER_AREA).ravel()
    parts = [
        (edges + edges_mirrored) / 2,
        np.abs(edges - edges_mirrored),
        [_best_symmetry(grey), np.abs(tiles - tiles[:, ::-1]).mean()],
        (tiles + tiles[:, ::-1]) / 2,
        np.abs(tiles - tiles[:, ::-1]),
        np.sort(np.stack([profile, profile[::-1]]), axis=0),
    ]
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


def edge_directions(image: np.ndarray) -> np.ndarray:
    """(6, 6, 8) share of each direction of edges in each cell of an image (histograms of oriented gradients)."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    strength, direction = np.hypot(across, down), np.arctan2(down, across) % np.pi / np.pi * NUM_DIRECTIONS
    cells = []
    for number in range(NUM_DIRECTIONS):
        away = np.abs(direction - number)
        share = np.maximum(0, 1 - np.minimum(away, NUM_DIRECTIONS - away))
        cells.append(cv2.resize(strength * share, (NUM_CELLS, NUM_CELLS), interpolation=cv2.INTER_AREA))
    histograms = np.stack(cells, axis=-1)
    return np.asarray(histograms / (np.linalg.norm(histograms, axis=-1, keepdims=True) + EDGE_FLOOR))


def _best_symmetry(grey: np.ndarray) -> float:
    """Largest correlation of an image with its mirror image over shifts."""
    inner = (slice(None), slice(BORDER_PX, -BORDER_PX))
    own = grey[inner] - grey[inner].mean()
    best = -1.0
    for shift in SHIFTS_PX:
        other = np.roll(grey[:, ::-1], shift, axis=1)[inner]
        other = other - other.mean()
        best = max(best, float((own * other).sum() / (np.linalg.norm(own) * np.linalg.norm(other) + 1e-6)))
    return best


@cache
def _weights() -> dict[str, np.ndarray]:
    with files("radscale.datasets").joinpath(WEIGHTS).open("rb") as file, np.load(file) as arrays:
        return dict(arrays)
