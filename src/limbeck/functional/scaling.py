"""Calibration by more than one number: ``softmax(W logits + b)``."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional._common import IGNORE, check_predictions, float64
from limbeck.functional.task import cross_entropy
from limbeck.kernels.optimizers import LBFGS

Form = Literal["vector", "matrix"]
_STEPS = 500  # of L-BFGS, at most; a few dozen are usual


class ScalingFit(NamedTuple):
    """A fitted scaling.

    Attributes:
        weight: ``[classes]`` (vector: the diagonal) or ``[classes, classes]`` (matrix: row k makes
            the new logit of class k), float64.
        bias: ``[classes]``, float64.
        error: the negative log-likelihood, without the penalty.
        converged: whether the gradient vanished; without a penalty it does not where the labels
            can be told apart without a mistake.
    """

    weight: Tensor
    bias: Tensor
    error: float
    converged: bool


def scale_logits(
    logits: Float[Tensor, "*batch classes"],
    weight: Float[Tensor, "..."],
    bias: Float[Tensor, " classes"],
) -> Float[Tensor, "*batch classes"]:
    """Vector or matrix scaling: ``W z + b``, in the logits' type.

    Args:
        logits: z, ``[*batch, classes]``.
        weight: ``[classes]`` (the diagonal of W) or ``[classes, classes]``.
        bias: ``[classes]``.

    Raises:
        ValueError: shapes do not fit.

    >>> scale_logits(torch.tensor([[1.0, 2.0]]), torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))
    tensor([[2., 3.]])
    """
    classes = logits.shape[-1]
    if tuple(weight.shape) not in ((classes,), (classes, classes)) or len(bias) != classes:
        raise ValueError(
            f"weight {list(weight.shape)} and bias {list(bias.shape)} do not fit {classes} classes"
        )
    z, w, b = logits.double(), weight.double(), bias.double()
    scaled = z * w if w.dim() == 1 else z @ w.T
    return (scaled + b).to(logits.dtype)


def fit_scaling(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    *,
    form: Form = "vector",
    penalty: float = 0.0,
) -> ScalingFit:
    """Vector or matrix scaling of least negative log-likelihood (Guo et al. 1706.04599, sec. 4.2).

    ``softmax(W z + b)``, W diagonal for "vector". The likelihood is convex; L-BFGS in float64 from
    the identity finds its minimum. Fit on validation data, never on the test set. So many numbers
    fit the noise of few samples, which a penalty holds back: ``penalty`` times the sum of the means
    of b², of W's off-diagonal² (the two after Kull et al. 1910.12656, with one weight for both) and
    of the squared deviations of its diagonal from their mean (ours). A large one leaves one
    temperature.

    Args:
        logits: z, ``[batch, classes]``, finite.
        targets: class indices ``[batch]``; -100 for no label.
        form: "vector" or "matrix".
        penalty: at least 0.

    Raises:
        ValueError: another form, a negative penalty, no labelled sample, logits that are not
            finite, or shapes that do not fit.
    """
    if form not in ("vector", "matrix"):
        raise ValueError(f"form is {form!r}; expected 'vector' or 'matrix'")
    if not penalty >= 0:
        raise ValueError(f"penalty is {penalty}; expected at least 0")
    check_predictions(logits, targets)
    z, y = float64(logits.detach(), targets, targets != IGNORE)
    if not len(y):
        raise ValueError("a scaling cannot be fitted: no sample has a label")
    if not bool(torch.isfinite(z).all()):
        raise ValueError("a scaling cannot be fitted: a logit is not finite")
    weight, bias, converged = _minimise(z, y, form, penalty)
    error = cross_entropy(scale_logits(z, weight, bias), y)
    return ScalingFit(weight, bias, float(error), converged)


def _minimise(z: Tensor, y: Tensor, form: Form, penalty: float) -> tuple[Tensor, Tensor, bool]:
    classes = z.shape[1]
    ones = torch.ones(classes, dtype=z.dtype, device=z.device)
    weight = (ones if form == "vector" else ones.diag()).clone().requires_grad_()
    bias = torch.zeros_like(ones).requires_grad_()
    solver = LBFGS(
        [weight, bias],
        max_iter=_STEPS,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        scaled = z * weight if form == "vector" else z @ weight.T
        value = cross_entropy(scaled + bias, y) + penalty * _roughness(weight, bias)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
        loss()
    steepest = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    return weight.detach(), bias.detach(), steepest < 1e-5


def _roughness(weight: Tensor, bias: Tensor) -> Tensor:
    diagonal = weight if weight.dim() == 1 else weight.diagonal()
    value = bias.square().mean() + (diagonal - diagonal.mean()).square().mean()
    if weight.dim() == 2 and len(weight) > 1:
        off = weight - diagonal.diag()
        value = value + off.square().sum() / (len(weight) * (len(weight) - 1))
    return value
