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
