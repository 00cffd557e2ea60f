"""DINO loss: the student's CLS prediction of each crop against the teacher's of every other crop.

Caron et al. 2021 (arXiv 2104.14294), equation 2, as weighted by the official DINOv2 code.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nexus.errors import ConfigError
from nexus.losses.cross_entropy import cross_entropy


def dino_pair_losses(
    student_logits: Float[Tensor, "student batch prototypes"],
    teacher_probs: Float[Tensor, "teacher batch prototypes"],
    student_temp: float = 0.1,
) -> Float[Tensor, "teacher student"]:
    """Mean cross-entropy over the batch for each pair of teacher crop and student crop.

    ::

        for t in teacher crops:
            for s in student crops:
                total = 0
                for b in images:
                    log_q = log_softmax(student_logits[s, b] / student_temp)
                    total += -sum(teacher_probs[t, b] * log_q)
                pairs[t, s] = total / images

    Each row of `teacher_probs` sums to 1. Computed in float32 (float64 stays) whatever the dtype.
    """
    return cross_entropy(student_logits, teacher_probs, student_temp).mean(dim=2)


def split_pairs(
    pair_losses: Float[Tensor, "teacher student"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The shares of global and of local student crops in the DINO loss; their sum is the loss.

    Student crops are the teacher's global crops, in the same order, then the local crops. A crop is
    never compared with itself. All other pairs weigh the same: with 2 global and 8 local crops the
    global part is 2/18 of a mean over its pairs and the local part 16/18, as in the official code.
    Without local crops the local part is 0. Raises `ConfigError` if no two different crops exist.
    """
    teachers, students = pair_losses.shape
    weights = torch.tensor(
        pair_weights(teachers, students), dtype=pair_losses.dtype, device=pair_losses.device
    )
    # A loss that is not finite must not spoil the others where its weight is 0.
    weighted = torch.where(weights > 0, weights * pair_losses, 0.0)
    return weighted[:, :teachers].sum(), weighted[:, teachers:].sum()


def pair_weights(teachers: int, students: int) -> list[list[float]]:
    """The weight of each pair `[teacher][student]`: the same for all pairs of different crops."""
    pairs = teachers * (students - 1)
    if pairs < 1 or students < teachers:
        raise ConfigError(
            f"the DINO loss has no pair of different crops in {teachers} teacher and {students} "
            "student crops: the student must see every crop of the teacher, and at least two in all"
        )
    return [[0.0 if t == s else 1.0 / pairs for s in range(students)] for t in range(teachers)]


def dino_loss(
    student_logits: Float[Tensor, "student batch prototypes"],
    teacher_probs: Float[Tensor, "teacher batch prototypes"],
    student_temp: float = 0.1,
) -> Float[Tensor, ""]:
    """Plain mean of `dino_pair_losses` over all ordered pairs of two different crops.

    Student crops are `[global..., local...]`, teacher crops the same global ones in the same order.
    """
    global_part, local_part = split_pairs(dino_pair_losses(student_logits, teacher_probs, student_temp))
    return global_part + local_part
