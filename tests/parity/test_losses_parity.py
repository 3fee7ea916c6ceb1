"""Losses, head and ViT against outputs of facebookresearch/dinov2 (losses to 1e-6, targets, gradients and ViT to 1e-5)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from radscale.losses import dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp, softmax_center, update_center
from radscale.models import DinoHead, VisionTransformer, ViTConfig, make_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig
from radscale.pretraining.augmentations import block_masks
from radscale.pretraining.config import Dinov2Options
from radscale.pretraining.dinov2 import Dinov2Objective, distillation_loss, mask_weights

DATA = Path(os.environ.get("RADSCALE_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
FIXTURE = DATA / "dinov2_reference.safetensors"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not FIXTURE.exists(), reason=f"{FIXTURE.name} not found; set RADSCALE_SHARED_DATA to its folder"),
]
TEACHER_TEMPERATURE, NUM_TERMS, NUM_LOCAL = 0.055, 18, 8


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(FIXTURE)


@pytest.fixture(scope="module")
def meta() -> dict[str, Any]:
    """What the reference's own classes said of sizes, masks and parameter groups."""
    with safe_open(FIXTURE, "pt") as file:
        return json.loads(file.metadata()["meta"])


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-7) -> None:
    torch.testing.assert_close(actual, expected.reshape(actual.shape), rtol=rtol, atol=atol)


def test_sinkhorn_dino_losses_and_their_gradients(reference: dict[str, Tensor]) -> None:
    targets = sinkhorn_knopp(reference["dino.teacher_logits"], TEACHER_TEMPERATURE)
    close(targets, reference["dino.sk_targets"])
    small = reference["dino.student_local_logits"].clone().requires_grad_()
    large = reference["dino.student_global_logits"].clone().requires_grad_()
    pairs = [dino_loss(crop, view) for crop in small.chunk(NUM_LOCAL) for view in targets.chunk(2)]
    local_loss = torch.stack(pairs).sum() / NUM_TERMS
    global_loss = 2 * dino_loss(large, targets) / NUM_TERMS
    close(local_loss.detach(), reference["dino.local_loss_sk"], rtol=1e-6)
    close(global_loss.detach(), reference["dino.global_loss_sk"], rtol=1e-6)
    local_loss.backward()
    global_loss.backward()
    close(small.grad, reference["dino.grad_local_sk"])
    close(large.grad, reference["dino.grad_global_sk"])


@pytest.mark.parametrize(("part", "steps"), [("dino", 3), ("ibot", 2)])
def test_centering_over_steps(reference: dict[str, Tensor], part: str, steps: int) -> None:
    center = torch.zeros(1, reference[f"{part}.center.final"].shape[-1])
    for step in range(steps):
        name = f"{part}.center.step{step}"
        if part == "dino":
            close(center, reference[f"{name}.center_used"])
        logits = reference[f"{name}.teacher_logits"].flatten(0, -2)
        close(softmax_center(logits, center, TEACHER_TEMPERATURE), reference[f"{name}.targets"])
        center = update_center(center, logits)
    close(center, reference[f"{part}.center.final"])


def test_ibot(reference: dict[str, Tensor]) -> None:
    targets = sinkhorn_knopp(reference["ibot.teacher_logits"], TEACHER_TEMPERATURE)
    close(targets, reference["ibot.sk_targets"])
    student = reference["ibot.student_logits"].clone().requires_grad_()
    loss = ibot_loss(student, targets, reference["ibot.masks_weight"], num_crops=len(reference["ibot.masks"]))
    close(loss.detach(), reference["ibot.loss_sk"], rtol=1e-6)
    loss.backward()
    close(student.grad, reference["ibot.grad_student_sk"])


def test_koleo_per_view(reference: dict[str, Tensor]) -> None:
    features = reference["koleo.student_cls"].clone().requires_grad_()
    losses = torch.stack([koleo_loss(view) for view in features.chunk(2)])
    close(losses.detach(), reference["koleo.per_view"], rtol=1e-6)
    (0.1 * losses.sum()).backward()
    close(features.grad, reference["koleo.grad"])


def test_head(reference: dict[str, Tensor]) -> None:
    head = DinoHead(32, num_prototypes=64, hidden=40, bottleneck=16)
    state = {name.removeprefix("head.sd."): t for name, t in reference.items() if name.startswith("head.sd.")}
    renamed = {"original0": "last_layer.weight_g", "original1": "last_layer.weight_v"}
    head.load_state_dict({renamed.get(name.rsplit(".", 1)[-1], name): tensor for name, tensor in state.items()})
    close(head(reference["head.in"]).detach(), reference["head.out"], atol=1e-6)


def test_vit_with_masks_and_at_the_size_of_local_crops(reference: dict[str, Tensor]) -> None:
    model = VisionTransformer(ViTConfig(image_size_px=70, width=32, depth=2, num_heads=4)).eval()
    model.load_state_dict({name.removeprefix("vit.sd."): t for name, t in reference.items() if name.startswith("vit.sd.")})
    with torch.no_grad():
        tokens = model.forward_tokens(reference["vit.in_global"], reference["vit.masks"].bool())
        local = model.forward_tokens(reference["vit.in_local"])
    close(tokens["cls"], reference["vit.global_cls"], atol=1e-6)
    close(tokens["patches"], reference["vit.global_patch"], atol=1e-6)
    close(local["cls"], reference["vit.local_cls_offset0.1"], atol=1e-6)
    close(local["patches"], reference["vit.local_patch_offset0.1"], atol=1e-6)
    close(model.position_embedding(3, 3).detach(), reference["vit.pos_embed_42_offset0.1"], atol=1e-6)


def test_the_whole_loss_is_the_references_sum(reference: dict[str, Tensor]) -> None:
    """Which crops meet which targets, the shares of all parts, and the weights of masked patches."""
    masks = reference["ibot.masks"].bool()
    weights = mask_weights(masks)
    close(weights, reference["ibot.masks_weight"])
    assert torch.equal(masks.flatten().nonzero().squeeze(1), reference["ibot.mask_indices"])
    swapped = reference["dino.sk_targets"]  # of [second; first] views, where we keep the order of the views
    total, parts = distillation_loss(
        reference["koleo.student_cls"],
        reference["dino.student_global_logits"] / 0.1,
        reference["dino.student_local_logits"] / 0.1,
        torch.cat(swapped.chunk(2)[::-1]),
        ibot_loss(reference["ibot.student_logits"], reference["ibot.sk_targets"], weights, len(masks)),
        Dinov2Options(num_local_crops=NUM_LOCAL),
    )
    close(parts["dino_local"], reference["dino.local_loss_sk_rawsum"] / NUM_TERMS, rtol=1e-6)
    close(parts["dino_global"], reference["dino.global_loss_sk"], rtol=1e-6)
    close(parts["ibot"], reference["ibot.loss_sk"], rtol=1e-6)
    close(parts["koleo"], reference["koleo.weighted_total"], rtol=1e-6)
    close(total, reference["total.sk"], rtol=1e-6)


def test_koleo_pulls_at_the_references_neighbours(reference: dict[str, Tensor]) -> None:
    for number, view in enumerate(reference["koleo.student_cls"].chunk(2)):
        features = torch.nn.functional.normalize(view, dim=-1).requires_grad_()
        nearest = reference[f"koleo.nn_index_view{number}"].long()
        distances = (features - features[nearest]).norm(dim=-1)
        torch.testing.assert_close(koleo_loss(features), -distances.log().mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("side", "size_px"), [(16, 224), (37, 518)])
@pytest.mark.parametrize("target", [0.3, 0.5])
def test_masks_hide_as_much_as_the_references(meta: dict[str, Any], side: int, size_px: int, target: float) -> None:
    """Its generator draws from Python's random numbers, so shares are compared: mean to .002, least to .01."""
    mean, _, least, most = meta[f"mask_ratio_achieved_target{target}_{size_px}"]
    generator = torch.Generator().manual_seed(0)
    masks = block_masks(300, side, generator, probability=1.0, ratio=(target, target)).float().mean(dim=1)
    assert masks.mean() == pytest.approx(mean, abs=0.002)
    assert masks.min() == pytest.approx(least, abs=0.01)
    assert masks.max() <= most + 1e-6


def test_masks_have_blocks_like_the_references(reference: dict[str, Tensor]) -> None:
    """Length of the border of what is hidden: ten masks of the reference lie among 200 of ours with as many patches."""

    def border(mask: Tensor) -> int:
        return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())

    generator = torch.Generator().manual_seed(0)
    deviations = []
    for size_px, side in ((224, 16), (518, 37)):
        for drawn in reference[f"mask.draw_{size_px}"].bool():
            share = (drawn.sum().item() + 0.5) / side**2
            ours = block_masks(200, side, generator, probability=1.0, ratio=(share, share))
            borders = torch.tensor([float(border(mask.view(side, side))) for mask in ours])
            deviations.append((border(drawn) - borders.mean()) / borders.std())
    assert max(map(abs, deviations)) < 2.5
    assert abs(sum(deviations) / len(deviations)) < 0.6  # two standard errors of the mean of ten


def test_a_batch_hides_as_many_patches_as_the_references(meta: dict[str, Any]) -> None:
    facts = meta["collate_40img_518"]
    masks = block_masks(80, 37, torch.Generator().manual_seed(0), probability=0.5, ratio=(0.1, 0.5))
    assert (masks.sum(dim=1) > 0).sum() == facts["rows_masked"]
    assert masks.sum() == pytest.approx(facts["mean_masked_tokens_per_batch"], rel=0.01)
    assert masks.sum() <= facts["upperbound"]


class TwoImages:
    """Never looked at."""

    def __len__(self) -> int:
        return 2

    def follow(self, rows_of_step: object, first_step: int, last_step: int) -> None:
        pass


def test_learning_rates_and_decay_of_every_tensor_are_the_references(meta: dict[str, Any]) -> None:
    config = PretrainingConfig(objective="dinov2", budget=ComputeBudget.samples_seen(2), batch_size=2)
    with torch.device("meta"):
        encoder, head = make_encoder({"family": "vit"}), DinoHead(768)
        objective = Dinov2Objective(encoder, head, TwoImages(), config, 1, from_scratch=False)  # type: ignore[arg-type]
    names = {id(parameter): name for name, parameter in encoder.backbone.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr_multiplier"], float(group["decays"]))
        for group in objective.parameter_groups()
        for parameter in group["params"]
        if id(parameter) in names
    }
    expected = {name: tuple(values) for name, values in meta["param_groups_vitb_lld0.9_pe0.2"].items()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-12), name


def test_full_size_head_has_the_references_tensors(meta: dict[str, Any]) -> None:
    with torch.device("meta"):
        state = DinoHead(768).state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == meta["head_state_dict_keys_full_size"]
