"""Masked-patch self-distillation (Zhou et al., 2022), as in DINOv2."""

from torch import Tensor

from radscale.losses.dino import row_cross_entropy


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
