"""Boundary supporting samples: where the teacher would change its mind (Heo et al., 1805.05532)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.functional._common import check_class_indices, check_same_shape, working_dtype


def base_samples(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    most: int = 64,
) -> Int[Tensor, " chosen"]:
    """Which samples to start from: those that both get right.

    Where there are more than ``most``, those whose probabilities differ most off the label:
    ``Σ_{k≠y} (p_k - q_k)²``.

    Args:
        student_logits: ``[batch, classes]``.
        teacher_logits: ``[batch, classes]``.
        targets: class indices ``[batch]``; a sample without a label (-100) is never chosen.
        most: how many at most, at least 1.

    Returns:
        Positions in the batch, int64; empty where there is none.

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape(student_logits, teacher_logits, "logits")
    check_class_indices(student_logits, targets)
    right = (teacher_logits.argmax(dim=-1) == targets) & (student_logits.argmax(dim=-1) == targets)
    places = right.nonzero().squeeze(1)
    if len(places) <= most:
        return places
    dtype = working_dtype(student_logits, teacher_logits)
    ours, theirs = (
        z.detach()[places].to(dtype).softmax(-1) for z in (student_logits, teacher_logits)
    )
    apart = (theirs - ours).square().scatter(-1, targets[places].long()[:, None], 0.0).sum(dim=-1)
    return places[apart.argsort(descending=True, stable=True)[:most]]


def adversarial_targets(
    teacher_logits: Float[Tensor, "batch classes"], uniform: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """A class for each sample to be moved to: by the teacher's probabilities, its first apart.

    Args:
        teacher_logits: ``[batch, classes]``, at least 2 classes.
        uniform: a number in [0, 1) for each sample, which decides.

    Raises:
        ValueError: fewer than 2 classes.
    """
    if teacher_logits.shape[-1] < 2:
        raise ValueError("logits have 1 class; there is no other to be moved to")
    probs = teacher_logits.detach().to(working_dtype(teacher_logits)).softmax(dim=-1)
    scores, classes = probs.sort(dim=-1, descending=True, stable=True)
    reached = scores[:, 1:].cumsum(dim=-1)
    wanted = reached[:, -1:] * uniform.to(reached)[:, None]
    first = (reached < wanted).sum(dim=-1).clamp(max=reached.shape[-1] - 1)
    return classes[:, 1:].gather(-1, first[:, None]).squeeze(-1)


def boundary_step(
    inputs: Float[Tensor, " batch *dims"],
    gradient: Float[Tensor, " batch *dims"],
    gap: Float[Tensor, " batch"],
    moving: Bool[Tensor, " batch"],
    *,
    step: float = 0.3,
    limit: float | None = 2.5,
) -> Float[Tensor, " batch *dims"]:
    """One step towards the boundary: ``x + α (gap + 1e-4) ∇ / ‖∇‖``.

    Args:
        inputs: ``[batch, ...]``.
        gradient: of (target's logit - base's logit) at the inputs. Where it is zero, nothing moves.
        gap: base's logit - target's logit: the nearer the boundary, the smaller the step.
        moving: which samples are still called what they were.
        step: α > 0.
        limit: inputs stay in ± this; None: no limit.
    """
    flat = gradient.flatten(1)
    norm = flat.norm(dim=1, keepdim=True)
    way = torch.where(norm > 0, flat / norm.clamp(min=torch.finfo(norm.dtype).tiny), 0.0)
    length = torch.where(moving, step * (gap + 1e-4), 0.0).to(way)
    moved = inputs + (length[:, None] * way).view_as(inputs)
    return moved if limit is None else moved.clamp(-limit, limit)
