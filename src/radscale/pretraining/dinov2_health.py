"""Whether self-distillation goes well: what to measure, what an untrained head gives, and what to try when it goes wrong."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from radscale.pretraining.config import Dinov2Options

USE_WINDOW_STEPS = 100
NEVER = -(2**31)


class PrototypeUse:
    """Which prototypes were the first choice of some image's view within the last `USE_WINDOW_STEPS` steps."""

    def __init__(self, num_prototypes: int) -> None:
        self.last_used = torch.full((num_prototypes,), NEVER, dtype=torch.int32)

    def update(self, choices: Tensor, step: int) -> Tensor:
        """Share of the prototypes in use after this step.

        Args:
            choices: (N,) prototype with the largest target of each row, of all ranks.
            step: zero-based.
        """
        self.last_used[choices] = step
        return (self.last_used > step - USE_WINDOW_STEPS).float().mean()


@torch.no_grad()
def entropy(probabilities: Tensor) -> Tensor:
    """Mean over rows (N, K) of the entropy in nats: 0 if each row names one prototype, ln K if it names all alike."""
    return torch.special.entr(probabilities).sum(dim=-1).mean()


@torch.no_grad()
def spread(cls_features: Tensor) -> dict[str, Tensor]:
    """Of (N, D) features of N images, one view each: how unlike they are.

    Returns:
        `feature_std`: standard deviation of a component of the unit features, mean over components (0 to 1 / sqrt(D));
        `mean_cls_cosine`: mean cosine of two different images (1 if all look alike).
    """
    unit = F.normalize(cls_features.float(), dim=-1)
    count = len(unit)
    cosine = (unit.sum(dim=0).square().sum() - count) / (count * (count - 1))  # pairs of different rows only
    return {"feature_std": unit.std(dim=0).mean(), "mean_cls_cosine": cosine}


def expected_at_random(options: Dinov2Options, num_prototypes: int) -> dict[str, float]:
    """Losses of a head that knows nothing, which names all K prototypes alike: ln K times the weight of each part.

    With 65,536 prototypes and 8 local crops: `dino_local` 9.86, `dino_global` 1.23, `ibot` 5.55. The reference logs half of
    its iBOT loss, 2.77. `ibot` counts crops without a mask too, half of them. KoLeo depends on the images instead.
    """
    nats, pairs = math.log(num_prototypes), 2 + 2 * options.num_local_crops
    return {
        "expected_random_dino_local": nats * 2 * options.num_local_crops / pairs,
        "expected_random_dino_global": nats * 2 / pairs,
        "expected_random_ibot": nats * options.mask_probability * options.ibot_weight,
        "largest_teacher_entropy": nats,
    }


def alarms(measurements: Mapping[str, float], num_prototypes: int, *, head_is_new: bool = False) -> list[str]:
    """One line per sign of a run that fails, each with what to try.

    Args:
        measurements: of one step, as the objective gives them; those that are missing are not judged.
        num_prototypes: K.
        head_is_new: a random head that has not learned for long names all prototypes alike, which is no sign of failure yet.
    """
    largest = math.log(num_prototypes)
    entropy_share = measurements.get("teacher_entropy", largest / 2) / largest
    signs = [
        (
            entropy_share < 0.01,
            "the teacher names one and the same prototype with certainty (teacher_entropy near 0): "
            "raise dinov2.teacher_temperature, or lower the learning rate",
        ),
        (
            entropy_share > 0.99 and not head_is_new,
            "the teacher names all prototypes alike (teacher_entropy near ln K), and its targets teach nothing: lower "
            "dinov2.teacher_temperature, take larger batches, or start from weights with their head",
        ),
        (
            measurements.get("mean_cls_cosine", 0.0) > 0.99,
            "all images look alike to the encoder (mean_cls_cosine above 0.99): lower the learning rate, "
            "raise dinov2.koleo_weight, or use dinov2.centering: sinkhorn",
        ),
        (
            measurements.get("planned_teacher_turnover", 1.0) < 0.5,
            "the teacher, which is what this run exports, will take over less than half of what the student learns "
            "(planned_teacher_turnover): train for more steps, or lower dinov2.momentum",
        ),
    ]
    return [line for sign, line in signs if sign]
