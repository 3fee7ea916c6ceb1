"""Losses, head and ViT against outputs of facebookresearch/dinov2 (losses to 1e-6, targets, gradients and ViT to 1e-5)."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from radscale.losses import dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp, softmax_center, update_center
from radscale.models import DinoHead, VisionTransformer, ViTConfig

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
