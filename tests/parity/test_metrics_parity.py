"""Metrics and resampling against scikit-learn and SciPy."""

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from radscale.metrics import average_precision, centreline_dice, dice_score, hausdorff_distance, roc_auc


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Targets with both classes and scores with many ties."""
    n = draw(st.integers(2, 60))
    targets = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    targets[:2] = [0, 1]
    levels = draw(st.integers(1, 12))
    scores = np.array(draw(st.lists(st.integers(0, levels), min_size=n, max_size=n))) / levels
    return targets, scores


@given(samples())
@settings(max_examples=300, deadline=None)
def test_ranking_metrics_are_scikit_learns(data: tuple[np.ndarray, np.ndarray]) -> None:
    targets, scores = data
    assert average_precision(targets, scores) == pytest.approx(average_precision_score(targets, scores), abs=1e-12)
    assert roc_auc(targets, scores) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


@given(samples(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_weights_are_scikit_learns(data: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    targets, scores = data
    weight = np.random.default_rng(seed).integers(0, 4, len(targets)).astype(float)
    weight[:2] = 1
    expected = average_precision_score(targets, scores, sample_weight=weight)
    assert average_precision(targets, scores, sample_weight=weight) == pytest.approx(expected, abs=1e-12)


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two masks, neither empty: noise of any density, boxes (also at the border), single pixels, one row or column."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))

    def mask() -> np.ndarray:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        pixels = rng.random(shape) < draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.95, 1.0]))
        if draw(st.booleans()):
            top, left = (rng.integers(0, side) for side in shape)
            pixels[top : top + rng.integers(1, 20), left : left + rng.integers(1, 20)] = True
        pixels.flat[rng.integers(pixels.size)] = True
        return pixels

    return mask(), mask()


def _directed(queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance of every query to its nearest point, all pairs."""
    a, b = np.argwhere(queries), np.argwhere(points)
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2).min(axis=1))


@given(mask_pairs())
@settings(max_examples=400, deadline=None)
def test_hausdorff_distance_is_scipys_and_simple_itks(masks: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = masks
    points = np.argwhere(a), np.argwhere(b)
    expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    assert hausdorff_distance(a, b) == pytest.approx(expected, abs=1e-9)
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks))
    # ITK computes distance maps in single precision.
    assert hausdorff_distance(a, b) == pytest.approx(measure.GetHausdorffDistance(), abs=1e-4)


@given(mask_pairs(), st.floats(0.1, 99.9))
@settings(max_examples=300, deadline=None)
def test_percentiles_are_between_surfaces(masks: tuple[np.ndarray, np.ndarray], percentile: float) -> None:
    a, b = (mask ^ binary_erosion(mask) for mask in masks)
    expected = max(np.percentile(_directed(a, b), percentile), np.percentile(_directed(b, a), percentile))
    assert hausdorff_distance(*masks, percentile=percentile) == pytest.approx(expected, abs=1e-9)


@given(mask_pairs(), st.floats(1, 99))
@settings(max_examples=100, deadline=None)
def test_percentiles_are_monais(masks: tuple[np.ndarray, np.ndarray], percentile: float) -> None:
    monai = pytest.importorskip("monai.metrics")
    tensors = [torch.from_numpy(mask)[None, None] for mask in masks]
    expected = monai.compute_hausdorff_distance(*tensors, include_background=True, percentile=percentile).item()
    # MONAI keeps distances in single precision.
    assert hausdorff_distance(*masks, percentile=percentile) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("density", [0.5, 0.01, 0.0005])
def test_hausdorff_distance_of_large_masks(density: float) -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:518, :518]
    noise = rng.random((518, 518)) < density
    shapes = [y < 259, np.hypot(y - 200, x - 300) < 90, x == 0, (y % 80 == 0) & (x % 17 == 0), np.ones_like(noise)]
    for shape in shapes:
        expected = max(distance_transform_edt(~noise)[shape].max(), distance_transform_edt(~shape)[noise].max())
        assert hausdorff_distance(noise, shape) == pytest.approx(expected, abs=1e-9)


@given(mask_pairs())
@settings(max_examples=100, deadline=None)
def test_dice_is_scikit_learns_f1(masks: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = masks
    assert dice_score(a, b) == pytest.approx(f1_score(a.ravel(), b.ravel()), abs=1e-12)


def test_centreline_dice_is_that_of_scikit_image_up_to_a_pixel_of_the_line():
    morphology = pytest.importorskip("skimage.morphology", reason="scikit-image: an optional peer")
    rng = np.random.default_rng(5)
    differences = []
    for width in (3, 4, 5, 6, 7, 8):
        a, b = np.zeros((2, 160, 160), np.uint8)
        points = rng.integers(10, 150, (4, 2)).astype(np.int32)
        cv2.polylines(a, [points], False, 1, width)
        cv2.polylines(b, [points + rng.integers(-2, 3, (4, 2)).astype(np.int32)], False, 1, width)
        precision, sensitivity = (b > 0)[morphology.skeletonize(a > 0)].mean(), (a > 0)[morphology.skeletonize(b > 0)].mean()
        differences.append(centreline_dice(a, b) - 2 * precision * sensitivity / (precision + sensitivity))
    assert np.abs(differences).max() < 0.02
    assert np.abs(differences).mean() < 0.01
