"""Losses against naive float64 formulas, and the properties that define them."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from radscale.errors import InputError
from radscale.losses import (
    Projection,
    chunked_ibot_loss,
    clip_loss,
    dice_loss,
    dino_loss,
    ibot_loss,
    koleo_loss,
    sinkhorn_knopp,
    sinkhorn_offsets,
    softmax_center,
    teacher_targets,
    unicl_loss,
    unique_pair_targets,
    update_center,
)


def unit_rows(seed: int, rows: int = 6, width: int = 8) -> Tensor:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


def naive_unicl(images: Tensor, texts: Tensor, targets: list[int], scale: float) -> float:
    logits = scale * images.double().numpy() @ texts.double().numpy().T
    total = 0.0
    for matrix in (logits, logits.T):
        scores = log_softmax(matrix)
        rows = [-np.mean([scores[a, b] for b in range(len(targets)) if targets[a] == targets[b]]) for a in range(len(targets))]
        total += float(np.mean(rows)) / 2
    return total


@pytest.mark.parametrize("targets", [[0, 1, 2, 3, 4, 5], [4, 4, 1, 2, 1, 4], [7] * 6])
def test_unicl_is_the_naive_formula(targets: list[int]) -> None:
    images, texts = unit_rows(0), unit_rows(1)
    loss = unicl_loss(images, texts, torch.tensor(targets), torch.tensor(10.0))
    assert loss.item() == pytest.approx(naive_unicl(images, texts, targets, 10.0), rel=1e-6)


def test_unicl_with_distinct_targets_is_clip() -> None:
    images, texts, scale = unit_rows(0), unit_rows(1), torch.tensor(20.0)
    targets = unique_pair_targets(torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(unicl_loss(images, texts, targets, scale), clip_loss(images, texts, scale), rtol=1e-6, atol=0)


def test_unicl_ignores_the_order_of_the_batch_and_of_the_towers() -> None:
    images, texts, targets, scale = unit_rows(0), unit_rows(1), torch.tensor([1, 1, 2, 3, 2, 4]), torch.tensor(5.0)
    loss = unicl_loss(images, texts, targets, scale)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(unicl_loss(images[order], texts[order], targets[order], scale), loss)
    torch.testing.assert_close(unicl_loss(texts, images, targets, scale), loss)


@pytest.mark.parametrize("shape", [(6, 512), (3, 6, 512)])
def test_cross_entropies_and_their_gradients_stay_float32_under_autocast(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.randn(shape[-2:], generator=torch.Generator().manual_seed(1)).softmax(dim=-1)
    found = []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = dino_loss(logits, targets)
        found.append((loss.detach(), *torch.autograd.grad(loss, logits)))
    for plain, autocast in zip(*found, strict=True):
        assert torch.equal(plain, autocast)


def test_contrastive_logits_stay_float32_under_autocast() -> None:
    images, texts, scale = unit_rows(0), unit_rows(1), torch.tensor(100.0)
    expected = clip_loss(images, texts, scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert clip_loss(images, texts, scale).item() == expected.item()


def test_unique_pair_targets_keeps_classes_and_separates_pairs() -> None:
    targets = unique_pair_targets(torch.tensor([0, 3, 0, 3, 1, 0]))
    assert targets[1] == targets[3] == 3
    assert targets[4] == 1
    assert len(set(targets.tolist())) == 5


def naive_sinkhorn(logits: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """The reference's order of operations in float64, where exp() does not overflow."""
    matrix = np.exp((logits - logits.max()) / temperature).T
    matrix /= matrix.sum()
    prototypes, rows = matrix.shape
    for _ in range(iterations):
        matrix /= matrix.sum(1, keepdims=True) * prototypes
        matrix /= matrix.sum(0, keepdims=True) * rows
    return (matrix * rows).T


def test_sinkhorn_is_the_naive_formula_and_survives_logits_that_overflow() -> None:
    logits = 2 * torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    targets = sinkhorn_knopp(logits, 0.04)
    np.testing.assert_allclose(targets.numpy(), naive_sinkhorn(logits.double().numpy(), 0.04, 3), rtol=2e-4, atol=1e-6)
    torch.testing.assert_close(targets.sum(1), torch.ones(12))


def test_dino_and_ibot_are_the_naive_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    targets = softmax_center(teacher, torch.zeros(1, 7), 0.05)
    rows = -(targets.double().numpy() * log_softmax(student.double().numpy() / 0.1)).sum(1)
    assert dino_loss(student, targets).item() == pytest.approx(rows.mean(), rel=1e-6)
    weights = torch.tensor([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3])
    expected = (rows * weights.double().numpy()).sum() / 4
    assert ibot_loss(student, targets, weights, num_crops=4).item() == pytest.approx(expected, rel=1e-6)


def test_center_is_a_moving_average_and_shifts_targets() -> None:
    logits = torch.tensor([[1.0, 3.0], [3.0, 5.0]])
    center = update_center(torch.zeros(1, 2), logits)
    torch.testing.assert_close(center, torch.tensor([[0.2, 0.4]]))
    torch.testing.assert_close(
        softmax_center(torch.tensor([[2.0, 4.0]]), torch.tensor([[2.0, 4.0]]), 0.05), torch.full((1, 2), 0.5)
    )


def test_koleo_is_the_naive_formula() -> None:
    x = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    unit = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    nearest = [min(np.linalg.norm(unit[a] - unit[b]) for b in range(6) if b != a) for a in range(6)]
    assert koleo_loss(x).item() == pytest.approx(-np.mean(np.log(nearest)), rel=1e-6)


def test_koleo_of_duplicates_is_finite_and_of_one_image_refused() -> None:
    x = torch.ones(4, 5, requires_grad=True)
    loss = koleo_loss(x)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    with pytest.raises(InputError, match="no neighbour"):
        koleo_loss(torch.ones(1, 5))


def test_dice_of_right_wrong_and_empty_masks() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    sure = 40 * (mask - 0.5)
    assert dice_loss(sure, mask).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-sure, mask).item() == pytest.approx(1 - 1 / 65, abs=1e-6)
    empty = torch.zeros_like(mask)
    assert dice_loss(torch.full_like(mask, -40), empty).item() == pytest.approx(0, abs=1e-6)


def test_without_masked_patches_the_centre_stays_and_targets_are_empty() -> None:
    center, nothing = torch.ones(1, 4), torch.zeros(0, 4)
    assert torch.equal(update_center(center, nothing), center)
    assert sinkhorn_knopp(nothing, 0.05).shape == softmax_center(nothing, center, 0.05).shape == (0, 4)
    assert ibot_loss(nothing, nothing, torch.zeros(0), num_crops=4).item() == 0


def test_sinkhorn_in_chunks_is_sinkhorn_at_once() -> None:
    logits = torch.randn(23, 64, generator=torch.Generator().manual_seed(0))
    offsets = sinkhorn_offsets(lambda: logits.split(5), 0.05)
    torch.testing.assert_close(teacher_targets(logits, offsets, 0.05), sinkhorn_knopp(logits, 0.05), rtol=1e-5, atol=1e-7)


def test_sinkhorn_of_ranks_shares_prototypes_evenly_among_all_their_rows() -> None:
    """Three ranks, in three threads that wait for each other where processes would."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    logits = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    board, barrier = [torch.empty(0)] * 3, Barrier(3)

    def targets_of(rank: int) -> Tensor:
        def gather(rows: Tensor) -> Tensor:
            board[rank] = rows
            barrier.wait()
            everything = torch.cat(board)
            barrier.wait()
            return everything

        return sinkhorn_knopp(logits.chunk(3)[rank], 0.05, gather=gather)

    with ThreadPoolExecutor(3) as pool:
        together = torch.cat(list(pool.map(targets_of, range(3))))
    torch.testing.assert_close(together, sinkhorn_knopp(logits, 0.05), rtol=1e-5, atol=1e-7)
    alone = torch.cat([sinkhorn_knopp(part, 0.05) for part in logits.chunk(3)])
    assert (alone - together).abs().max() > 0.1


class LargestTensor(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("chunk_tokens", [1, 7, 50, 1000])
@pytest.mark.parametrize("num_tokens", [0, 50])
def test_ibot_in_chunks_is_ibot_at_once_and_never_holds_all_logits(chunk_tokens: int, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, prototypes, teacher_rows = (
        torch.nn.functional.normalize(torch.randn(n, 6, generator=generator), dim=-1) for n in (num_tokens, 300, num_tokens)
    )
    offsets, weights = torch.randn(1, 300, generator=generator), torch.rand(num_tokens, generator=generator)
    results, largest = [], LargestTensor()
    for chunked in (True, False):
        mine, shared = rows.clone().requires_grad_(), prototypes.clone().requires_grad_()
        if chunked:
            with largest:
                teacher = Projection(teacher_rows, prototypes)
                loss = chunked_ibot_loss(
                    Projection(mine, shared), teacher, offsets, 0.05, weights, 8, chunk_tokens=chunk_tokens
                )
                loss.backward()
        else:
            targets = teacher_targets(teacher_rows @ prototypes.T, offsets, 0.05)
            loss = ibot_loss(mine @ shared.T, targets, weights, 8)
            loss.backward()
        results.append((loss.detach(), mine.grad, shared.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert largest.numel <= max(300 * 6, min(chunk_tokens, num_tokens) * 300)


def naive_dice(logits: torch.Tensor, targets: torch.Tensor, over: str, squared: bool, known: torch.Tensor) -> float:
    """Mask by mask, in words."""
    costs = []
    num_images, num_classes = targets.shape[:2]
    heaps = [[(b, c)] for b in range(num_images) for c in range(num_classes)]
    if over == "batch":
        heaps = [[(b, c) for b in range(num_images)] for c in range(num_classes)]
    for heap in heaps:
        heap = [place for place in heap if known[place]]
        if not heap:
            continue
        p = torch.cat([logits[place].sigmoid().flatten() for place in heap])
        t = torch.cat([targets[place].flatten() for place in heap])
        total = (p**2).sum() + (t**2).sum() if squared else p.sum() + t.sum()
        costs.append(1 - (2 * (p * t).sum() + 1) / (total + 1))
    return float(torch.stack(costs).mean())


@pytest.mark.parametrize("over", ["image", "batch"])
@pytest.mark.parametrize("squared", [False, True])
def test_dice_variants_equal_their_definition(over: str, squared: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    targets = torch.rand(3, 4, 5, 6, generator=generator)
    known = torch.rand(3, 4, generator=generator) < 0.6
    known[:, 2] = False
    found = dice_loss(logits, targets, over=over, squared=squared, known=known)
    assert found.item() == pytest.approx(naive_dice(logits, targets, over, squared, known), abs=1e-6)


def test_dice_of_a_class_that_nobody_knows_is_zero_and_has_a_gradient() -> None:
    logits = torch.zeros(2, 1, 4, 4, requires_grad=True)
    for over in ("image", "batch"):
        dice_loss(logits, torch.ones(2, 1, 4, 4), over=over, known=torch.zeros(2, 1, dtype=torch.bool)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()
