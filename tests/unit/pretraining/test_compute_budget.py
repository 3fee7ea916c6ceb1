from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blob_dataset import ENCODER, write_dataset
from radscale.datasets import Dataset
from radscale.errors import InputError
from radscale.models import build_encoder, make_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig, steps_for, training_flops_per_sample
from radscale.pretraining.config import Dinov2Options
from radscale.pretraining.contrastive import ContrastiveObjective, context_length, with_text_tower
from radscale.pretraining.dinov2 import Dinov2Objective
from radscale.pretraining.images import SubsetImages
from radscale.pretraining.texts import TokenTable, TrainingRows


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


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> SubsetImages:
    data = Dataset(write_dataset(tmp_path_factory.mktemp("budget") / "dataset"))
    return SubsetImages(data, range(16), max_memory_gb=1)


def flops_of_a_step(objective: Any, augment: Callable[[], Any], backward: bool = True) -> float:
    """One real step as PyTorch counts it, without the augmentation, which a budget leaves out."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as step:
        loss = objective.loss(0)[0]
        if backward:
            loss.backward()
    with FlopCounterMode(display=False) as augmentation:
        augment()
    return float(step.get_total_flops() - augmentation.get_total_flops())


def flops_of_pixel_gradients(encoder: Any, sizes_px: list[int]) -> int:
    """What a step saves against the rule of three forward passes: nothing needs the gradient of the pixels."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for size in sizes_px:
            encoder.backbone.patch_embed(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


VIT = {
    "family": "vit",
    "architecture": {"image_size_px": 112, "patch_size_px": 14, "width": 48, "depth": 4, "num_heads": 3},
    "preprocessing": {"image_size_px": 112},
}
DAVIT = {
    "family": "davit",
    "architecture": {
        "image": {"depths": [1, 1, 1, 1], "widths": [16, 32, 48, 64], "num_heads": [1, 2, 3, 4], "window_size": 4},
        "text": {"width": 32, "depth": 2, "num_heads": 2, "context_length": 16},
        "embedding_dim": 16,
    },
    "preprocessing": {"image_size_px": 64},
}


@pytest.mark.parametrize("drop_path", [0.0, 0.25])
@pytest.mark.parametrize("num_local", [0, 3])
def test_a_real_dinov2_step_costs_what_the_budget_says(images: SubsetImages, drop_path: float, num_local: int) -> None:
    """To 1 %: masks are drawn, the budget takes their expected size."""
    options = Dinov2Options(
        global_size_px=112, local_size_px=42, num_local_crops=num_local, drop_path=drop_path, num_prototypes=64, head_hidden=64
    )
    budget = ComputeBudget.samples_seen(16)
    config = PretrainingConfig(objective="dinov2", budget=budget, batch_size=16, dinov2=options)
    encoder = build_encoder(VIT, seed=0)
    predicted = 16 * training_flops_per_sample(config, encoder)
    saved = 16 * flops_of_pixel_gradients(encoder, [112] * 2 + [42] * num_local)
    objective = Dinov2Objective(encoder, None, images, config, 1, from_scratch=True)
    measured = flops_of_a_step(objective, lambda: objective._crops(0))
    assert measured + saved == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize("architecture", [VIT, DAVIT], ids=["vit", "davit"])
def test_a_real_contrastive_step_costs_what_the_budget_says(images: SubsetImages, architecture: dict[str, Any]) -> None:
    """To 0.1 %, which is the loss. PyTorch counts a depth-wise convolution backward many times: DaViT is compared forward."""
    config = PretrainingConfig(objective="clip", budget=ComputeBudget.samples_seen(16), batch_size=16)
    encoder = build_encoder(architecture, seed=0)
    predicted = 16 * training_flops_per_sample(config, encoder)
    number = np.arange(16)
    rows = TrainingRows(
        image=number,
        prefix=np.zeros(16, np.int64),
        text=1 + number,
        is_label=np.zeros(16, bool),
        table=TokenTable.of(["", *(f"{index} " + "heart " * 90 for index in number)], 77),
        context_length=context_length(encoder, config),
        identical_texts_are_positives=False,
        num_images=16,
    )
    backward = architecture is VIT
    saved = 16 * flops_of_pixel_gradients(encoder, [112]) if backward else 0
    objective = ContrastiveObjective(encoder, images, rows, config, from_scratch=True)
    measured = flops_of_a_step(objective, lambda: objective._crops(0, number, torch.Generator()), backward)
    assert (measured if backward else 3 * measured) + saved == pytest.approx(predicted, rel=0.001)


def test_medimageinsight_costs_what_its_own_code_does() -> None:
    """Forward GFLOP counted on MedImageInsight's own code at 518 px: image tower 732.9, text tower 31.4."""
    config = PretrainingConfig(objective="clip", budget=ComputeBudget.samples_seen(1), batch_size=2, image_size_px=518)
    with torch.device("meta"):
        davit = make_encoder({"family": "davit"})
    assert training_flops_per_sample(config, davit) / 3 == pytest.approx(732.9e9 + 31.4e9, rel=1e-3)
