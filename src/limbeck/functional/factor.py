"""Factor transfer: a translation of the student against a paraphrase of the teacher."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional._common import check_choice, check_positive
from limbeck.functional._maps import mean_of, pooled_pair
from limbeck.functional.attention import attention_map

FactorForm = Literal["attention", "flat"]


def factor_transfer(
    student_factor: Float[Tensor, "batch _ _ _"],
    teacher_factor: Float[Tensor, "batch _ _ _"],
    *,
    form: FactorForm = "attention",
    norm: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean distance of normalised factors (Kim et al. 1802.04977).

    Args:
        student_factor: ``[batch, channels, height, width]``, from the translator.
        teacher_factor: the same samples, from the paraphraser; receives no gradient. Maps of
            different sizes are average-pooled to the smaller one.
        form: ``attention``: of the mean over channels of squares, as RepDistiller has it and its
            weight of 200 assumes; ``flat``: of all entries, as the paper is said to have it.
        norm: power of the absolute differences, above 0.

    Returns:
        The mean over samples and entries; 0 for an empty batch. Scaling a sample's factor by a
        positive number changes nothing.

    Raises:
        ValueError: these are no maps of the same samples, an unknown form, channels that differ
            where all entries count, or norm is not positive.
    """
    check_choice("form", form, FactorForm)
    check_positive("norm", norm)
    ours, theirs = pooled_pair(student_factor, teacher_factor)
    if form == "attention":
        gap = attention_map(ours) - attention_map(theirs)
    else:
        if ours.shape != theirs.shape:
            raise ValueError(
                f"factors have {ours.shape[1]} channels (student) and {theirs.shape[1]} "
                "(teacher); expected the same number"
            )
        first, second = (nn.functional.normalize(x.flatten(1), dim=1) for x in (ours, theirs))
        gap = first - second
    return mean_of(gap.abs() if norm == 1 else gap.abs().pow(norm))
