import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blob_dataset import ENCODER
from radscale.errors import InputError
from radscale.models import build_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig, steps_for, training_flops_per_sample
from radscale.pretraining.config import Dinov2Options
from radscale.pretraining.contrastive import with_text_tower


@pytest.mark.parametrize(
    ("budget", "costs", "steps"),
    [
        (ComputeBudget.samples_seen(1000), {}, 31),
        (ComputeBudget.flops(3.2e12), {"flops_per_sample": 1e9}, 100),
        (ComputeBudget.gpu_seconds(60), {"seconds_per_sample": 0.02}, 94),
        (ComputeBudget.samples_seen(1), {}, 1),
    ],
)
def test_steps(budget: ComputeBudget, costs: dict[str, float], steps: int) -> None:
    assert steps_for(budget, 32, **costs) == steps


def test_bad_budgets() -> None:
    with pytest.raises(InputError, match="budget of 0"):
        ComputeBudget.flops(0)
    with pytest.raises(InputError, match="needs the cost of one image"):
        steps_for(ComputeBudget.flops(1e12), 32)


def test_cost_of_a_contrastive_image_is_three_forward_passes_of_both_towers() -> None:
    config = PretrainingConfig(objective="clip", budget=ComputeBudget.samples_seen(1), image_size_px=32)
    encoder = build_encoder(ENCODER, seed=0)
    both = with_text_tower(encoder, config)
    tokens = torch.zeros(1, config.text_tower.context_length, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    # The counter does not know the fused attention of CPUs; spelled out, it counts every multiplication.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        both.encode_image(torch.zeros(1, 3, 32, 32))
        both.encode_tokens(tokens, torch.ones_like(tokens))
    assert training_flops_per_sample(config, encoder) == 3 * counter.get_total_flops()


def test_dinov2_costs_more_than_its_views_and_grows_with_local_crops() -> None:
    def cost(num_local: int) -> float:
        options = Dinov2Options(global_size_px=32, local_size_px=16, num_local_crops=num_local, num_prototypes=64)
        budget = ComputeBudget.samples_seen(1)
        config = PretrainingConfig(objective="dinov2", budget=budget, dinov2=options)
        return training_flops_per_sample(config, build_encoder(ENCODER, seed=0))

    four, eight = cost(4), cost(8)
    assert four < eight
    assert cost(6) == pytest.approx((four + eight) / 2)
