"""iBOT loss: the student's prediction of each hidden patch against the teacher, who saw it.

Zhou et al. 2021 (arXiv 2111.07832), as weighted by the official DINOv2 code.
"""

from jaxtyping import Float
from torch import Tensor

from nexus.losses.cross_entropy import cross_entropy


def ibot_loss(
    student_logits: Float[Tensor, "masked prototypes"],
    teacher_probs: Float[Tensor, "masked prototypes"],
    weight: Float[Tensor, " masked"],
    crops: int,
    student_temp: float = 0.1,
) -> Float[Tensor, ""]:
    """Cross-entropy of the hidden patches, averaged per crop and then over all global crops.

    ::

        total = 0
        for i in hidden patches:
            log_q = log_softmax(student_logits[i] / student_temp)
            total += weight[i] * -sum(teacher_probs[i] * log_q)
        loss = total / crops

    `weight[i]` is 1 / (hidden patches of that crop), see `Masks.weight`. `crops` counts every
    global crop, masked or not: with half of them masked the loss is half the mean over those.
    Without any hidden patch the loss is 0, still attached to the graph.
    """
    losses = cross_entropy(student_logits[None], teacher_probs[None], student_temp)[0, 0]
    return (losses * weight.to(losses.dtype)).sum() / crops
