"""Self-distillation: the same on several ranks and in chunks, and a teacher that is a network of its own."""

import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from blob_dataset import ENCODER
from radscale.errors import InputError
from radscale.models import DinoHead, build_encoder
from radscale.pretraining import ComputeBudget, PretrainingConfig
from radscale.pretraining.config import Dinov2Options
from radscale.pretraining.dinov2 import Dinov2Objective, mask_weights
from radscale.training.distributed import Ranks

BATCH, PROTOTYPES, STEPS = 8, 24, 3
OPTIONS = Dinov2Options(
    global_size_px=32, local_size_px=16, num_local_crops=3, koleo_weight=0.0, momentum=(0.9, 1.0), drop_path=0.4
)


class Images:
    """Random images of different sizes in memory."""

    def __init__(self, count: int = 20) -> None:
        rng = np.random.default_rng(0)
        self.images = [rng.random((32 + 2 * i, 40 + i)).astype(np.float32) for i in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def sizes(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        shapes = torch.tensor([self.images[i].shape for i in indices])
        return shapes[:, 0], shapes[:, 1]

    def follow(self, rows_of_step: Callable[[int], np.ndarray], first_step: int, last_step: int) -> None:
        self.rows_of_step = rows_of_step

    def batch_of(self, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        indices = self.rows_of_step(step)
        heights, widths = self.sizes(indices)
        canvas = torch.zeros(len(indices), int(heights.max()), int(widths.max()))
        for slot, index in zip(canvas, indices, strict=True):
            image = torch.from_numpy(self.images[index])
            slot[: image.shape[0], : image.shape[1]] = image
        return canvas, heights, widths


def make_objective(ranks: Ranks = Ranks(), **changes: Any) -> Dinov2Objective:
    head = DinoHead(32, PROTOTYPES, 32, 16)
    head.reset_parameters(torch.Generator().manual_seed(1))
    budget = ComputeBudget.samples_seen(BATCH * STEPS)
    options = dataclasses.replace(OPTIONS, **changes)
    config = PretrainingConfig(objective="dinov2", budget=budget, batch_size=BATCH, dinov2=options)
    return Dinov2Objective(build_encoder(ENCODER, 0), head, Images(), config, STEPS, from_scratch=False, ranks=ranks)  # type: ignore[arg-type]


def observe(ranks: Ranks, centering: str) -> dict[str, Tensor]:
    """Crops, targets, losses, gradients and centres of one rank over some steps without an optimizer."""
    objective, found = make_objective(ranks, centering=centering), {}
    for step in range(STEPS):
        views, local, masks = objective._crops(step)
        lesson = objective._teach(views, masks.flatten().nonzero().squeeze(1), step)
        found |= {f"{step}.views": views, f"{step}.local": local, f"{step}.masks": masks, f"{step}.targets": lesson.cls_targets}
        found[f"{step}.patch_offsets"] = lesson.patch_offsets
        loss, measurements = objective.loss(step)
        loss.backward()
        found |= {f"{step}.loss": loss.detach(), f"{step}.use": measurements["prototype_use"]}
    for name, module in objective.trained_modules().items():
        found |= {f"gradient.{name}.{key}": p.grad.clone() for key, p in module.named_parameters() if p.grad is not None}
    return found | {"center": objective.center, "patch_center": objective.patch_center}


def worker(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for centering in ("centering", "sinkhorn"):
        torch.save(observe(Ranks(rank, 2), centering), f"{folder}/{centering}{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("centering", ["centering", "sinkhorn"])
def test_two_ranks_are_one_rank_with_the_whole_batch(centering: str, two_ranks: Path) -> None:
    """Crops, masks, targets, loss and mean gradient to 1e-6; centres of patches by the reference's mean of ranks' means."""
    first, second = (torch.load(two_ranks / f"{centering}{rank}.pt") for rank in range(2))
    whole = observe(Ranks(), centering)
    half = BATCH // 2
    close = {"rtol": 1e-5, "atol": 1e-6}
    by_views = {"views": 2, "local": OPTIONS.num_local_crops, "masks": 2, "targets": 2}
    for step in range(STEPS):
        for name, num_views in by_views.items():
            if centering == "centering" and name == "targets" and step > 0:
                continue  # of centres that are compared below
            key = f"{step}.{name}"
            parts = [rank[key].unflatten(0, (num_views, half)) for rank in (first, second)]
            torch.testing.assert_close(torch.cat(parts, dim=1).flatten(0, 1), whole[key], **close)
    torch.testing.assert_close(first["center"], whole["center"], **close)
    for name in ("center", "patch_center"):
        assert torch.equal(first[name], second[name])
    if centering == "sinkhorn":
        for name, value in whole.items():
            if "loss" in name or name.startswith("gradient"):
                torch.testing.assert_close((first[name] + second[name]) / 2, value, **close)
            elif "offsets" in name or "use" in name:
                torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(second[name], first[name], rtol=0, atol=0)


def test_the_patch_centre_of_two_ranks_is_the_mean_of_their_means(two_ranks: Path) -> None:
    """Of the first update, whose logits do not depend on the centre; the second one in a step is made by the loss."""
    objective = make_objective()
    center = torch.zeros(1, PROTOTYPES)
    for step in range(STEPS):
        views, _, masks = objective._crops(step)
        with torch.no_grad():
            patches = objective.teacher.forward_tokens(views)["patches"]
            logits = objective.teacher_head(patches)
        means = []
        for rank in range(2):
            mine = torch.arange(2 * BATCH).view(2, 2, BATCH // 2)[:, rank].flatten()
            means.append(logits[mine][masks[mine]].mean(dim=0, keepdim=True))
        for _ in range(2):  # `observe` asks the teacher twice
            center = 0.9 * center + 0.1 * (means[0] + means[1]) / 2
    torch.testing.assert_close(torch.load(two_ranks / "centering0.pt")["patch_center"], center, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("centering", ["centering", "sinkhorn"])
def test_chunks_of_masked_patches_change_nothing(centering: str) -> None:
    results = []
    for size in (3, 10_000):
        objective = make_objective(centering=centering, prototype_chunk_tokens=size, koleo_weight=0.1)
        loss, _ = objective.loss(0)
        loss.backward()
        results.append([loss.detach()] + [p.grad for m in objective.trained_modules().values() for p in m.parameters()])
    for chunked, whole in zip(*results, strict=True):  # what is left of a sum that cancels is rounding of its terms
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6 + 1e-5 * float(whole.abs().max()))


def test_the_teacher_is_never_the_student() -> None:
    objective = make_objective()
    for teacher, student in ((objective.teacher, objective.encoder.backbone), (objective.teacher_head, objective.head)):
        before = [p.clone() for p in teacher.parameters()]
        for (name, mine), its in zip(student.named_parameters(), teacher.parameters(), strict=True):
            assert torch.equal(mine, its), name
            assert mine.data_ptr() != its.data_ptr()
            assert mine.requires_grad
            assert not its.requires_grad
            mine.data.add_(1.0)
        assert all(torch.equal(p, q) for p, q in zip(before, teacher.parameters(), strict=True))
        objective.after_step(0)
        for old, new in zip(before, teacher.parameters(), strict=True):
            torch.testing.assert_close(new, old + 0.1)  # momentum .9 at the first step
        student.load_state_dict({name: p - 1 for name, p in student.state_dict().items()})
        teacher.load_state_dict(student.state_dict())


def test_masks_of_all_crops_follow_their_images() -> None:
    objective = make_objective()
    views, local, masks = objective._crops(0)
    assert views.shape == (2 * BATCH, 3, 32, 32)
    assert local.shape == (OPTIONS.num_local_crops * BATCH, 3, 16, 16)
    assert (masks.sum(dim=1) > 0).sum() == BATCH
    weights = mask_weights(masks)
    assert weights.sum() == pytest.approx(BATCH)
    assert all(torch.equal(a, b) for a, b in zip((views, local, masks), objective._crops(0), strict=True))


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({"local_size_px": 18}, 1, "dinov2.local_size_px is 18; it must be a multiple of the encoder's patch size 8"),
        ({}, 3, "batch_size 8 over 3 ranks"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], world_size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_objective(Ranks(0, world_size), **changes)
