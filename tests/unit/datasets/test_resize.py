import numpy as np
import pytest
from scipy import ndimage

from radscale.datasets import resize_shorter_side
from radscale.errors import InputError


def test_the_aspect_ratio_is_kept_and_the_longer_side_rounded() -> None:
    image = np.random.default_rng(0).random((200, 301))
    assert resize_shorter_side(image, 100).shape == (100, 150)
    assert resize_shorter_side(image.T, 100).shape == (150, 100)
    assert resize_shorter_side(image, 100).dtype == np.float32


def test_up_sampling_is_scipys_cubic_spline() -> None:
    image = np.random.default_rng(1).random((20, 20))
    centres = (np.arange(50) + 0.5) * 0.4 - 0.5
    grid = np.meshgrid(centres, centres, indexing="ij")
    expected = ndimage.map_coordinates(image, grid, order=3, mode="mirror")
    np.testing.assert_allclose(resize_shorter_side(image, 50), expected, atol=2e-6)


def test_units_are_those_of_the_input() -> None:
    image = np.full((64, 96), 1234, np.uint16)
    np.testing.assert_allclose(resize_shorter_side(image, 32), 1234, rtol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((3, 4, 5)), np.zeros((1, 50)), np.array([["a", "b"], ["c", "d"]])])
def test_what_cannot_be_resized_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError):
        resize_shorter_side(image, 20)


def test_pixels_twice_as_high_as_wide_make_a_picture_twice_as_high() -> None:
    def wave(height: int, width: int) -> np.ndarray:
        """One smooth picture of 2 by 1, whatever the pixels that it is sampled with."""
        y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        return np.cos(4 * np.pi * y)[:, None] * np.cos(2 * np.pi * x)[None, :]

    inner = np.s_[12:-12, 12:-12]  # beyond the edge the spline mirrors, the wave goes on
    for aspect, shape in ((2.0, (120, 60)), (0.5, (60, 120))):
        resized = resize_shorter_side(wave(60, 60), 60, pixel_aspect=aspect)
        np.testing.assert_allclose(resized[inner], wave(*shape)[inner], atol=1e-4)
    assert resize_shorter_side(wave(64, 100), 32, pixel_aspect=2.0).shape == (41, 32)
