"""Self-distillation between views (Caron et al., 2021; Oquab et al., 2024): teacher targets and cross-entropy.

N = rows, K = prototypes.
"""

import torch
from torch import Tensor


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
    """(N,) cross-entropies, as logsumexp minus the expected logit: no (N, K) log-probabilities are kept."""
    scaled = student_logits.float() / temperature
    targets = teacher_probabilities.float()
    return scaled.logsumexp(dim=-1) * targets.sum(dim=-1) - (targets * scaled).sum(dim=-1)


@torch.no_grad()
def sinkhorn_knopp(teacher_logits: Tensor, temperature: float, num_iterations: int = 3) -> Tensor:
    """Targets that use all prototypes equally often (SwAV; DINOv2's `sinkhorn_knopp` centering).

    Args:
        teacher_logits: (N, K).
        temperature: of the teacher.
        num_iterations: row and column normalisations.

    Returns:
        (N, K) float32, rows sum to 1.
    """
    scaled = teacher_logits.float() / temperature
    # The iterations only scale rows and columns of exp(scaled). Kept as logarithms, the two vectors of factors neither overflow
    # nor underflow, as exp() of logits does in the reference. The last step makes rows sum to 1, which is a softmax.
    row_factors = scaled.new_zeros(scaled.shape[0], 1)
    prototype_factors = scaled.new_zeros(1, scaled.shape[1])
    for _ in range(num_iterations):
        prototype_factors = -(scaled + row_factors).logsumexp(dim=0, keepdim=True)
        row_factors = -(scaled + prototype_factors).logsumexp(dim=1, keepdim=True)
    return (scaled + prototype_factors).softmax(dim=1)


@torch.no_grad()
def softmax_center(teacher_logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Targets (N, K) by softmax of the centred logits (DINOv2's `centering`)."""
    return ((teacher_logits.float() - center) / temperature).softmax(dim=-1)


@torch.no_grad()
def update_center(center: Tensor, teacher_logits: Tensor, momentum: float = 0.9) -> Tensor:
    """The centre for the next step: moving average of the mean logits.

    Args:
        center: (1, K), zeros at the start.
        teacher_logits: (N, K) of this step; without rows the centre stays.
        momentum: of the average.
    """
    if len(teacher_logits) == 0:
        return center
    return center * momentum + teacher_logits.float().mean(dim=0, keepdim=True) * (1 - momentum)
