"""Codebooks: which of the teacher's words a position is, and how far the student's guess is off."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import check_same_shape, result_dtype
from limbeck.functional._maps import mean_of

CHUNK = 8192  # rows whose distances to all prototypes are held at once


def codeword_probabilities(
    feature: Float[Tensor, "batch channels positions"],
    codewords: Float[Tensor, "words channels"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "batch words positions"]:
    r"""Soft assignment of positions to codewords: softmax over k of ``-t ‖f_i - ρ_k‖²``.

    QuEST (Jain et al. 1912.01540) and letKD's penultimate layer (Gorgun et al. 2309.02843). The
    algorithm in letKD's supplement leaves out the sign; its code has it.

    Args:
        feature: the teacher's, one vector a position.
        codewords: ρ.
        temperature: t, a factor: large is sharp.

    Raises:
        ValueError: channels differ.
    """
    if feature.shape[1] != codewords.shape[1]:
        raise ValueError(
            f"feature has {feature.shape[1]} channels, codewords have {codewords.shape[1]}; "
            "expected as many"
        )
    dtype = result_dtype(feature)
    words = codewords.to(dtype)
    # ‖f‖² is the same for all words
    nearness = 2 * words @ feature.to(dtype) - words.square().sum(dim=1)[:, None]
    return (temperature * nearness).softmax(dim=1)


def assignment_kl(
    student_scores: Float[Tensor, "batch words positions"],
    teacher_probs: Float[Tensor, "batch words positions"],
) -> Float[Tensor, ""]:
    """Mean over all positions of KL(teacher || softmax of the student's scores over the words).

    Args:
        student_scores: ``[batch, words, positions]``.
        teacher_probs: the same shape, sums of 1 over the words; receives no gradient.

    Returns:
        A scalar; 0 without positions.

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape(student_scores, teacher_probs, "assignments")
    dtype = result_dtype(student_scores)
    wanted = teacher_probs.detach().to(dtype)
    guess = student_scores.to(dtype).log_softmax(dim=1)
    values = (torch.special.xlogy(wanted, wanted) - wanted * guess).sum(dim=1)
    return mean_of(values)


def nearest_subclass(
    feature: Float[Tensor, "batch channels positions"],
    centres: Float[Tensor, "classes subclasses channels"],
    labels: Int[Tensor, " batch"],
) -> Int[Tensor, "batch positions"]:
    """The sub-class of each position, searched within its image's own class alone.

    Args:
        feature: one vector a position.
        centres: of every sub-class; infinite where a sub-class is empty.
        labels: class of each image, in [0, classes).

    Returns:
        Numbers of sub-classes, ``class * subclasses + which``.
    """
    own = centres.to(feature)[labels]
    distances = (feature[:, None] - own[..., None]).square().sum(dim=2)
    which: Tensor = labels[:, None] * centres.shape[1] + distances.argmin(dim=1)
    return which


def subclass_decisions(
    rows: Float[Tensor, "rows channels"], members: Int[Tensor, " rows"], num_subclasses: int
) -> Float[Tensor, "subclasses subclasses"]:
    """For each sub-class, which share of its members is nearest to which sub-class's mean.

    Rows sum to 1; that of an empty sub-class is its own alone.

    Args:
        rows: features.
        members: sub-class of each, in [0, num_subclasses).
        num_subclasses: how many there are.
    """
    counts = torch.bincount(members, minlength=num_subclasses).to(rows)
    sums = rows.new_zeros(num_subclasses, rows.shape[1]).index_add_(0, members, rows)
    means = sums / counts.clamp(min=1)[:, None]
    bias = means.square().sum(dim=1).masked_fill(counts == 0, torch.inf)
    chunks = torch.split(rows, CHUNK)
    decided = torch.cat([(bias - 2 * chunk @ means.T).argmin(dim=1) for chunk in chunks])
    pairs = torch.bincount(members * num_subclasses + decided, minlength=num_subclasses**2)
    table = pairs.view(num_subclasses, num_subclasses).to(rows)
    table += torch.diag((counts == 0).to(rows))
    return table / table.sum(dim=1, keepdim=True)
