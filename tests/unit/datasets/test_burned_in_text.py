"""Text in pixels: planted lines are found, in fonts and images that the detector was not trained on."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from radscale.benchmarks.planted_text import is_hit, plant_lines
from radscale.datasets.burned_in_text import find_text


def recall(images: list[np.ndarray], seed: int, **options: object) -> tuple[float, float]:
    """Share of the planted lines that are hidden; share of the images' area in boxes that hide no line."""
    rng = np.random.default_rng(seed)
    hits, areas = [], []
    for image in images:
        planted, lines = plant_lines(image, rng, **options)  # type: ignore[arg-type]
        boxes = find_text(planted)
        hits += [is_hit(line, boxes) for line in lines]
        covered = np.zeros(image.shape, bool)
        for left, top, right, bottom in boxes.round().astype(int):
            if not any(is_hit(line, np.array([[left - 2, top - 2, right + 2, bottom + 2]])) for line in lines):
                covered[top:bottom, left:right] = True
        areas.append(covered.mean())
    assert len(hits) > 2 * len(images)
    return float(np.mean(hits)), float(np.mean(areas))


def made_image(seed: int) -> np.ndarray:
    """(1500, 1250) from 0 to 255: a smooth body on black, with the grain of a detector."""
    rng = np.random.default_rng(seed)
    body = cv2.resize(rng.random((9, 8)).astype(np.float32), (1250, 1500), interpolation=cv2.INTER_CUBIC) * 150 + 20
    body[:, :150] = 0
    return np.clip(body + rng.normal(0, 1.5, body.shape), 0, 255).astype(np.float32)


def test_lines_on_made_images_are_found() -> None:
    found, area = recall([made_image(seed) for seed in range(8)], 0, contrasts=(32, 64, 128))
    assert found >= 0.95
    assert area < 0.01


@pytest.mark.skipif("RADSCALE_SHARED_DATA" not in os.environ, reason="needs RADSCALE_SHARED_DATA")
def test_lines_on_real_xrays_are_found() -> None:
    """Measured on 277 of these: docs/burned_in_text.md."""
    files = sorted((Path(os.environ["RADSCALE_SHARED_DATA"]) / "realcxr" / "images").iterdir())[::12]
    small = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]
    images = [cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC) for image in small]
    found, area = recall(images, 1)
    assert found >= 0.94
    assert area < 0.02


def test_the_scale_of_the_values_does_not_matter() -> None:
    planted, lines = plant_lines(made_image(3), np.random.default_rng(3), contrasts=(128,))
    boxes = find_text(planted)
    assert all(is_hit(line, boxes) for line in lines)
    other = find_text((planted * 16 - 1000).astype(np.float64))
    assert other.shape == boxes.shape
    np.testing.assert_allclose(other, boxes, atol=5)


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (40, 8), (33, 517), (1024, 1024), (64, 1500)])
def test_any_shape_is_searched_and_boxes_lie_inside(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)
    boxes = find_text(image)
    assert boxes.shape[1:] == (4,)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= shape[1]).all()
    assert (boxes[:, 3] <= shape[0]).all()


def test_nothing_is_found_where_nothing_is() -> None:
    assert len(find_text(np.full((300, 200), 7, np.int16))) == 0
    assert len(find_text(cv2.GaussianBlur(np.random.default_rng(1).random((600, 500)), (0, 0), 20))) == 0


def test_threads_find_what_one_finds() -> None:
    images = [plant_lines(made_image(seed)[:600, :500], np.random.default_rng(seed))[0] for seed in range(6)]
    alone = [find_text(image) for image in images]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(find_text, images))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
