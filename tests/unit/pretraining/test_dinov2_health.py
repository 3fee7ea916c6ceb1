import math

import pytest
import torch

from radscale.losses import dino_loss
from radscale.pretraining import dinov2_health as health
from radscale.pretraining.config import Dinov2Options


def test_values_of_a_head_that_knows_nothing_are_the_documented_ones() -> None:
    expected = health.expected_at_random(Dinov2Options(), 65536)
    assert expected["expected_random_dino_local"] == pytest.approx(9.86, abs=0.01)
    assert expected["expected_random_dino_global"] == pytest.approx(1.23, abs=0.01)
    assert expected["expected_random_ibot"] == pytest.approx(5.55, abs=0.01)
    nothing = dino_loss(torch.zeros(3, 65536), torch.full((3, 65536), 1 / 65536))
    assert expected["largest_teacher_entropy"] == pytest.approx(nothing.item(), rel=1e-5)


def test_entropy_of_certain_and_even_targets() -> None:
    assert health.entropy(torch.eye(8)).item() == 0
    assert health.entropy(torch.full((4, 8), 1 / 8)).item() == pytest.approx(math.log(8))


def test_spread_is_the_mean_cosine_of_all_pairs() -> None:
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(features, dim=-1)
    pairs = [float(unit[i] @ unit[j]) for i in range(7) for j in range(7) if i != j]
    assert health.spread(features)["mean_cls_cosine"].item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    alike = health.spread(torch.ones(4, 5))
    assert alike["mean_cls_cosine"].item() == pytest.approx(1)
    assert alike["feature_std"].item() == pytest.approx(0, abs=1e-6)


def test_prototypes_count_as_used_for_a_window_of_steps() -> None:
    use = health.PrototypeUse(10)
    assert use.update(torch.tensor([1, 1, 2]), 0).item() == pytest.approx(0.2)
    assert use.update(torch.tensor([3]), health.USE_WINDOW_STEPS - 1).item() == pytest.approx(0.3)
    assert use.update(torch.tensor([3]), health.USE_WINDOW_STEPS).item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("measurements", "said"),
    [
        ({"teacher_entropy": 0.001}, "with certainty"),
        ({"teacher_entropy": math.log(64) - 0.001}, "all prototypes alike"),
        ({"mean_cls_cosine": 0.999}, "all images look alike"),
        ({"planned_teacher_turnover": 0.1}, "less than half of what the student learns"),
    ],
)
def test_each_sign_of_failure_says_what_to_try(measurements: dict[str, float], said: str) -> None:
    healthy = {"teacher_entropy": 2.0, "mean_cls_cosine": 0.6, "planned_teacher_turnover": 1.0}
    assert health.alarms(healthy, 64) == []
    (line,) = health.alarms({**healthy, **measurements}, 64)
    assert said in line
    assert "lower" in line or "raise" in line
