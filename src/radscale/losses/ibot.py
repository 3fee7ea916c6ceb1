"""Masked-patch self-distillation (Zhou et al., 2022), as in DINOv2."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from radscale.losses.dino import row_cross_entropy, teacher_targets


def ibot_loss(
    student_logits: Tensor,
    teacher_probabilities: Tensor,
    mask_weights: Tensor,
    num_crops: int,
    student_temperature: float = 0.1,
) -> Tensor:
    """Cross-entropy of masked patches, averaged within each crop and then over all crops.

    Args:
        student_logits: (M, K), M masked patches of all crops.
        teacher_probabilities: (M, K), the teacher's targets at the same patches.
        mask_weights: (M,), 1 / number of masked patches in the patch's crop.
        num_crops: all global crops, those without a mask included (DINOv2 divides by them too).
        student_temperature: of the student's softmax.
    """
    loss = row_cross_entropy(student_logits, teacher_probabilities, student_temperature)
    return (loss * mask_weights).sum() / num_crops


@dataclass(frozen=True)
class Projection:
    """Logits before they are computed: (M, D) normalised features and (K, D) prototypes, of one network's head."""

    features: Tensor
    prototypes: Tensor

    def chunks(self, size: int) -> list["Projection"]:
        """Parts of at most `size` rows; one without rows if there are none."""
        return [Projection(part, self.prototypes) for part in self.features.split(size)]

    def logits(self, temperature: float = 1.0) -> Tensor:
        """(M, K), divided by a temperature, which costs less in the features."""
        return F.linear(self.features / temperature, self.prototypes.to(self.features.dtype))


def chunked_ibot_loss(
    student: Projection,
    teacher: Projection,
    teacher_offsets: Tensor,
    teacher_temperature: float,
    mask_weights: Tensor,
    num_crops: int,
    student_temperature: float = 0.1,
    *,
    chunk_tokens: int,
) -> Tensor:
    """`ibot_loss` that never holds the logits of more than `chunk_tokens` patches.

    With 40 images of 518 px a GPU has M = 16,400 masked patches and K = 65,536 prototypes: 4.3 GB in float32 for each of the
    (M, K) matrices of the plain loss and its gradient. Here the logits of a chunk, of student and teacher, are computed
    again in the backward pass: two more products of (M, D) and (D, K), 1 % of the arithmetic of a ViT-B's step.

    Args:
        student: M masked patches; gradients flow to features and prototypes.
        teacher: the same patches.
        teacher_offsets: (1, K), see `teacher_targets`.
        teacher_temperature: of the teacher's softmax.
        mask_weights: (M,), as in `ibot_loss`.
        num_crops: as in `ibot_loss`.
        student_temperature: of the student's softmax.
        chunk_tokens: rows per chunk. If all fit into one, nothing is computed twice.
    """

    def part(features: Tensor, prototypes: Tensor, target: Projection, weights: Tensor) -> Tensor:
        targets = teacher_targets(target.logits(teacher_temperature), teacher_offsets, temperature=1.0)
        logits = Projection(features, prototypes).logits(student_temperature)
        return ibot_loss(logits, targets, weights, num_crops, student_temperature=1.0)

    parts = list(zip(student.chunks(chunk_tokens), teacher.chunks(chunk_tokens), mask_weights.split(chunk_tokens), strict=True))
    if len(parts) == 1:
        ((mine, target, weights),) = parts
        return part(mine.features, mine.prototypes, target, weights)
    losses = [
        checkpoint(part, mine.features, mine.prototypes, target, weights, use_reentrant=False, preserve_rng_state=False)
        for mine, target, weights in parts
    ]
    return torch.stack(losses).sum()
