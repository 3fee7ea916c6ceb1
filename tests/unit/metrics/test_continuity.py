"""Curve continuity: maps whose score is known by hand, its properties, and masks on patch grids."""

import math

import numpy as np
import pytest

from radscale.errors import InputError
from radscale.metrics import curve_continuity
from radscale.metrics.continuity import chance_continuity, distance_map, patches_of_mask

SHAPE = (9, 11)
TIP = (4, 0)


def line() -> np.ndarray:
    """A horizontal device of 11 patches, the tip at the left."""
    device = np.zeros(SHAPE, bool)
    device[4] = True
    return device


def falling(values: float = 0.9) -> np.ndarray:
    """A map that is similar along the device, less and less, and dissimilar elsewhere."""
    similarity = np.zeros(SHAPE)
    similarity[4] = np.linspace(1, values, SHAPE[1])
    return similarity


def naive(values: np.ndarray, device: np.ndarray, tip: tuple[int, int], ignore: np.ndarray, tolerance: int, size: int) -> float:
    """Add patches one level at a time and flood by hand."""
    rows, columns = values.shape

    def near(patch: tuple[int, int]) -> bool:
        return any(max(abs(patch[0] - r), abs(patch[1] - c)) <= tolerance for r, c in zip(*np.nonzero(device), strict=True))

    def flood(start: tuple[int, int], allowed: set[tuple[int, int]]) -> set[tuple[int, int]]:
        seen, queue = {start}, [start]
        while queue:
            r, c = queue.pop()
            around = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & allowed - seen
            seen |= around
            queue += around
        return seen

    everywhere = [(r, c) for r in range(rows) for c in range(columns)]
    corridor = {patch for patch in everywhere if near(patch)}
    outside = {patch for patch in everywhere if patch not in corridor and not ignore[patch]}
    reached = {tip}
    for level in sorted(set(values.ravel()), reverse=True):
        above = {patch for patch in everywhere if values[patch] >= level}
        if any(len(flood(patch, above & outside)) >= size for patch in above & outside):
            break
        reached = flood(tip, above & corridor)
    return (sum(bool(device[patch]) for patch in reached) - 1) / (device.sum() - 1)


def test_a_device_that_lights_up_alone_scores_one() -> None:
    result = curve_continuity(falling(), line(), TIP)
    assert result.score == result.recall == 1
    assert result.limit == 0
    assert np.array_equal(result.recovered, line())


def test_a_false_structure_as_similar_as_the_first_patch_scores_zero() -> None:
    similarity = falling()
    similarity[0, 2:5] = 1.0
    result = curve_continuity(similarity, line(), TIP)
    assert result.score == result.recall == 0
    assert result.recovered.sum() == 1


def test_a_false_structure_at_half_way_scores_a_half() -> None:
    similarity = falling()
    similarity[0, 2:5] = similarity[4, 6]  # a tie with the sixth of ten patches: it does not count
    assert curve_continuity(similarity, line(), TIP).score == 0.5


def test_beyond_a_gap_nothing_is_followed_but_recall_sees_it() -> None:
    similarity = falling()
    similarity[4, 4] = -1
    result = curve_continuity(similarity, line(), TIP)
    assert (result.score, result.recall) == (0.3, 0.9)
    similarity[3, 4] = 0.95  # the map runs one patch beside the device: within the tolerance the path goes on
    assert curve_continuity(similarity, line(), TIP).score == 0.9
    assert curve_continuity(similarity, line(), TIP, tolerance=0, min_false_patches=2).score == 0.3


def test_a_small_group_is_no_structure_and_an_ignored_one_is_not_false() -> None:
    similarity = falling()
    similarity[0, 2:4] = 1.0
    assert curve_continuity(similarity, line(), TIP).score == 1
    assert curve_continuity(similarity, line(), TIP, min_false_patches=2).score == 0
    ignore = np.zeros(SHAPE, bool)
    ignore[0, 2] = True
    assert curve_continuity(similarity, line(), TIP, min_false_patches=2, ignore=ignore).score == 1
    assert curve_continuity(similarity, line(), TIP, min_false_patches=100).limit == -math.inf


def test_patches_beside_the_device_are_within_the_tolerance() -> None:
    similarity = falling()
    similarity[3:6] = 1.0
    assert curve_continuity(similarity, line(), TIP).score == 1
    assert curve_continuity(similarity, line(), TIP, tolerance=0).score == 0


def test_a_map_without_information_scores_zero() -> None:
    assert curve_continuity(np.ones(SHAPE), line(), TIP).score == 0


@pytest.mark.parametrize("seed", range(30))
def test_agrees_with_flooding_by_hand_and_keeps_its_promises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    device = rng.random((7, 8)) < 0.2
    tip = (int(rng.integers(7)), int(rng.integers(8)))
    device[tip] = True
    device[(tip[0] + 1) % 7, tip[1]] = True
    ignore = rng.random((7, 8)) < 0.1
    # Few levels: ties everywhere. A merit of the device's patches: scores between 0 and 1.
    values = rng.integers(0, 12, (7, 8)) + np.where(device, 5.0, 0.0)
    tolerance, size = int(rng.integers(0, 2)), int(rng.integers(1, 4))
    settings = {"ignore": ignore, "tolerance": tolerance, "min_false_patches": size}
    result = curve_continuity(values, device, tip, **settings)
    assert result.score == naive(values, device, tip, ignore, tolerance, size)
    assert 0 <= result.score <= result.recall <= 1
    assert curve_continuity(np.exp(values / 3) - 7, device, tip, **settings).score == result.score, "only the order counts"
    # Turned and mirrored pictures score the same.
    turned = {**settings, "ignore": np.rot90(ignore)}
    assert curve_continuity(np.rot90(values), np.rot90(device), (7 - tip[1], tip[0]), **turned).score == result.score
    # More similarity on the device never hurts, elsewhere it never helps.
    better = values + np.where(device, rng.integers(0, 4, values.shape), 0)
    assert curve_continuity(better, device, tip, **settings).score >= result.score
    worse = values + np.where(device, 0, rng.integers(0, 4, values.shape))
    if not tolerance:
        assert curve_continuity(worse, device, tip, **settings).score <= result.score


def test_chance_is_small_and_distance_alone_follows_a_few_patches() -> None:
    chance = chance_continuity(line(), TIP, num_draws=200)
    assert 0 < chance < 0.15
    assert chance == chance_continuity(line(), TIP, num_draws=200)
    # The disc around the tip holds three connected patches beyond the corridor at distance 3 patches at the latest.
    assert curve_continuity(distance_map(SHAPE, TIP), line(), TIP).score == 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity": np.zeros((3, 3))}, "maps of one shape"),
        ({"similarity": np.full(SHAPE, np.nan)}, "not finite"),
        ({"tip": (9, 0)}, "outside the map of 9 x 11"),
        ({"device": np.zeros(SHAPE)}, "no patch beside the query"),
        ({"tolerance": -1}, "the least are 0 and 1"),
        ({"min_false_patches": 0}, "the least are 0 and 1"),
        ({"ignore": np.zeros(4)}, "maps of one shape"),
    ],
)
def test_impossible_input_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        curve_continuity(**{"similarity": falling(), "device": line(), "tip": TIP, **change})


def test_a_mask_becomes_the_patches_it_lies_in() -> None:
    mask = np.zeros((40, 60), bool)
    mask[12:14, :] = True  # in row 1 of 4
    device, touched = patches_of_mask(mask, (4, 6))
    expected = np.zeros((4, 6), bool)
    expected[1] = True
    assert np.array_equal(device, expected)
    assert np.array_equal(touched, expected)
    # The encoder sees the middle 40 columns only, as 4 patches.
    device, _ = patches_of_mask(mask, (4, 4), (0, 10, 40, 40))
    assert device.sum() == 4
    assert device[1].all()


def test_a_clipped_corner_is_touched_but_not_of_the_device_which_still_hangs_together() -> None:
    mask = np.zeros((40, 40), bool)
    for step in range(40):
        mask[step, max(step - 1, 0) : step + 1] = True  # a diagonal one pixel below the patches' own
    device, touched = patches_of_mask(mask, (4, 4))
    assert np.array_equal(device, np.eye(4, dtype=bool))
    assert touched.sum() == 7
    assert curve_continuity(device.astype(float), device, (0, 0)).score == 1


def test_masks_that_fit_no_grid_are_refused() -> None:
    with pytest.raises(InputError, match="less than a pixel for each of 4 x 4 patches"):
        patches_of_mask(np.ones((3, 8), bool), (4, 4))
    with pytest.raises(InputError, match="min_coverage is 2"):
        patches_of_mask(np.ones((8, 8), bool), (4, 4), min_coverage=2)
    with pytest.raises(InputError, match=r"give \(H, W\)"):
        patches_of_mask(np.ones(8, bool), (4, 4))
    empty = patches_of_mask(np.zeros((8, 8), bool), (4, 4))
    assert not empty[0].any()
    assert not empty[1].any()
