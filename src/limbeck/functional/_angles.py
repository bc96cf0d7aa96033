"""Angles of all triples: the sum of their Huber losses, with ``batch²`` numbers kept."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from limbeck.functional._twice import is_last, one_by_one, slopes_of, summed


def angle_gap(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], step: int) -> Tensor:
    """Return the sum over all triples, ``step`` vertices at a time.

    Args:
        ours: the student's Gram matrix and inverse distances (0 for equal samples), each
            ``[batch, batch]``.
        theirs: the teacher's.
        step: vertices looked at together, at least 1.
    """
    slopes = torch.is_grad_enabled() and any(one.requires_grad for one in ours)
    told = _AngleGap.apply(*ours, *theirs, step, slopes)  # type: ignore[no-untyped-call]
    total: Tensor = told[0]
    return total


class _AngleGap(torch.autograd.Function):
    """Sum of the Huber losses of all angles; the slopes are found along with the value.

    A triple is looked at once, and nothing of it is kept: what autograd would keep, or make again,
    is of size ``batch³``. With ``w`` the slope of the loss at the gap of two cosines,
    ``p = g_bc - g_ab - g_ac + g_aa`` and ``cos = p i_ab i_ac``: at the Gram matrix the slopes are
    sums of ``w i_ab i_ac``, at the inverse distance ``i_ab`` they are ``2 Σ_c w cos / i_ab``. Where
    slopes will themselves be differentiated, they are found anew, part by part.
    """

    @staticmethod
    def forward(
        student_gram: Tensor,
        student_inverse: Tensor,
        teacher_gram: Tensor,
        teacher_inverse: Tensor,
        step: int,
        slopes: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum, and its slopes at the first two (zeros where none are wanted)."""
        total = student_gram.new_zeros(())
        gram_slope, inverse_slope = (torch.zeros_like(x) for x in (student_gram, student_inverse))
        for start in range(0, len(student_gram), step):
            rows = slice(start, start + step)
            cosines = _cosines(student_gram, student_inverse, rows)
            gap = _cosines(teacher_gram, teacher_inverse, rows).neg_().add_(cosines)
            slope = gap.clamp(-1.0, 1.0)
            flat = slope.flatten()
            total += flat.dot(gap.flatten()) - 0.5 * flat.dot(flat)  # Huber's loss, of width 1
            if not slopes:
                continue
            near = student_inverse[rows]
            turned = 2.0 * torch.einsum("abc,abc->ab", slope, cosines)
            inverse_slope[rows] = torch.where(near > 0, turned / near, 0.0)
            slope.mul_(near[:, :, None]).mul_(near[:, None, :])
            sums = slope.sum(2)
            gram_slope += slope.sum(0)
            gram_slope[rows] -= 2.0 * sums
            gram_slope.diagonal()[rows] += sums.sum(1)
        return total, gram_slope, inverse_slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the matrices, and the slopes where they were found."""
        *matrices, ctx.step, ctx.has_slopes = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*matrices, *output[1:])

    @staticmethod
    def backward(ctx: Any, *above: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the slopes that ``forward`` found, or sums of parts that can be differentiated."""
        *matrices, gram_slope, inverse_slope = ctx.saved_tensors
        if above[0] is None:
            return (None,) * 6
        if ctx.has_slopes and is_last():
            return above[0] * gram_slope, above[0] * inverse_slope, None, None, None, None
        step = ctx.step

        def slopes(start: int, scale: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            def part(gram: Tensor, inverse: Tensor) -> tuple[Tensor]:
                return (_gap(slice(start, start + step), gram, inverse, *given[2:]),)

            return slopes_of(part, given[:2], (scale,))

        places = range(0, len(matrices[0]), step)
        return *summed(slopes, places, above[0], *matrices), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        """Map by a loop."""
        return one_by_one(_AngleGap, info, in_dims, *args)


def _cosines(gram: Tensor, inverse: Tensor, rows: slice) -> Tensor:
    """``⟨x_b - x_a, x_c - x_a⟩ / (d_ab d_ac)`` as ``[a, b, c]``, for the vertices in ``rows``."""
    to_others = gram[rows]
    itself = gram.diagonal()[rows]
    products = gram - to_others[:, :, None]
    products.sub_(to_others[:, None, :]).add_(itself[:, None, None])
    near = inverse[rows]
    return products.mul_(near[:, :, None]).mul_(near[:, None, :])


def _gap(
    rows: slice,
    student_gram: Tensor,
    student_inverse: Tensor,
    teacher_gram: Tensor,
    teacher_inverse: Tensor,
) -> Tensor:
    """The sum over the vertices in ``rows``, of operations that all have derivatives."""

    def cosines(gram: Tensor, inverse: Tensor) -> Tensor:
        near, own = inverse[rows], gram[rows]
        itself = gram.diagonal()[rows][:, None, None]
        return (gram - own[:, :, None] - own[:, None, :] + itself) * (
            near[:, :, None] * near[:, None, :]
        )

    ours, theirs = cosines(student_gram, student_inverse), cosines(teacher_gram, teacher_inverse)
    return smooth_l1_loss(ours, theirs, reduction="sum")
