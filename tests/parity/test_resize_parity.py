"""The paper's resize as TorchIO does it with SimpleITK: at most 2 grey levels and at least 60 dB apart, on 8-bit scale."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from radscale.datasets import resize_shorter_side

DATA = Path(os.environ.get("RADSCALE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def reference(image: np.ndarray, size_px: int) -> np.ndarray:
    height, width = image.shape
    scale = size_px / min(height, width)
    new_height = size_px if height <= width else round(height * scale)
    new_width = size_px if width <= height else round(width * scale)
    ky, kx = height / new_height, width / new_width
    picture = sitk.GetImageFromArray(image.astype(np.float32))
    blur = sitk.SmoothingRecursiveGaussianImageFilter()
    blur.SetSigma([float(np.sqrt((k * k - 1) / (8 * np.log(2)))) for k in (kx, ky)])
    origin, spacing = (0.5 * (kx - 1), 0.5 * (ky - 1)), (kx, ky)
    resized = sitk.Resample(
        blur.Execute(picture), (new_width, new_height), sitk.Transform(), sitk.sitkBSpline, origin, spacing,
        picture.GetDirection(), 0.0, sitk.sitkFloat32,
    )  # fmt: skip
    return sitk.GetArrayFromImage(resized)


def check(image: np.ndarray, size_px: int) -> None:
    expected, actual = reference(image, size_px), resize_shorter_side(image, size_px)
    scale = 255 / (expected.max() - expected.min())
    difference = (actual - expected) * scale
    assert np.abs(np.rint(actual * scale) - np.rint(expected * scale)).max() <= 2
    assert 10 * np.log10(255**2 / np.mean(difference**2)) >= 60


def test_a_made_12_bit_image() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.random((1500, 1210)), (0, 0), 9) * 40000 + rng.normal(0, 8, (1500, 1210))
    check(np.clip(image - image.min(), 0, 4095).astype(np.uint16), 518)


@pytest.mark.parametrize("shape", [(1955, 1841), (777, 1023), (519, 641), (1501, 523), (1999, 1201)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    """Primes, sides a pixel above the target, and shapes of real detectors."""
    rng = np.random.default_rng(shape[0])
    image = cv2.GaussianBlur(rng.random(shape), (0, 0), 7) * 40000 + rng.normal(0, 8, shape)
    check(np.clip(image - image.min(), 0, 4095).astype(np.uint16), 518)


@pytest.mark.shared_data
def test_real_x_rays() -> None:
    files = sorted((DATA / "realcxr" / "images").glob("*.jpg"))[:3]
    if not files:
        pytest.skip("no development X-rays (set RADSCALE_SHARED_DATA)")
    for file in files:
        check(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), 224)
