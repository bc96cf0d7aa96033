"""Partial teachers of Tang et al. (2002.03532): distributions with one kind of knowledge left.

Each returns class probabilities that stand in for the teacher's. What the paper's text leaves open
(exponents, mixing) is a parameter; see ``limbeck methods kd_pt`` and its siblings.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import check_class_indices, check_min_classes


def keep_top_k(
    teacher_probs: Float[Tensor, "*batch classes"], k: int
) -> Float[Tensor, "*batch classes"]:
    """KD-topk: the k largest probabilities stay, the rest is spread evenly over the others.

    Args:
        teacher_probs: ``[*batch, classes]``.
        k: from 1 to classes; all classes is the distribution itself.

    Raises:
        ValueError: k is out of range.

    >>> keep_top_k(torch.tensor([[0.5, 0.3, 0.15, 0.05]]), 2)
    tensor([[0.5000, 0.3000, 0.1000, 0.1000]])
    """
    classes = teacher_probs.shape[-1]
    if not 1 <= k <= classes:
        raise ValueError(f"k is {k}; expected a whole number from 1 to {classes}, the classes")
    if k == classes:
        return teacher_probs
    best, places = teacher_probs.topk(k, dim=-1)
    rest = torch.ones_like(teacher_probs).scatter(-1, places, 0.0)
    even = (teacher_probs * rest).sum(dim=-1, keepdim=True) / (classes - k)
    return even.expand_as(teacher_probs).scatter(-1, places, best)


def keep_confidence(
    teacher_probs: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch classes"]:
    """KD-pt: the label's probability stays, the rest is spread evenly: re-weighting alone.

    Args:
        teacher_probs: ``[*batch, classes]``, at least 2 classes.
        targets: class indices ``[*batch]``, every one in [0, classes).

    Raises:
        ValueError: shapes do not fit, or fewer than 2 classes.
    """
    check_class_indices(teacher_probs, targets)
    check_min_classes(teacher_probs, 2)
    label = targets.long()[..., None]
    right = teacher_probs.gather(-1, label)
    even = (1 - right) / (teacher_probs.shape[-1] - 1)
    return even.expand_as(teacher_probs).scatter(-1, label, right)


def class_similarity(
    head_weight: Float[Tensor, "classes features"], *, power: float = 1.0, temperature: float = 1.0
) -> Float[Tensor, "classes classes"]:
    """KD-sim: row t is softmax over classes of sign(s)|s|^power / T, s the cosine of head rows.

    A relation between classes that depends on the label alone, taken from the teacher's last layer.
    For a negative cosine a fractional power has no value; ``sign(s)|s|^power`` keeps its sign.

    Args:
        head_weight: rows of the teacher's classifier, ``[classes, features]``.
        power: sharpens the cosines, above 0.
        temperature: softens the result, above 0; large gives even rows.
    """
    cosine = class_cosines(head_weight)
    return (cosine.sign() * cosine.abs().pow(power) / temperature).softmax(dim=1)


def class_cosines(
    head_weight: Float[Tensor, "classes features"],
) -> Float[Tensor, "classes classes"]:
    """Cosines of the rows of a last layer: which classes it holds alike. In float64, detached.

    A row of zeros has cosine 0 with all. A vector that is added to all rows changes no
    probability, but it changes these cosines: what they say of two networks is in how they differ
    between pairs of classes.

    Args:
        head_weight: rows of the classifier, ``[classes, features]``.
    """
    unit = torch.nn.functional.normalize(head_weight.detach().double(), dim=1)
    return unit @ unit.T


def class_hierarchy(
    superclasses: Int[Tensor, " classes"], *, own: float = 0.9, within: float = 0.7
) -> Float[Tensor, "classes classes"]:
    """KD-rel: row t has ``own`` on class t, ``within`` of the rest on its superclass' others.

    A hand-made prior: what is left goes evenly to all classes of other superclasses. Where a
    superclass has one member, all of the rest goes to the others.

    Args:
        superclasses: superclass of each class, ``[classes]``.
        own: probability of the label, in (0, 1].
        within: share of ``1 - own`` for the label's superclass, in [0, 1].
    """
    same = superclasses[:, None] == superclasses[None, :]
    itself = torch.eye(len(superclasses), dtype=torch.bool, device=superclasses.device)
    near, far = (same & ~itself).double(), (~same).double()
    num_near, num_far = near.sum(dim=1, keepdim=True), far.sum(dim=1, keepdim=True)
    to_near = torch.where(num_near == 0, 0.0, torch.where(num_far == 0, 1.0, within))
    spread = near * to_near / num_near.clamp(min=1) + far * (1 - to_near) / num_far.clamp(min=1)
    rest = spread * (1 - own)
    return rest + itself * (1 - rest.sum(dim=1, keepdim=True))
