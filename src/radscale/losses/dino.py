"""Self-distillation between views (Caron et al., 2021; Oquab et al., 2024): teacher targets and cross-entropy.

N = rows, K = prototypes.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Gather = Callable[[Tensor], Tensor]
"""(n, ...) rows of this rank -> (W * n, ...) rows of all W ranks of the run."""


def itself(rows: Tensor) -> Tensor:
    """The `Gather` of a run of one rank."""
    return rows


def dino_loss(student_logits: Tensor, teacher_probabilities: Tensor, student_temperature: float = 0.1) -> Tensor:
    """Mean over rows of the cross-entropy of the student under the teacher's targets.

    DINOv2 weighs its pairs of views by 1 / (2 + 2 * local crops); that is the caller's business.

    Args:
        student_logits: (N, K).
        teacher_probabilities: (N, K), rows sum to 1, already paired with the student's rows.
        student_temperature: of the student's softmax.
    """
    return row_cross_entropy(student_logits, teacher_probabilities, student_temperature).mean()


def row_cross_entropy(student_logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """(N,) cross-entropies in float32. With many prototypes this is bound by memory: as few passes over (N, K) as can be."""
    log_probabilities = over_temperature(student_logits, temperature).log_softmax(dim=-1, dtype=torch.float32)
    # Autocast takes this for a matrix product: in bfloat16 targets lose more digits than student and teacher differ by.
    with torch.autocast(device_type=student_logits.device.type, enabled=False):
        return -torch.linalg.vecdot(teacher_probabilities.float(), log_probabilities)


def over_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits (N, K) as they are if the temperature is 1: whoever has divided the features saves a pass over the logits."""
    return logits if temperature == 1 else logits.float() / temperature


@torch.no_grad()
def sinkhorn_knopp(teacher_logits: Tensor, temperature: float, num_iterations: int = 3, *, gather: Gather = itself) -> Tensor:
    """Targets that use all prototypes equally often (SwAV; DINOv2's `sinkhorn_knopp` centering).

    Args:
        teacher_logits: (N, K), of this rank.
        temperature: of the teacher.
        num_iterations: row and column normalisations.
        gather: (1, K) of this rank -> (W, K) of all ranks; prototypes are then shared evenly among the rows of all of them.

    Returns:
        (N, K) float32, rows sum to 1.
    """
    offsets = sinkhorn_offsets(lambda: [teacher_logits], temperature, num_iterations, gather=gather)
    return teacher_targets(teacher_logits, offsets, temperature)


@torch.no_grad()
def sinkhorn_offsets(
    logit_chunks: Callable[[], Iterable[Tensor]], temperature: float, num_iterations: int = 3, *, gather: Gather = itself
) -> Tensor:
    """What Sinkhorn-Knopp adds to each prototype's scaled logit: all that is left of it, since its last step is a softmax.

    The iterations only scale rows and columns of exp(logits / temperature). Kept as logarithms, the factors neither overflow
    nor underflow, as exp() of logits does in the reference; and those of the rows follow from those of the prototypes, so
    that the logits may come in chunks that are computed anew for each iteration. Numbers of rows cancel.

    Args:
        logit_chunks: called once per iteration, gives the (n, K) parts of this rank's logits; at least one, maybe without rows.
        temperature: of the teacher.
        num_iterations: row and column normalisations.
        gather: as in `sinkhorn_knopp`.

    Returns:
        (1, K) float32, for `teacher_targets`.
    """
    offsets = None
    for _ in range(num_iterations):
        totals = []
        for logits in logit_chunks():
            scaled = over_temperature(logits, temperature).float()
            if offsets is not None:
                scaled = scaled - (scaled + offsets).logsumexp(dim=1, keepdim=True)
            totals.append(scaled.logsumexp(dim=0, keepdim=True))
        offsets = -gather(torch.cat(totals).logsumexp(dim=0, keepdim=True)).logsumexp(dim=0, keepdim=True)
    assert offsets is not None
    return offsets


@torch.no_grad()
def teacher_targets(teacher_logits: Tensor, offsets: Tensor, temperature: float) -> Tensor:
    """Targets (N, K) of one of the two centerings: `sinkhorn_offsets`, or minus the centre divided by the temperature."""
    return (over_temperature(teacher_logits, temperature) + offsets).softmax(dim=-1)


@torch.no_grad()
def softmax_center(teacher_logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Targets (N, K) by softmax of the centred logits (DINOv2's `centering`)."""
    return teacher_targets(teacher_logits, -center / temperature, temperature)


@torch.no_grad()
def update_center(center: Tensor, teacher_logits: Tensor, momentum: float = 0.9, *, gather: Gather = itself) -> Tensor:
    """The centre for the next step: moving average of the mean logits.

    As in the reference, the mean over ranks of each rank's mean: ranks with more masked patches do not weigh more.

    Args:
        center: (1, K), zeros at the start.
        teacher_logits: (N, K) of this step and rank; a rank without rows does not count, and without any the centre stays.
        momentum: of the average.
        gather: (1, n) of this rank -> (W, n) of all ranks.
    """
    present = center.new_full((1, 1), float(len(teacher_logits) > 0))
    mean = teacher_logits.float().sum(dim=0, keepdim=True) / max(1, len(teacher_logits))
    total = gather(torch.cat([mean, present], dim=1)).sum(dim=0, keepdim=True)
    num_present = total[:, -1:]
    moved = center * momentum + total[:, :-1] / num_present.clamp(min=1) * (1 - momentum)
    return torch.where(num_present > 0, moved, center)
