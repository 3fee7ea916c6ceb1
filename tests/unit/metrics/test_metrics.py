import numpy as np
import pytest

from radscale.errors import InputError
from radscale.metrics import average_precision, dice_score, hausdorff_distance, roc_auc


def test_a_score_without_information_has_the_prevalence() -> None:
    targets = np.array([1, 0, 0, 0])
    assert average_precision(targets, np.full(4, 0.3)) == 0.25
    assert roc_auc(targets, np.full(4, 0.3)) == 0.5


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([1, 0, 2], [0.1, 0.2, 0.3], "target 2 in row 2"),
        ([1, 0], [0.1, float("nan")], "prediction nan in row 1"),
        ([1, 1], [0.1, 0.2], "both classes are needed"),
        ([1, 0], [0.1], "one length"),
    ],
)
def test_bad_input(targets: list[int], predictions: list[float], message: str) -> None:
    for metric in (average_precision, roc_auc):
        with pytest.raises(InputError, match=message):
            metric(targets, predictions)


def test_empty_masks() -> None:
    empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert np.isnan(dice_score(empty, empty))
    assert np.isnan(hausdorff_distance(empty, empty))
    assert dice_score(empty, full) == 0
    assert hausdorff_distance(empty, full) == 5
    assert hausdorff_distance(full, full) == 0


def test_hausdorff_distance_by_hand() -> None:
    a, b = np.zeros((1, 9), np.uint8), np.zeros((1, 9), np.uint8)
    a[0, 0] = b[0, 8] = 255
    assert hausdorff_distance(a, b) == 8
    assert hausdorff_distance(a.T, b.T, percentile=50) == 8


def test_probabilities_are_not_taken_for_masks() -> None:
    with pytest.raises(InputError, match="cut probabilities first"):
        hausdorff_distance(np.full((2, 2), 0.3), np.ones((2, 2)))
    assert hausdorff_distance(np.ones((2, 2)), np.ones((2, 2))) == 0


@pytest.mark.parametrize("percentile", [0, 101, float("nan")])
def test_percentile_out_of_range(percentile: float) -> None:
    with pytest.raises(InputError, match="percentile is"):
        hausdorff_distance(np.ones((2, 2), bool), np.ones((2, 2), bool), percentile=percentile)
