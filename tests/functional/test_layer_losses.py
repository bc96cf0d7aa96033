"""VID, CC, FSP, AB and KD-SVD against loops, with what each of them does not see."""

import math

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = draw(3, 4, 4, 4), draw(3, 4, 4, 4, seed=1)
DEEPER = draw(3, 6, 2, 2, seed=2), draw(3, 6, 2, 2, seed=3)
SCALE = draw(4, seed=4)
ROWS = draw(5, 6), draw(5, 9, seed=5)


def entries(tensor: Tensor):
    """Every index of a tensor with its value, as Python numbers."""
    for index in torch.cartesian_prod(*(torch.arange(n) for n in tensor.shape)).tolist():
        yield index, float(tensor[tuple(index)])


# VID


def naive_vid(mean: Tensor, target: Tensor, scale: Tensor, epsilon: float) -> float:
    total = 0.0
    for index, mu in entries(mean):
        variance = math.log1p(math.exp(float(scale[index[1]]))) + epsilon
        total += 0.5 * ((mu - float(target[tuple(index)])) ** 2 / variance + math.log(variance))
    return total / mean.numel()


@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
def test_variational_information_against_loops(epsilon):
    value = lf.variational_information(STUDENT, TEACHER, SCALE, epsilon=epsilon)
    assert value.item() == pytest.approx(naive_vid(STUDENT, TEACHER, SCALE, epsilon), rel=1e-10)


def test_the_variance_is_trained_and_best_where_it_is_the_mean_squared_error():
    scale = torch.full((4,), lf.scale_of_variance(5.0), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = lf.variational_information(STUDENT, TEACHER, scale)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    found = torch.nn.functional.softplus(scale.detach()) + 1e-5
    errors = (STUDENT - TEACHER).square().mean((0, 2, 3))
    torch.testing.assert_close(found, errors, rtol=1e-5, atol=0)


@pytest.mark.parametrize("variance", [1e-4, 0.5, 5.0, 900.0])
def test_scale_of_variance_is_the_inverse(variance):
    scale = torch.tensor(lf.scale_of_variance(variance), dtype=torch.float64)
    assert float(torch.nn.functional.softplus(scale)) + 1e-5 == pytest.approx(variance, rel=1e-10)


def test_variational_information_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"have 4, 6 and \(4,\) channels; expected the same"):
        lf.variational_information(STUDENT, draw(3, 6, 4, 4), SCALE)
    with pytest.raises(ValueError, match="epsilon is 0; expected a positive number"):
        lf.variational_information(STUDENT, TEACHER, SCALE, epsilon=0)
    with pytest.raises(ValueError, match=r"variance is 0\.1; expected more than epsilon, 0\.2"):
        lf.scale_of_variance(0.1, epsilon=0.2)


# CC


def test_neighbour_congruence_against_loops():
    student, teacher = draw(5, 6), draw(5, 6, seed=7)
    gaps = (student - teacher).abs().tolist()
    sums = [sum(a * b for a, b in zip(gaps[i], gaps[i + 1], strict=True)) for i in range(4)]
    value = lf.neighbour_congruence(student, teacher)
    assert value.item() == pytest.approx(sum(sums) / 4, rel=1e-12)
    assert lf.neighbour_congruence(student[[2, 0, 1, 3, 4]], teacher[[2, 0, 1, 3, 4]]) != value
    alone = student[:1].clone().requires_grad_()
    value = lf.neighbour_congruence(alone, teacher[:1])
    value.backward()
    assert value == 0


def unit_rows(rows: Tensor) -> list[list[float]]:
    return [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows.tolist()]


@pytest.mark.parametrize("order", [1, 2, 5, None])
def test_correlation_congruence_against_loops(order):
    def kernel(x: list[float], y: list[float]) -> float:
        if order is None:
            return math.exp(-0.4 * sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        terms = [0.8**p / math.factorial(p) * dot**p for p in range(order + 1)]
        return math.exp(-0.8) * sum(terms)

    s, t = (unit_rows(rows) for rows in ROWS)
    places = [(i, j) for i in range(5) for j in range(5)]
    expected = sum((kernel(s[i], s[j]) - kernel(t[i], t[j])) ** 2 for i, j in places) / 25
    value = lf.correlation_congruence(*ROWS, order=order)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_the_expansion_becomes_the_kernel():
    exact = lf.correlation_congruence(*ROWS, gamma=0.4, order=None)
    torch.testing.assert_close(lf.correlation_congruence(*ROWS, gamma=0.4, order=20), exact)


def test_correlations_see_neither_rotation_nor_scale_nor_order():
    turn, _ = torch.linalg.qr(draw(9, 9, seed=8))
    changed = lf.correlation_congruence(3 * ROWS[0].flip(0), (ROWS[1] @ turn).flip(0))
    torch.testing.assert_close(changed, lf.correlation_congruence(*ROWS))


def test_congruence_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"of 5 samples \(student\) and 4 \(teacher\)"):
        lf.correlation_congruence(ROWS[0], ROWS[1][:4])
    with pytest.raises(ValueError, match="order is 0; expected a whole number"):
        lf.correlation_congruence(*ROWS, order=0)
    with pytest.raises(ValueError, match="gamma is 0; expected a positive number"):
        lf.correlation_congruence(*ROWS, gamma=0)
    with pytest.raises(ValueError, match="embeddings: student has shape"):
        lf.neighbour_congruence(*ROWS)


# FSP


def naive_flow(lower: Tensor, upper: Tensor) -> Tensor:
    """One sample; maps of equal size."""
    result = torch.zeros(len(upper), len(lower), dtype=torch.float64)
    for i in range(len(upper)):
        for j in range(len(lower)):
            products = [a * b for a, b in zip(upper[i].flatten(), lower[j].flatten(), strict=True)]
            result[i, j] = sum(products) / len(products)
    return result


def test_fsp_against_loops():
    def flows(lower: Tensor, upper: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(lower, 2)
        return torch.stack([naive_flow(a, b) for a, b in zip(small, upper, strict=True)])

    first = flows(STUDENT, DEEPER[0]), flows(TEACHER, DEEPER[1])
    expected = sum(float(v) ** 2 for v in (first[0] - first[1]).flatten()) / first[0].numel()
    value = lf.fsp([STUDENT, DEEPER[0]], [TEACHER, DEEPER[1]])
    assert value.item() == pytest.approx(expected, rel=1e-10)
    second = lf.fsp([DEEPER[0], DEEPER[1]], [DEEPER[1], DEEPER[0]])
    three = lf.fsp([STUDENT, DEEPER[0], DEEPER[1]], [TEACHER, DEEPER[1], DEEPER[0]])
    torch.testing.assert_close(three, value + second)


def test_flow_does_not_see_where_things_are():
    turned = [STUDENT.flip(3), STUDENT.flip(3).square()]
    value = lf.fsp(turned, [TEACHER, TEACHER])
    torch.testing.assert_close(value, lf.fsp([STUDENT, STUDENT.square()], [TEACHER, TEACHER]))


# AB


@pytest.mark.parametrize("margin", [1.0, 0.2])
def test_activation_boundary_against_loops(margin):
    total = 0.0
    for index, s in entries(STUDENT):
        t = float(TEACHER[tuple(index)])
        total += (s + margin) ** 2 if s > -margin and t <= 0 else 0
        total += (s - margin) ** 2 if s <= margin and t > 0 else 0
    value = lf.activation_boundary(STUDENT, TEACHER, margin=margin)
    assert value.item() == pytest.approx(total / 3, rel=1e-12)


def test_activation_boundary_sees_signs_alone_and_can_be_met():
    value = lf.activation_boundary(STUDENT, TEACHER)
    assert torch.equal(lf.activation_boundary(STUDENT, 100 * TEACHER), value)
    assert torch.equal(lf.activation_boundary(STUDENT, TEACHER.relu()), value)
    met = torch.where(TEACHER > 0, 1.0, -1.0).to(TEACHER).requires_grad_()
    value = lf.activation_boundary(met, TEACHER)
    value.backward()
    assert value == 0
    assert not met.grad.any()
    with pytest.raises(ValueError, match="margin is 0; expected a positive number"):
        lf.activation_boundary(STUDENT, TEACHER, margin=0)


# KD-SVD


def naive_singular(student, teacher, rank: int) -> float:
    """By torch's decomposition, one sample after another."""
    total, before = 0.0, None
    for s, t in zip(student, teacher, strict=True):
        now = [_directions(one, other, rank) for one, other in zip(s, t, strict=True)]
        for sample in range(len(now)) if before else ():
            for r in range(rank):
                for i in range(s.shape[1]):
                    for j in range(before[sample][0].shape[0]):
                        a, b = (
                            math.exp(
                                -(float(now[sample][k][i, r] - before[sample][k][j, r]) ** 2) / 8
                            )
                            for k in (0, 1)
                        )
                        total += (a - b) ** 2 / len(now)
        before = now
    return total


def _directions(student: Tensor, teacher: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    def right(feature: Tensor, count: int) -> tuple[Tensor, Tensor]:
        _, values, rows = torch.linalg.svd(feature.flatten(1).T, full_matrices=False)
        vectors = rows[:count].T
        signs = [-1.0 if float(vectors[:, k].sum()) < 0 else 1.0 for k in range(vectors.shape[1])]
        return vectors * torch.tensor(signs, dtype=torch.float64), values[:count]

    theirs, strengths = right(teacher, rank)
    candidates, _ = right(student, rank + 3)
    ours = []
    for k in range(rank):
        cosines = [float(candidates[:, c] @ theirs[:, k]) for c in range(candidates.shape[1])]
        best = max(range(len(cosines)), key=lambda c: abs(cosines[c]))
        ours.append(candidates[:, best] * (1.0 if cosines[best] > 0 else -1.0))
    strengths = strengths / strengths.norm()
    return torch.stack(ours, 1) * strengths, theirs * strengths


SMALL = draw(3, 4, 3, 3, seed=9)


@pytest.mark.parametrize("rank", [1, 2])
def test_singular_flow_against_torchs_decomposition(rank):
    students, teachers = [STUDENT, DEEPER[0], SMALL], [SMALL, DEEPER[1], TEACHER]
    value = lf.singular_flow(students, teachers, rank=rank)
    assert value.item() == pytest.approx(naive_singular(students, teachers, rank), rel=1e-9)


def test_singular_directions_see_no_order_of_positions_nor_scale():
    shuffled = STUDENT.flatten(2)[..., torch.randperm(16)].unflatten(2, (2, 8))
    value = lf.singular_flow([shuffled, -3 * DEEPER[0]], [TEACHER, DEEPER[1]])
    expected = lf.singular_flow([STUDENT, DEEPER[0]], [TEACHER, DEEPER[1]])
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)


def test_dead_channels_have_finite_gradients():
    dead = STUDENT.clone()
    dead[:, 1:] = 0
    dead.requires_grad_()
    lf.singular_flow([dead, dead * 2], [TEACHER, TEACHER]).backward()
    assert torch.isfinite(dead.grad).all()
    zero = torch.zeros(3, 4, 4, 4, requires_grad=True)
    lf.singular_flow([zero, STUDENT], [TEACHER, TEACHER]).backward()
    assert torch.isfinite(zero.grad).all()


def test_the_values_are_the_singular_values():
    _, values = lf.singular_directions(STUDENT, rank=4)
    expected = torch.linalg.svdvals(STUDENT.flatten(2))
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("loss", [lf.fsp, lf.singular_flow])
def test_consecutive_layers_refuse_what_does_not_fit(loss):
    with pytest.raises(ValueError, match="are 1 layers of the student and 1 of the teacher"):
        loss([STUDENT], [TEACHER])
    with pytest.raises(ValueError, match="expected as many of both, at least 2"):
        loss([STUDENT, STUDENT], [TEACHER])
    with pytest.raises(ValueError, match="expected"):
        loss([STUDENT, STUDENT], [DEEPER[0], DEEPER[0]])
    with pytest.raises(ValueError, match="expected maps"):
        loss([STUDENT[0], STUDENT[0]], [TEACHER, TEACHER])


# All of them

LOSSES = {
    "variational": lambda s: lf.variational_information(s, TEACHER, SCALE),
    "neighbours": lambda s: lf.neighbour_congruence(s.flatten(1), TEACHER.flatten(1)),
    "kernel": lambda s: lf.correlation_congruence(s.flatten(1), TEACHER.flatten(1)),
    "fsp": lambda s: lf.fsp([s, DEEPER[0]], [TEACHER, DEEPER[1]]),
    "boundary": lambda s: lf.activation_boundary(s, TEACHER),
    "singular": lambda s: lf.singular_flow([s, DEEPER[0]], [TEACHER, DEEPER[1]]),
    "singular_two": lambda s: lf.singular_flow([DEEPER[0], s], [DEEPER[1], TEACHER], rank=2),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_loss
def test_gradient_is_the_numerical_one(loss):
    assert torch.autograd.gradcheck(loss, STUDENT.clone().requires_grad_())


@every_loss
def test_single_precision_gives_the_double_precision_value(loss):
    value = loss(STUDENT.float()).double()
    torch.testing.assert_close(value, loss(STUDENT.float().double()), rtol=1e-5, atol=0)


ZERO = {
    "kernel": lambda s, t: lf.correlation_congruence(s.flatten(1), t.flatten(1)),
    "fsp": lambda s, t: lf.fsp([s, 2 * s], [t, 2 * t]),
    "singular": lambda s, t: lf.singular_flow([s, s.square()], [t, t.square()]),
}


@pytest.mark.parametrize("loss", ZERO.values(), ids=ZERO.keys())
def test_zero_with_zero_gradient_at_equality_and_no_gradient_to_the_teacher(loss):
    student, teacher = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.abs() <= 1e-20
    assert student.grad.abs().max() <= 1e-12
    assert teacher.grad is None


EMPTY = {
    "variational": lambda s, t: lf.variational_information(s, t, SCALE.float()),
    "kernel": lambda s, t: lf.correlation_congruence(s.flatten(1), t.flatten(1)),
    "fsp": lambda s, t: lf.fsp([s, s], [t, t]),
    "boundary": lf.activation_boundary,
    "singular": lambda s, t: lf.singular_flow([s, s], [t, t]),
}


@pytest.mark.parametrize("loss", EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_batch_costs_nothing_and_has_a_graph(loss):
    student = torch.zeros(0, 4, 2, 2, requires_grad=True)
    value = loss(student, torch.zeros(0, 4, 2, 2))
    value.backward()
    assert value == 0
