"""Losses on how samples lie to each other: similarities, distances, angles.

All of them compare the samples of a batch, so that the batch decides the value; they take features
of any shape, one row a sample, and the widths of student and teacher may differ.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from limbeck.functional._angles import angle_gap
from limbeck.functional._common import check_positive, result_dtype, working_dtype
from limbeck.functional._distances import distances, inverse_of

MAX_TRIPLES = 2**18
"""Triples that ``rkd_angle`` holds at once: few enough for a processor's cache."""


def sp(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *other"],
) -> Float[Tensor, ""]:
    """Similarity-preserving loss (Tung and Mori 1907.09682): ``‖G_T - G_S‖²_F / batch²``.

    ``G = F Fᵀ`` with rows of length 1, ``F`` the features flattened to one row a sample. Nothing
    changes where a feature space is rotated, or all of it scaled.

    Args:
        student_feature: ``[batch, ...]``.
        teacher_feature: ``[batch, ...]``, of any size; fixed, receives no gradient.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: the numbers of samples differ.

    >>> feature = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> sp(feature, 3 * feature)
    tensor(0.)
    """
    student, teacher = _rows(student_feature, teacher_feature)
    gap = normalize(_gram(teacher), dim=1) - normalize(_gram(student), dim=1)
    return _as_result(gap.square().sum() / _at_least_1(len(gap) ** 2), student_feature)


def rkd_distance(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *other"],
) -> Float[Tensor, ""]:
    """Distance-wise relational KD (Park et al. 1904.05068).

    Euclidean distances of all ordered pairs, divided by the mean of those above 0; then the Huber
    loss (of width 1) between student's and teacher's, mean over the ``batch²`` pairs, the zeros of
    a sample with itself included (as the authors' code has it, and their weights assume).

    Args:
        student_feature: ``[batch, ...]``.
        teacher_feature: ``[batch, ...]``, of any size; fixed, receives no gradient.

    Returns:
        A scalar; 0 for a batch of none or one.

    Raises:
        ValueError: the numbers of samples differ.
    """
    student, teacher = _rows(student_feature, teacher_feature)
    if not len(student):
        return _as_result(student.sum(), student_feature)
    loss = smooth_l1_loss(_by_their_mean(student), _by_their_mean(teacher))
    return _as_result(loss, student_feature)


def rkd_angle(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *other"],
    *,
    max_triples: int = MAX_TRIPLES,
) -> Float[Tensor, ""]:
    """Angle-wise relational KD (Park et al. 1904.05068).

    The cosine of the angle at each sample between each two samples, from the Gram matrix; then the
    Huber loss (of width 1), mean over the ``batch³`` triples (those with a sample twice count 0).
    No more than ``max_triples`` are held at once: their slopes are summed up while they are there,
    so that memory grows with ``batch²`` and time with ``batch³``. So it is for derivatives of any
    order and under ``torch.func.grad`` and ``vmap``; there is no forward-mode derivative.

    Args:
        student_feature: ``[batch, ...]``.
        teacher_feature: ``[batch, ...]``, of any size; fixed, receives no gradient.
        max_triples: triples held at once, at least ``batch²``.

    Returns:
        A scalar; 0 for a batch of none or one.

    Raises:
        ValueError: the numbers of samples differ.
    """
    check_positive("max_triples", max_triples)
    student, teacher = _rows(student_feature, teacher_feature)
    if not len(student):
        return _as_result(student.sum(), student_feature)
    ours, theirs = _angles_from(student), _angles_from(teacher)
    count = len(student)
    step = max(1, int(max_triples) // count**2)
    total = angle_gap(ours, theirs, step)
    return _as_result(total / count**3, student_feature)


def pkt(
    student_feature: Float[Tensor, " batch *feature"],
    teacher_feature: Float[Tensor, " batch *other"],
    *,
    eps: float = 1e-7,
) -> Float[Tensor, ""]:
    """Probabilistic knowledge transfer (Passalis and Tefas 1803.10837), cosine kernel.

    ``p_ij`` is ``(cos(f_i, f_j) + 1) / 2``, rows divided by their sum; the loss is the mean over
    all ``batch²`` entries of ``p_T log((p_T + ε) / (p_S + ε))``: KL(teacher ‖ student) of each row,
    divided by ``batch²`` as in the authors' code.

    Args:
        student_feature: ``[batch, ...]``.
        teacher_feature: ``[batch, ...]``, of any size; fixed, receives no gradient.
        eps: added to lengths and inside the logarithm, above 0. It leaves a gradient of this order
            where student equals teacher.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: the numbers of samples differ.
    """
    check_positive("eps", eps)
    student, teacher = _rows(student_feature, teacher_feature)
    ours, theirs = _neighbours(student, eps), _neighbours(teacher, eps)
    terms = theirs * ((theirs + eps).log() - (ours + eps).log())
    return _as_result(terms.sum() / _at_least_1(terms.numel()), student_feature)


def _rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as ``[batch, width]`` in working precision, the teacher's detached."""
    if len(student) != len(teacher):
        raise ValueError(
            f"features: student has {len(student)} samples, teacher has {len(teacher)}; expected "
            "the same samples"
        )
    dtype = working_dtype(student, teacher)
    ours, theirs = (x.to(dtype).reshape(len(x), -1 if x.numel() else 0) for x in (student, teacher))
    return ours, theirs.detach()


def _as_result(loss: Tensor, like: Tensor) -> Tensor:
    return loss.to(result_dtype(like))


def _at_least_1(count: int) -> int:
    return max(count, 1)


def _gram(rows: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):  # it would round the products
        return rows @ rows.T


def _by_their_mean(rows: Tensor) -> Tensor:
    """Distances over the mean of those above 0; all 0 where none is."""
    apart = distances(rows, rows)
    count = (apart > 0).sum()
    mean = apart.sum() / count.clamp_min(1)
    return apart / torch.where(count > 0, mean, 1.0)


def _angles_from(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix and inverse distances (0 for equal rows): all that angles need."""
    rows = rows - rows.mean(0, keepdim=True)  # angles do not see it, rounding does
    return _gram(rows), inverse_of(distances(rows, rows))


def _neighbours(rows: Tensor, eps: float) -> Tensor:
    """Each sample's probability of each, from cosines in [0, 1]."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    cosines = _gram(rows / (length + eps))
    similarity = (cosines + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)
