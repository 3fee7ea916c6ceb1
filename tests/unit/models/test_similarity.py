"""Where the patches of an encoder lie in an image, whatever its shape and the encoder's preprocessing."""

import numpy as np
import pytest
import torch

from radscale.models import Preprocessing, patch_at, visible_box

SQUASH = Preprocessing(image_size_px=64, resize="squash")
CROP = Preprocessing(image_size_px=64)
INNER = Preprocessing(image_size_px=64, crop_fraction=0.875)


@pytest.mark.parametrize("shape", [(200, 200), (160, 240), (300, 210), (123, 377)])
@pytest.mark.parametrize("preprocessing", [SQUASH, CROP, INNER], ids=["squash", "crop", "inner crop"])
def test_a_bright_dot_is_found_where_the_box_says(preprocessing: Preprocessing, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    box = visible_box(preprocessing, shape)
    for _ in range(5):
        # A dot as large as a pixel of the encoder's input, away from the edges of what it sees.
        y, x = box[0] + box[2] * rng.uniform(0.1, 0.9), box[1] + box[3] * rng.uniform(0.1, 0.9)
        half = max(shape) / 64
        image = np.zeros(shape, np.uint8)
        image[int(y - half) : int(y + half) + 1, int(x - half) : int(x + half) + 1] = 255
        pixels = preprocessing([image])[0, 0]
        weights = pixels - pixels.min()
        rows, columns = torch.arange(64) + 0.5, torch.arange(64) + 0.5
        seen = float((weights.sum(1) * rows).sum() / weights.sum()), float((weights.sum(0) * columns).sum() / weights.sum())
        expected = (y + 0.5 - box[0]) / box[2] * 64, (x + 0.5 - box[1]) / box[3] * 64
        assert seen == pytest.approx(expected, abs=0.75), "within a pixel of the encoder's input"
        assert patch_at((y, x), box, (8, 8)) == (int((y - box[0]) / box[2] * 8), int((x - box[1]) / box[3] * 8))


def test_what_is_cropped_away_has_no_patch() -> None:
    box = visible_box(CROP, (100, 200))
    assert box == (0.0, 50.0, 100.0, 100.0)
    assert patch_at((50, 49.9), box, (4, 4)) is None
    assert patch_at((50, 50.0), box, (4, 4)) == (2, 0)
    assert patch_at((99.99, 149.99), box, (4, 4)) == (3, 3)
    assert patch_at((50, 150.0), box, (4, 4)) is None
    assert patch_at((50, 10), visible_box(SQUASH, (100, 200)), (4, 4)) == (2, 0)
