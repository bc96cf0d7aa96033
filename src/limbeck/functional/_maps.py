"""What the equations on feature maps share: shapes, common sizes, means."""

from jaxtyping import Float
from torch import Tensor

from limbeck.functional._common import result_dtype
from limbeck.functional.pooling import average_pool


def check_maps(student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError unless both are maps ``[batch, channels, height, width]`` of one batch."""
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError(
            f"features have shapes {tuple(student.shape)} (student) and {tuple(teacher.shape)} "
            "(teacher); expected maps [batch, channels, height, width] of the same samples"
        )


def match_sizes(
    first: Float[Tensor, "batch _ _ _"], second: Float[Tensor, "batch _ _ _"]
) -> tuple[Float[Tensor, "batch _ height width"], Float[Tensor, "batch _ height width"]]:
    """Average-pool two maps to the smaller height and the smaller width of both.

    Args:
        first: ``[batch, channels, height, width]``.
        second: the same samples, any channels and size.
    """
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return _pool(first, size), _pool(second, size)


def pooled_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps at their common size, at least in float32, the teacher's detached.

    Raises:
        ValueError: they are not maps of one batch.
    """
    check_maps(student, teacher)
    ours, theirs = student.to(result_dtype(student)), teacher.detach().to(result_dtype(teacher))
    return match_sizes(ours, theirs)


def mean_of(values: Tensor) -> Tensor:
    """Mean over all entries; 0 with a graph where there are none."""
    return values.sum() / max(values.numel(), 1)


def _pool(feature: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(feature.shape[2:]) == size:
        return feature
    return average_pool(feature, size=size)
