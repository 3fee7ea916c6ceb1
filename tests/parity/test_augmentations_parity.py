"""Batched crops against PIL and torchvision's functions, one image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image

from radscale.pretraining.augmentations import CropPlan, apply_crops, blur_matrix


def plan(count: int, **changes: list[float]) -> CropPlan:
    values = {"top": 0.0, "left": 0.0, "height": 32.0, "width": 32.0, "flip": False, "blur_sigma": 0.0}
    values |= {"brightness": 1.0, "contrast": 1.0, "contrast_first": False}
    return CropPlan(**{name: torch.tensor(changes.get(name, [value] * count)) for name, value in values.items()})


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((3, 60, 50)).astype(np.float32)


@pytest.mark.parametrize("size_px", [14, 28, 56])
def test_crop_and_resize_are_pils(images: np.ndarray, size_px: int) -> None:
    boxes = [(3, 5, 40, 30), (0, 0, 60, 50), (20, 11, 17, 39)]  # top, left, height, width
    top, left, height, width = (list(map(float, column)) for column in zip(*boxes, strict=True))
    chosen = plan(3, top=top, left=left, height=height, width=width, flip=[False, True, False])
    actual = apply_crops(torch.from_numpy(images), chosen, size_px)[:, 0].numpy()
    for index, (y, x, h, w) in enumerate(boxes):
        crop = Image.fromarray(images[index][y : y + h, x : x + w])  # 32-bit float: no rounding on PIL's side
        expected = np.asarray(crop.resize((size_px, size_px), Image.Resampling.BICUBIC)).clip(0, 1)
        expected = expected[:, ::-1] if index == 1 else expected
        np.testing.assert_allclose(actual[index], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_scipys(images: np.ndarray, sigma: float) -> None:
    from scipy.ndimage import gaussian_filter

    image = images[0][:50]
    matrix = blur_matrix(torch.tensor([sigma]), 50)[0].numpy()
    expected = gaussian_filter(image.astype(np.float64), sigma, mode="nearest", radius=4)
    np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-5)


def test_brightness_and_contrast_are_pils(images: np.ndarray) -> None:
    from PIL import ImageEnhance

    levels = (images[0][:32, :32] * 255).astype(np.uint8)
    for first, brightness, contrast in ((True, 1.3, 0.7), (False, 0.8, 1.4)):
        chosen = plan(1, brightness=[brightness], contrast=[contrast], contrast_first=[first])
        actual = apply_crops(torch.from_numpy(levels / 255.0).float()[None], chosen, 32)[0, 0].numpy() * 255
        expected = Image.fromarray(levels)
        steps = [(ImageEnhance.Contrast, contrast), (ImageEnhance.Brightness, brightness)]
        for enhance, factor in steps if first else steps[::-1]:
            expected = enhance(expected).enhance(factor)
        assert np.abs(actual - np.asarray(expected)).max() < 2.5  # PIL rounds twice, and its mean to a whole level
