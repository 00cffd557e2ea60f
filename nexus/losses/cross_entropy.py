"""Cross-entropy of student logits against teacher probabilities, in little memory.

With 131,072 prototypes and 5,000 masked patches one float32 table takes 2.6 GB, and the textbook
`-(p * log_softmax(s / temp)).sum(-1)` keeps one and builds three. Here autograd keeps only the two
arguments, in their own dtype, and one number per row; temporaries stay under `numerics.WORKSPACE`.
Only elementwise products and sums are used, so TF32 matrix multiplication cannot round the result.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nexus.losses.numerics import full_dtype, no_autocast, row_slices


def cross_entropy(
    student_logits: Float[Tensor, "student rows prototypes"],
    teacher_probs: Float[Tensor, "teacher rows prototypes"],
    student_temp: float,
) -> Float[Tensor, "teacher student rows"]:
    """`H(teacher, softmax(student / student_temp))` of every teacher row with the same student row.

    ::

        z[s, n]     = student_logits[s, n] / student_temp
        ce[t, s, n] = sum_k p[t, n, k] * (logsumexp(z[s, n]) - z[s, n, k])

    float32 (float64 if an argument is) whatever the dtype of the logits or an autocast region.
    Teacher probabilities are constants: they get no gradient.
    """
    with no_autocast(student_logits.device):
        return _CrossEntropy.apply(student_logits, teacher_probs.detach(), student_temp)


class _CrossEntropy(torch.autograd.Function):
    """`d ce / d student = (softmax(z) * sum(p) - p) / temp`, one slice of rows at a time."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temp: float) -> Tensor:
        dtype = full_dtype(student.dtype, teacher.dtype)
        crops, rows, prototypes = student.shape
        mass = teacher.sum(dim=2, dtype=dtype)
        log_norm = torch.empty(crops, rows, dtype=dtype, device=student.device)
        losses = torch.empty(len(teacher), crops, rows, dtype=dtype, device=student.device)
        for part in row_slices(rows, prototypes):
            for s in range(crops):
                z = student[s, part].to(dtype) / temp
                log_norm[s, part] = z.logsumexp(dim=1)
                for t in range(len(teacher)):
                    agreement = (teacher[t, part] * z).sum(dim=1)
                    losses[t, s, part] = log_norm[s, part] * mass[t, part] - agreement
        ctx.save_for_backward(student, teacher, mass, log_norm)
        ctx.temp = temp
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, mass, log_norm = ctx.saved_tensors
        crops, rows, prototypes = student.shape
        result = torch.empty_like(student)
        weight = grad / ctx.temp
        for part in row_slices(rows, prototypes):
            for s in range(crops):
                z = student[s, part].to(log_norm.dtype) / ctx.temp
                slope = z.sub_(log_norm[s, part, None]).exp_()
                slope *= (weight[:, s, part] * mass[:, part]).sum(dim=0)[:, None]
                for t in range(len(teacher)):
                    slope -= weight[t, s, part, None] * teacher[t, part]
                result[s, part] = slope.to(result.dtype)
        return result, None, None
