"""Explanations, and how alike two are (e²KD, Parchami-Araghi et al. 2402.03119)."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from limbeck.functional._common import result_dtype

_EPS = 1e-8  # a map of a smaller norm has no direction


def gradcam(
    features: Float[Tensor, "batch channels height width"] | Float[Tensor, "batch tokens channels"],
    gradients: Float[Tensor, "batch channels height width"]
    | Float[Tensor, "batch tokens channels"],
) -> Float[Tensor, "batch height width"] | Float[Tensor, "batch tokens"]:
    """GradCAM (Selvaraju et al. 1610.02391): ``ReLU(sum_k mean(gradient_k) * feature_k)``.

    Args:
        features: feature maps A, ``[batch, channels, height, width]``, or tokens
            ``[batch, tokens, channels]`` (drop class tokens first).
        gradients: of the explained logit with respect to A, in the same shape; taken with
            ``create_graph=True`` the map can be trained through.

    Returns:
        Maps ``[batch, height, width]``, or ``[batch, tokens]``; not negative.

    Raises:
        ValueError: shapes differ, or are neither maps nor tokens.
    """
    if features.shape != gradients.shape:
        raise ValueError(
            f"features have shape {tuple(features.shape)}, gradients have shape "
            f"{tuple(gradients.shape)}; expected the same shape"
        )
    if features.ndim not in (3, 4):
        raise ValueError(
            f"features have shape {tuple(features.shape)}; expected [batch, channels, height, "
            "width] or [batch, tokens, channels]"
        )
    places, channels = ((2, 3), 1) if features.ndim == 4 else ((1,), 2)
    dtype = result_dtype(features)
    weights = gradients.to(dtype).mean(dim=places, keepdim=True)
    return torch.relu((weights * features.to(dtype)).sum(dim=channels))


def explanation_similarity(
    student_map: Float[Tensor, " batch *student_shape"],
    teacher_map: Float[Tensor, " batch *teacher_shape"],
    *,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, " batch"]:
    """Cosine of the flattened maps, per sample.

    Unchanged by a positive scale of either map. A map of zeros (norm up to 1e-8) has no direction:
    its similarity is 0 and its gradient zero.

    Args:
        student_map: ``[batch, ..., height, width]``, or any ``[batch, ...]`` without ``size``.
        teacher_map: the same of the teacher; fixed, receives no gradient.
        size: (height, width) that both are resized to: bilinear, antialiased when shrinking. None:
            the maps are compared as they are and must have the same shape.

    Returns:
        ``[batch]`` in [-1, 1]; in [0, 1] for maps without negative entries.

    Raises:
        ValueError: the (resized) maps differ in shape, or cannot be resized.
    """
    return 1 - _distance(student_map, teacher_map, size)


def explanation_loss(
    student_map: Float[Tensor, " batch *student_shape"],
    teacher_map: Float[Tensor, " batch *teacher_shape"],
    *,
    size: tuple[int, int] | None = None,
    reduction: Literal["batchmean", "none"] = "batchmean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """``mean(1 - explanation_similarity)``, the explanation term of e²KD.

    A zero map of the teacher costs exactly 1 with zero gradient, as in the authors' code; so does
    a zero map of the student, where the slope of the cosine is not defined. Exactly 0, with zero
    gradient, for equal maps. Arguments and errors as in ``explanation_similarity``; ``reduction``
    "none" gives ``[batch]``.
    """
    distance = _distance(student_map, teacher_map, size)
    return distance if reduction == "none" else distance.sum() / max(len(student_map), 1)


def energy_pointing_game(
    maps: Float[Tensor, "batch height width"] | Float[Tensor, "batch channels height width"],
    masks: Shaped[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """Share of a map's positive energy that lies on the object (Score-CAM, Wang et al. 1910.01279).

    Args:
        maps: explanations, ``[batch, height, width]``; of ``[batch, channels, height, width]`` the
            channels are added up first. Negative entries do not count.
        masks: where the object is, bool or weights in [0, 1], ``[batch, height, width]``; resize
            maps first where they are smaller.

    Returns:
        ``[batch]`` in [0, 1]; NaN for a map without a positive entry, which points nowhere.

    Raises:
        ValueError: maps and masks differ in shape.
    """
    if maps.ndim == 4:
        maps = maps.sum(dim=1)
    if maps.shape != masks.shape or maps.ndim != 3:
        raise ValueError(
            f"maps have shape {tuple(maps.shape)}, masks have shape {tuple(masks.shape)}; "
            "expected [batch, height, width] of both"
        )
    energy = maps.to(result_dtype(maps)).clamp(min=0).flatten(1)
    inside = (energy * masks.to(energy.dtype).flatten(1)).sum(dim=1)
    return inside / energy.sum(dim=1)


def _distance(student: Tensor, teacher: Tensor, size: tuple[int, int] | None) -> Tensor:
    """1 - cosine as ½‖a/‖a‖ - b/‖b‖‖²: not negative, and exactly 0 for equal maps."""
    dtype = result_dtype(student)
    a, b = resized_maps(student.to(dtype), size), resized_maps(teacher.detach().to(dtype), size)
    if a.shape != b.shape:
        hint = "; give size=(height, width) to resize both" if size is None else ""
        raise ValueError(
            f"maps: student has shape {tuple(a.shape)}, teacher has shape {tuple(b.shape)}; "
            f"expected the same shape{hint}"
        )
    a, b = a.reshape(len(a), a[0:1].numel()), b.reshape(len(b), b[0:1].numel())
    norm_a, norm_b = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (a, b))
    gap = a / norm_a.clamp(min=_EPS) - b / norm_b.clamp(min=_EPS)
    directed = ((norm_a > _EPS) & (norm_b > _EPS)).squeeze(1)
    return torch.where(directed, (gap * gap).sum(dim=1) / 2, 1.0)


def resized_maps(maps: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Return ``[batch, (channels,) height, width]`` in another size, as the losses above do."""
    if size is None or maps.shape[-2:] == tuple(size):
        return maps
    if maps.ndim not in (3, 4):
        raise ValueError(
            f"a map of shape {tuple(maps.shape)} cannot be resized to {tuple(size)}; expected "
            "[batch, height, width] or [batch, channels, height, width]"
        )
    images = maps if maps.ndim == 4 else maps.unsqueeze(1)
    shrinks = any(new < old for new, old in zip(size, maps.shape[-2:], strict=True))
    images = F.interpolate(
        images, size=tuple(size), mode="bilinear", align_corners=False, antialias=shrinks
    )
    return images if maps.ndim == 4 else images.squeeze(1)
