"""Gradients of teachers: the control variate of partial variance reduction, and its theory."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def control_variate(
    student_gradient: Float[Tensor, "*shape"],
    teacher_gradient: Float[Tensor, "*shape"],
    full_gradient: Float[Tensor, "*shape"] | None = None,
    *,
    lam: float,
) -> Float[Tensor, "*shape"]:
    r"""Gradient-level distillation (Safaryan et al. 2023, arXiv 2305.17581).

    .. math:: \nabla f_\xi(x) - \lambda \nabla f_\xi(\theta) [+ \lambda \nabla f(\theta)]

    Where the model is linear in its parameters and the loss is cross-entropy (or squared error),
    the first two terms are the gradient of :math:`(1-\lambda)` task loss
    :math:`+ \lambda \mathrm{KL}(p_\theta \| p_x)` at temperature 1, exactly; for other models
    they approximate it. With the third the expectation over ξ is :math:`\nabla f(x)`: unbiased.

    Args:
        student_gradient: of the task loss on a mini-batch, at the student's parameters x.
        teacher_gradient: of the same, at the teacher's θ.
        full_gradient: the teacher's over all data; None: the biased form, which is distillation.
        lam: λ; 0 gives the student's gradient, 1 with all three is SVRG.
    """
    shift = teacher_gradient if full_gradient is None else teacher_gradient - full_gradient
    return student_gradient - lam * shift


def tangent_rise(
    student_parameters: Sequence[Tensor],
    teacher_parameters: Sequence[Tensor],
    teacher_gradients: Sequence[Tensor],
) -> Float[Tensor, ""]:
    r"""Rise of the teacher's tangent plane to the student, :math:`\langle g, x-\theta\rangle`.

    Its gradient in x is g, and g alone: minus λ times it beside the task loss is
    :func:`control_variate` as a term of a loss. With :math:`g = \nabla f_\xi(\theta)` and λ = 1 the
    sum is, up to :math:`f_\xi(\theta)`, the Bregman divergence of :math:`f_\xi` from θ to x.

    Args:
        student_parameters: x, one tensor for each parameter.
        teacher_parameters: θ, in the same order and shapes; detached.
        teacher_gradients: g, likewise.

    Raises:
        ValueError: the three do not match.
    """
    total = torch.zeros(())
    triples = zip(student_parameters, teacher_parameters, teacher_gradients, strict=True)
    for position, (x, theta, slope) in enumerate(triples):
        if not x.shape == theta.shape == slope.shape:
            raise ValueError(
                f"parameter {position}: student {tuple(x.shape)}, teacher {tuple(theta.shape)}, "
                f"gradient {tuple(slope.shape)}; expected the same shape"
            )
        total = total + (slope.detach() * (x - theta.detach())).sum()
    return total


def neighbourhood(
    lam: float,
    *,
    noise: float,
    teacher_noise: float,
    covariance: float,
    bias: float = 0.0,
) -> float:
    r"""Return what the error of constant-step SGD settles at, up to a factor, as λ changes.

    .. math:: N(\lambda) = A - 2 \lambda C + \lambda^2 B + \lambda^2 \, b / (\gamma \mu)

    Args:
        lam: λ.
        noise: A, mean squared norm of the student's stochastic gradient at the optimum.
        teacher_noise: B, mean squared norm of the teacher's.
        covariance: C, mean inner product of the two on the same samples.
        bias: b/(γμ): squared norm of the teacher's full gradient over step size and curvature; 0
            for the unbiased form.
    """
    return noise - 2 * lam * covariance + lam**2 * (teacher_noise + bias)


def best_lambda(*, teacher_noise: float, covariance: float, bias: float = 0.0) -> float:
    r"""Return the minimiser of :func:`neighbourhood`, :math:`C / (B (1 + \beta))`.

    β is ``bias / teacher_noise``. A teacher whose gradient is 0 everywhere changes nothing: then 0.
    May lie outside [0, 1]. Arguments as there.
    """
    total = teacher_noise + bias
    return covariance / total if total > 0 else 0.0


def expected_ratio(
    *, noise: float, teacher_noise: float, covariance: float, bias: float = 0.0
) -> float:
    r"""Return :math:`N(\lambda^*) / N(0) = 1 - \rho^2 / (1 + \beta)`, in [0, 1].

    :math:`\rho = C / \sqrt{A B}` is the correlation of the two stochastic gradients. Arguments as
    in :func:`neighbourhood`. Without any noise of the student there is nothing to reduce: then 1.
    """
    total = noise * (teacher_noise + bias)
    return 1 - covariance**2 / total if total > 0 else 1.0
