"""Centre lines, and the metrics of tubes that are made from them."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from radscale.metrics import centreline_dice, component_error, skeletonise, tip_distance
from radscale.metrics.skeleton import line_ends

EIGHT = np.ones((3, 3), bool)


def random_tubes(seed: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    canvas = np.zeros((90, 110), np.uint8)
    for _ in range(3):
        cv2.polylines(canvas, [rng.integers(5, 85, (4, 2)).astype(np.int32)], False, 1, width)
    return canvas > 0


def line(shape: tuple[int, int], *points: tuple[int, int], width: int = 1) -> np.ndarray:
    """Points (y, x)."""
    canvas = np.zeros(shape, np.uint8)
    cv2.polylines(canvas, [np.array(points, np.int32)[:, ::-1]], False, 1, width)
    return canvas > 0


@pytest.mark.parametrize("seed", range(12))
def test_a_skeleton_is_thin_and_has_the_pieces_and_holes_of_its_mask(seed: int) -> None:
    mask = random_tubes(seed, 1 + seed)
    skeleton = skeletonise(mask)
    assert not (skeleton & ~mask).any()
    for invert in (False, True):  # pieces by eight neighbours, holes by four
        parts = [np.pad(m, 1) ^ invert for m in (mask, skeleton)]
        assert len({ndimage.label(part, None if invert else EIGHT)[1] for part in parts}) == 1
    # One pixel wide but for crossings, where nothing can go without parting or opening something.
    blocks = skeleton[1:, 1:] & skeleton[:-1, 1:] & skeleton[1:, :-1] & skeleton[:-1, :-1]
    assert blocks.sum() <= 3


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("end", [(20, 50), (50, 20), (10, 55), (50, 50)])
def test_a_line_keeps_its_length_whatever_its_direction_and_width(width: int, end: tuple[int, int]) -> None:
    mask = line((70, 70), (10, 10), end, width=width)
    ends = line_ends(skeletonise(mask))
    assert len(ends) == 2
    assert np.abs(ends - [(10, 10), end]).max() <= width + 1
    assert ndimage.distance_transform_edt(~skeletonise(mask))[mask].max() <= width + 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nothing_that_is_there_loses_its_skeleton(size: int) -> None:
    mask = np.zeros((9, 9), bool)
    mask[2 : 2 + size, 3 : 3 + size] = True
    mask[7, 7] = True
    assert ndimage.label(skeletonise(mask), EIGHT)[1] == 2
    assert not skeletonise(np.zeros((4, 4), bool)).any()


def test_ends_of_a_stepped_line_are_its_two_ends() -> None:
    ends = line_ends(skeletonise(line((60, 60), (5, 5), (20, 50), width=3)))
    assert len(ends) == 2
    assert np.abs(ends - [(5, 5), (20, 50)]).max() <= 2
    ring = np.zeros((40, 40), np.uint8)
    cv2.circle(ring, (20, 20), 12, 1, 3)
    skeleton = skeletonise(ring)
    assert len(line_ends(skeleton)) == skeleton.sum(), "a closed curve has no end; any pixel may be the nearest"


def test_centreline_dice_forgives_width_and_counts_length() -> None:
    thin, thick = line((60, 60), (5, 30), (54, 30)), line((60, 60), (5, 30), (54, 30), width=9)
    assert centreline_dice(thin, thick) == centreline_dice(thick, thin) == pytest.approx(1)
    half = line((60, 60), (5, 30), (29, 30))
    # All of the half line is right, half (25 of 50 px) of the target is found: 2 / (1 + 2).
    assert centreline_dice(half, thin) == pytest.approx(2 / 3)
    assert centreline_dice(line((60, 60), (5, 10), (54, 10)), thin) == 0
    empty = np.zeros((60, 60), bool)
    assert centreline_dice(empty, thin) == centreline_dice(thin, empty) == 0
    assert np.isnan(centreline_dice(empty, empty))


def test_tip_distance_is_from_the_nearest_end_and_not_from_the_line() -> None:
    prediction = line((100, 100), (10, 50), (60, 50))
    assert tip_distance(prediction, [(80, 50)]) == pytest.approx(20)
    assert tip_distance(prediction, [(35, 50)]) == pytest.approx(25), "on the line, but 25 px from both ends"
    assert tip_distance(prediction, [(80, 50), (10, 50)]) == pytest.approx(10)
    assert tip_distance(np.zeros((30, 40), bool), [(1, 1)]) == pytest.approx(50)
    assert np.isnan(tip_distance(prediction, np.zeros((0, 2))))


def test_component_error_counts_pieces() -> None:
    whole = line((50, 50), (2, 2), (40, 40), width=3)
    broken = whole.copy()
    broken[10:13] = broken[25:28] = False
    assert component_error(broken, whole) == component_error(whole, broken) == 2
    assert component_error(whole, whole) == 0
    assert component_error(np.zeros_like(whole), whole) == 1
    assert component_error(np.eye(5, dtype=bool), np.eye(5, dtype=bool)[::-1]) == 0, "corners touch"
