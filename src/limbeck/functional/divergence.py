"""Divergences between the student's and the teacher's class distributions.

Conventions of this file. Classes are the last dimension; any number of dimensions before it are
samples. The teacher is held fixed: no gradient reaches it (swap the roles with ``reverse_kl`` to
train the other side), except in ``kl_from_log_probs``, the primitive, which is differentiable in
both arguments. A logit of -inf is a class that is masked out.

Precision. float32 inputs are computed in float64, half precision in float32; the result has the
student's precision, at least float32. A divergence is summed as ``p * (e^d - 1 - d)`` with
``d = log q - log p``: since both distributions sum to one it is the same number as
``-p * d``, but no term is negative, and at equality each term and its gradient are exactly zero.

Large logits take the fused forms of ``limbeck.kernels``, value and gradient in one go and in the
student's own precision; what that changes is stated there. Size alone decides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import (
    Reduction,
    check_positive,
    check_same_shape,
    divisor_of,
    reduce_rows,
    result_dtype,
    working_dtype,
)
from limbeck.kernels import Divergence, Kind, form_for, value_of

_NEAR = 2.0**-10  # below it e^d - 1 - d loses digits to cancellation and the series takes over
_ENOUGH = 1e-6  # of a sum of float64 terms that cancel, all digits of a float32
_FEW = 64  # classes; rows of fewer are worked on side by side
_LARGEST = torch.finfo(torch.float32).max
_LOWEST = -1e30  # stands for a logit of -inf where 0 * -inf would be formed


def kl_divergence(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)), the loss of Hinton et al. (1503.02531).

    Its gradient with respect to a student logit is ``T * (q - p)`` per sample, ``(q - p) / T``
    without the T².

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; fixed, receives no gradient.
        temperature: T > 0, of both sides.
        scale_by_temperature_squared: multiply by T², which keeps the size of the gradient.
        reduction: see ``Reduction``.

    Returns:
        A scalar, or one value per sample for ``reduction="none"``. Never negative; 0 for one class
        and for an empty batch; inf where the student masks a class that the teacher gives mass.

    Raises:
        ValueError: shapes differ, temperature is not positive, or reduction is unknown.

    >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, float("-inf")]]))
    tensor(0.6931)
    """
    scale = temperature**2 if scale_by_temperature_squared else 1.0

    def plain(student: Tensor) -> Tensor:
        x, y = _tempered(student, teacher_logits, temperature)
        log_z = x.logsumexp(dim=-1, keepdim=True)
        log_p = y - y.logsumexp(dim=-1, keepdim=True)
        p = log_p.exp()
        value = _kl_rows((x - log_z).detach(), log_p, p)
        # Its derivatives come from the same function up to a constant: the gradient is q - p,
        # exactly zero at equality since p is computed as the backward of logsumexp computes q.
        log_loss = log_z.squeeze(-1) - (p * x.clamp(min=_LOWEST)).sum(dim=-1)
        rows = value + (log_loss - log_loss.detach())
        return _finish(rows * scale, student, reduction)

    _check_pair(student_logits, teacher_logits, temperature)
    return _by_size(student_logits, teacher_logits, plain, "forward", temperature, scale, reduction)


def reverse_kl(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """T² · KL(softmax(student/T) ‖ softmax(teacher/T)): the mode-seeking direction.

    Arguments, result and errors as in ``kl_divergence``; inf where the teacher masks a class that
    the student gives mass.

    >>> reverse_kl(torch.tensor([[0.0, float("-inf")]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.6931)
    """
    scale = temperature**2 if scale_by_temperature_squared else 1.0

    def plain(student: Tensor) -> Tensor:
        x, y = _tempered(student, teacher_logits, temperature)
        log_q = torch.log_softmax(x, dim=-1)
        rows = _kl_rows(torch.log_softmax(y, dim=-1), log_q, log_q.exp())
        return _finish(rows * scale, student, reduction)

    _check_pair(student_logits, teacher_logits, temperature)
    return _by_size(student_logits, teacher_logits, plain, "reverse", temperature, scale, reduction)


def kl_to_probs(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_probs: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 1.0,
    scale_by_temperature_squared: bool = True,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """``kl_divergence`` for a black-box teacher that gives probabilities.

    ``log p`` are logits of p, so the temperature acts on both sides as it does there (p becomes
    ``p^(1/T)``, normalised), rounded probabilities are made to sum to one, and zeros are allowed.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_probs: ``[*batch, classes]``, not negative; a row without any mass, or with a
            negative entry, gives NaN.
        temperature: T > 0.
        scale_by_temperature_squared: multiply by T².
        reduction: see ``Reduction``.

    Raises:
        ValueError: as in ``kl_divergence``.

    >>> kl_to_probs(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.6931)
    """
    wide = teacher_probs.to(working_dtype(student_logits, teacher_probs))
    return kl_divergence(
        student_logits,
        wide.log(),
        temperature=temperature,
        scale_by_temperature_squared=scale_by_temperature_squared,
        reduction=reduction,
    )


def kl_from_log_probs(
    student_log_probs: Float[Tensor, "*batch classes"],
    teacher_log_probs: Float[Tensor, "*batch classes"],
    *,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """KL(teacher ‖ student) of log-probabilities: the primitive, differentiable in both.

    Both sides are taken to be normalised; what rounding leaves over, ``sum(q) - sum(p)``, is
    counted as in the generalised KL, which keeps the result from being negative.

    Args:
        student_log_probs: log q, ``[*batch, classes]``; -inf for a class without mass.
        teacher_log_probs: log p, ``[*batch, classes]``; -inf for a class without mass.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ or reduction is unknown.
    """
    check_same_shape(student_log_probs, teacher_log_probs, "log-probabilities")
    dtype = working_dtype(student_log_probs, teacher_log_probs)
    log_p = teacher_log_probs.to(dtype)
    rows = _kl_rows(student_log_probs.to(dtype), log_p, log_p.exp())
    return _finish(rows, student_log_probs, reduction)


def soft_cross_entropy(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_probs: Float[Tensor, "*batch classes"],
    *,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Cross-entropy ``-sum_k p_k log softmax(student)_k`` with soft targets, taken as they are.

    It is KL(p ‖ q) plus the entropy of p, so it has the same gradient but is not zero at equality.
    A row of zeros (no target) costs 0 and has no gradient.

    Args:
        student_logits: ``[*batch, classes]``; divide by T before the call for a temperature.
        teacher_probs: ``[*batch, classes]``, not normalised here; fixed, receives no gradient.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ or reduction is unknown.
    """
    check_same_shape(student_logits, teacher_probs, "logits and probabilities")
    dtype = working_dtype(student_logits, teacher_probs)
    p = teacher_probs.detach().to(dtype)
    log_q = torch.log_softmax(student_logits.to(dtype), dim=-1)
    rows = -(p * log_q.masked_fill(p == 0, 0.0)).sum(dim=-1)
    return _finish(rows, student_logits, reduction)


def _by_size(
    student: Tensor,
    teacher: Tensor,
    plain: Callable[[Tensor], Tensor],
    kind: Kind,
    temperature: float | Tensor,
    scale: float | Tensor,
    reduction: Reduction,
    beta: float = 0.5,
) -> Tensor:
    """Return ``plain(student)``, from a fused form where the logits are large."""
    form = form_for(student, teacher)
    if form == "plain":
        return plain(student)
    tensors = isinstance(temperature, Tensor) or isinstance(scale, Tensor)
    if form == "direct" and (tensors or kind != "forward"):
        return plain(student)
    classes = student.shape[-1]
    weight = scale / divisor_of(student.numel() // max(classes, 1), classes, reduction)
    summed = reduction != "none"
    if form == "direct":
        return value_of(student, _Direct(teacher, float(temperature), float(weight), summed), plain)
    work = Divergence(kind, form, teacher, temperature, weight, summed, beta)
    return value_of(student, work, plain).to(result_dtype(student))


@dataclass(frozen=True)
class _Direct:
    """KL of small logits with its gradient, ``weight (q - p) / T``, in working precision.

    What such a loss costs is the number of its operations, so both sides go through them together.
    """

    teacher: Tensor
    temperature: float
    weight: float
    summed: bool

    def __call__(self, student: Tensor, gradient: Tensor | None) -> Tensor:
        """Return the value, in the precision of results, and fill ``gradient``."""
        logs = self._log_softmax(student)
        (log_q, log_p), (q, p) = logs.unbind(), logs.exp().unbind()
        total = _quick_sum(student, log_q, log_p, p) if self.summed else None
        if total is None or total * self.weight > _LARGEST:
            rows = _kl_rows(log_q, log_p, p)
            value = ((rows.sum() if self.summed else rows) * self.weight).to(result_dtype(student))
        else:
            value = torch.scalar_tensor(total * self.weight, dtype=result_dtype(student))
        if gradient is not None:
            torch.mul(q.sub_(p), self.weight / self.temperature, out=gradient)
        return value

    def _log_softmax(self, student: Tensor) -> Tensor:
        """Return log q and log p, ``[2, *batch, classes]``; of few classes samples lie innermost.

        There a vector of the processor's takes as many samples as it holds, and a row of few
        classes does not fill one.
        """
        dtype = working_dtype(student, self.teacher)
        teacher = self.teacher.detach() if self.teacher.requires_grad else self.teacher
        both = torch.stack((student, teacher))
        if dtype != torch.float64 or student.dtype == torch.float64:
            both = _centred(both.to(dtype))  # no digits to spare: before dividing
        if student.shape[-1] >= _FEW:
            return torch.log_softmax(both.to(dtype).div_(self.temperature), dim=-1)
        both = both.transpose(1, -1).to(dtype, memory_format=torch.contiguous_format)
        return torch.log_softmax(both.div_(self.temperature), dim=1).transpose(1, -1)


def _quick_sum(student: Tensor, log_q: Tensor, log_p: Tensor, p: Tensor) -> float | None:
    """KL(p ‖ q) of all samples as Σ p (log p - log q), where its digits are enough; else None.

    They are in float64 where the result is float32, the mean is not near 0 and no class is without
    mass (then it is NaN). Only a CPU can look without waiting.
    """
    if student.dtype != torch.float32 or not student.is_cpu:
        return None
    total: float = (p * (log_p - log_q)).sum().item()
    return total if total > _ENOUGH * log_p.shape[:-1].numel() else None


def _check_pair(student: Tensor, teacher: Tensor, temperature: float) -> None:
    if student.shape == teacher.shape and 0 < temperature < math.inf:
        return
    check_same_shape(student, teacher, "logits")
    check_positive("temperature", temperature)


def _tempered(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both logits in working precision, the maximum moved to 0 *before* dividing by T."""
    _check_pair(student, teacher, temperature)
    dtype = working_dtype(student, teacher)
    x, y = student.to(dtype), teacher.detach().to(dtype)
    return _centred(x) / temperature, _centred(y) / temperature


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.detach().amax(dim=-1, keepdim=True)


def _kl_rows(log_q: Tensor, log_p: Tensor, p: Tensor) -> Tensor:
    """KL(p ‖ q) per sample, in the precision given, as a sum of terms none of which is negative."""
    # Without teacher mass the term is q alone: any gap > 1 says so, and no inf - inf is formed.
    gap = torch.where(p > 0, log_q - log_p, 2.0)
    far = log_q.exp() - p * (1 + gap)  # where p has underflowed, p * e^gap would be 0 * inf
    return torch.where(gap > 1, far, p * _excess(gap.clamp(max=1.0))).sum(dim=-1)


def _excess(d: Tensor) -> Tensor:
    """e^d - 1 - d without cancellation: never negative, exactly 0 (as its slope) at 0."""
    near = d.abs() < _NEAR
    x = torch.where(near, d, 0.0)
    series = x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120))))
    return torch.where(near, series, torch.expm1(d) - d)


def _finish(rows: Tensor, student: Tensor, reduction: Reduction) -> Tensor:
    return reduce_rows(rows, student.shape[-1], reduction).to(result_dtype(student))
