"""Class activation maps, and the distance between a student's and a teacher's."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.functional._common import check_positive, result_dtype
from limbeck.functional._maps import check_maps, mean_of
from limbeck.functional.pooling import average_pool


def class_activation_maps(
    feature: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "classes channels"],
) -> Float[Tensor, "batch classes height width"]:
    """What each position says for each class: ``Σ_c weight[k, c] feature[b, c, y, x]``.

    Of a network whose classifier reads the mean of this feature over positions, the mean of a map
    is the class's logit without the bias.

    Args:
        feature: the map that is averaged, ``[batch, channels, height, width]``.
        weight: the classifier's matrix, ``[classes, channels]``.

    Raises:
        ValueError: the numbers of channels differ.

    >>> class_activation_maps(torch.ones(1, 2, 1, 1), torch.tensor([[1.0, 2.0]])).item()
    3.0
    """
    if feature.shape[1] != weight.shape[1]:
        raise ValueError(
            f"feature has {feature.shape[1]} channels, the classifier reads {weight.shape[1]}; "
            "expected the map that the classifier reads averaged"
        )
    dtype = result_dtype(feature)
    with torch.autocast(feature.device.type, enabled=False):
        maps: Tensor = torch.einsum("bcyx,kc->bkyx", feature.to(dtype), weight.to(dtype))
    return maps


def class_attention(
    student_maps: Float[Tensor, "batch classes _ _"],
    teacher_maps: Float[Tensor, "batch classes _ _"],
    *,
    size: int = 2,
    normalise: bool = True,
    binarise: bool = False,
) -> Float[Tensor, ""]:
    """Class attention transfer (Guo et al. 2304.12777): squared distance of pooled maps.

    Both are average-pooled to ``size`` squared, divided by their length over positions, and
    compared: mean over samples, classes and positions.

    Args:
        student_maps: class activation maps, ``[batch, classes, height, width]``.
        teacher_maps: the same classes, of any height and width; receives no gradient.
        size: height and width of the pooled maps, at least 1.
        normalise: whether to divide by lengths; a map of zeros stays zero.
        binarise: whether the teacher's maps become, before pooling, 1 where they are above the mean
            of their absolute values, and 0 elsewhere.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: these are no maps of the same samples and classes.
    """
    check_maps(student_maps, teacher_maps)
    check_positive("size", size)
    if student_maps.shape[1] != teacher_maps.shape[1]:
        raise ValueError(
            f"maps are of {student_maps.shape[1]} classes (student) and {teacher_maps.shape[1]} "
            "(teacher); expected the same classes"
        )
    ours = student_maps.to(result_dtype(student_maps))
    theirs = teacher_maps.detach().to(result_dtype(teacher_maps))
    if binarise:
        theirs = (theirs > theirs.abs().mean(dim=(2, 3), keepdim=True)).to(theirs.dtype)
    ours, theirs = (average_pool(maps, size=size) for maps in (ours, theirs))
    if normalise:
        ours, theirs = (nn.functional.normalize(m.flatten(2), dim=2) for m in (ours, theirs))
    return mean_of((ours - theirs).square())
