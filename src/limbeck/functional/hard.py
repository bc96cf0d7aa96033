"""Hard distillation: the teacher's first choice as a label."""

from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import Reduction, check_choice, check_same_shape
from limbeck.functional.task import cross_entropy


def kd_hard(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, "..."]:
    """Cross-entropy with ``argmax teacher`` as the label: Touvron et al. (2012.12877), eq. 3.

    Args:
        student_logits: ``[*batch, classes]``.
        teacher_logits: ``[*batch, classes]``; of equal ones the first counts.
        label_smoothing: ε in [0, 1]; the target is ``(1-ε) onehot + ε/classes``.
        reduction: see ``Reduction``.

    Raises:
        ValueError: shapes differ, or label_smoothing or reduction is invalid.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_choice("reduction", reduction, Reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected a number in [0, 1]")
    form = "batchmean" if reduction == "elementwise" else reduction
    value = cross_entropy(
        student_logits,
        teacher_logits.detach().argmax(dim=-1),
        label_smoothing=label_smoothing,
        reduction=form,
    )
    return value / student_logits.shape[-1] if reduction == "elementwise" else value
