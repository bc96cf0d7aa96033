"""Losses on relations between samples: against loops, invariances, limits, and bounded memory."""

import math

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf

LOSSES = {
    "sp": lf.sp,
    "rkd_distance": lf.rkd_distance,
    "rkd_angle": lf.rkd_angle,
    "pkt": lf.pkt,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def huber(gap: float) -> float:
    return gap * gap / 2 if abs(gap) < 1 else abs(gap) - 0.5


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def rows_of(feature: Tensor) -> list[list[float]]:
    return feature.flatten(1).tolist()


def naive_sp(student: Tensor, teacher: Tensor) -> float:
    def similarities(rows: list[list[float]]) -> list[list[float]]:
        gram = [[dot(a, b) for b in rows] for a in rows]
        return [[x / math.sqrt(dot(row, row)) for x in row] for row in gram]

    pairs = zip(similarities(rows_of(student)), similarities(rows_of(teacher)), strict=True)
    return math.fsum(dot(gap, gap) for a, b in pairs for gap in [minus(a, b)]) / len(student) ** 2


def naive_rkd_distance(student: Tensor, teacher: Tensor) -> float:
    def distances(rows: list[list[float]]) -> list[float]:
        found = [math.sqrt(dot(gap, gap)) for a in rows for b in rows for gap in [minus(a, b)]]
        above = [x for x in found if x > 0]
        return [x / (math.fsum(above) / len(above)) for x in found]

    pairs = zip(distances(rows_of(student)), distances(rows_of(teacher)), strict=True)
    return math.fsum(huber(a - b) for a, b in pairs) / len(student) ** 2


def naive_rkd_angle(student: Tensor, teacher: Tensor) -> float:
    def angles(rows: list[list[float]]) -> list[float]:
        found = []
        for vertex in rows:
            for first in rows:
                for second in rows:
                    a, b = minus(first, vertex), minus(second, vertex)
                    length = math.sqrt(dot(a, a) * dot(b, b))
                    found.append(dot(a, b) / length if length else 0.0)
        return found

    pairs = zip(angles(rows_of(student)), angles(rows_of(teacher)), strict=True)
    return math.fsum(huber(a - b) for a, b in pairs) / len(student) ** 3


def naive_pkt(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> float:
    def neighbours(rows: list[list[float]]) -> list[list[float]]:
        unit = [[x / (math.sqrt(dot(row, row)) + eps) for x in row] for row in rows]
        near = [[(dot(a, b) + 1) / 2 for b in unit] for a in unit]
        return [[x / math.fsum(row) for x in row] for row in near]

    total = []
    for q, p in zip(neighbours(rows_of(student)), neighbours(rows_of(teacher)), strict=True):
        total += [b * math.log((b + eps) / (a + eps)) for a, b in zip(q, p, strict=True)]
    return math.fsum(total) / len(student) ** 2


NAIVE = {
    "sp": naive_sp,
    "rkd_distance": naive_rkd_distance,
    "rkd_angle": naive_rkd_angle,
    "pkt": naive_pkt,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_against_loops(name, scale):
    student, teacher = draw(5, 2, 3, seed=1) * scale, draw(5, 7, seed=2) * scale
    assert float(LOSSES[name](student, teacher)) == pytest.approx(
        NAIVE[name](student, teacher), rel=1e-10
    )


@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_the_huber_loss_has_both_of_its_branches(scale):
    """Distances of one far sample differ by more than 1 from those of evenly spread ones."""
    student, teacher = draw(6, 3), draw(6, 3, seed=3)
    student[0] *= 100 * scale
    value = float(lf.rkd_distance(student, teacher))
    assert value == pytest.approx(naive_rkd_distance(student, teacher), rel=1e-10)
    gaps = torch.cdist(student, student), torch.cdist(teacher, teacher)
    ours, theirs = (x / x[x > 0].mean() for x in gaps)
    assert (ours - theirs).abs().max() > 1 > (ours - theirs).abs().min()


@every_loss
def test_gradient_is_the_numerical_one(loss):
    student = draw(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, draw(5, 4, seed=1)), student)


@every_loss
def test_zero_at_equality_never_negative_and_no_gradient_to_the_teacher(loss):
    student = draw(6, 4).requires_grad_()
    teacher = student.detach().clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value == 0
    assert teacher.grad is None
    assert student.grad.abs().max() <= (1e-7 if loss is lf.pkt else 1e-15)
    for seed in range(1, 20):
        assert loss(draw(6, 4, seed=seed), draw(6, 3, seed=-seed)) > 0


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(draw(size, size, seed=9))[0]


@every_loss
def test_a_rotated_feature_space_is_the_same(loss):
    student, teacher = draw(6, 4), draw(6, 5, seed=1)
    turned = loss(student @ rotation(4), teacher @ rotation(5))
    torch.testing.assert_close(turned, loss(student, teacher), rtol=1e-9, atol=0)


@pytest.mark.parametrize("loss", [lf.rkd_distance, lf.rkd_angle], ids=["distance", "angle"])
def test_rkd_does_not_see_where_and_how_large_a_feature_space_is(loss):
    student, teacher = draw(6, 4), draw(6, 5, seed=1)
    moved = loss(3 * student + 7, 0.2 * teacher - 1)
    torch.testing.assert_close(moved, loss(student, teacher), rtol=1e-8, atol=0)


def test_pkt_does_not_see_how_long_each_feature_is():
    student, teacher = draw(6, 4), draw(6, 5, seed=1)
    lengths = draw(6, 1, seed=2).abs() + 0.1
    value = lf.pkt(student * lengths, teacher, eps=1e-12)
    torch.testing.assert_close(value, lf.pkt(student, teacher, eps=1e-12), rtol=1e-8, atol=0)


@every_loss
@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_without_pairs_costs_nothing_and_has_a_graph(loss, size):
    student = draw(size, 4).requires_grad_()
    value = loss(student, draw(size, 3, seed=1))
    value.backward()
    assert value.abs() <= 1e-12
    assert torch.isfinite(student.grad).all()


@every_loss
def test_equal_samples_have_finite_gradients(loss):
    student = torch.ones(4, 3, dtype=torch.float64)
    student[0] = 2
    for case in (student, torch.ones(4, 3), torch.zeros(4, 3)):
        leaf = case.clone().requires_grad_()
        value = loss(leaf, draw(4, 3).to(leaf.dtype))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(leaf.grad).all()


@every_loss
def test_reduced_precision_gives_the_value_of_the_rounded_features(loss):
    student, teacher = draw(8, 6) * 1e4, draw(8, 5, seed=1) * 1e4
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        narrow = student.to(dtype), teacher.to(dtype)
        value = loss(*narrow)
        assert value.dtype == torch.float32
        wide = loss(*(x.double() for x in narrow))
        torch.testing.assert_close(value.double(), wide, rtol=tolerance, atol=0)


@every_loss
def test_autocast_rounds_nothing(loss):
    student, teacher = draw(8, 6).float(), draw(8, 5, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value == loss(student, teacher)


@every_loss
def test_other_samples_are_refused_in_one_line(loss):
    with pytest.raises(ValueError, match="expected the same samples") as refused:
        loss(draw(3, 4), draw(4, 4))
    assert "\n" not in str(refused.value)


def largest_kept(student: Tensor, teacher: Tensor, **options: int) -> int:
    """Numbers in the largest tensor that the graph of the angles holds on to."""
    sizes = [0]

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        lf.rkd_angle(student, teacher, **options)
    return max(sizes)


def test_many_triples_are_never_kept():
    student, teacher = draw(24, 8).requires_grad_(), draw(24, 5, seed=1)
    whole = lf.rkd_angle(student, teacher)
    in_parts = lf.rkd_angle(student, teacher, max_triples=5 * 24**2)
    torch.testing.assert_close(in_parts, whole, rtol=1e-12, atol=0)
    slopes = (torch.autograd.grad(value, student)[0] for value in (in_parts, whole))
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-18)
    assert largest_kept(student, teacher) <= 24**2
    assert largest_kept(student, teacher, max_triples=5 * 24**2) <= 24**2


@pytest.mark.parametrize("max_triples", [2**20, 100, 1])
def test_slopes_of_angles_are_the_numerical_ones(max_triples):
    student, teacher = draw(7, 3).requires_grad_(), draw(7, 4, seed=1)
    assert torch.autograd.gradcheck(
        lambda feature: lf.rkd_angle(feature, teacher, max_triples=max_triples), student
    )


def test_equal_samples_leave_the_slopes_of_the_others_as_they_are():
    """A sample that is there twice is a vertex without angles to its double."""
    student, teacher = draw(6, 3), draw(6, 4, seed=1)
    student[1] = student[0]
    leaf = student.clone().requires_grad_()
    (slope,) = torch.autograd.grad(lf.rkd_angle(leaf, teacher), leaf)
    assert torch.isfinite(slope).all()
    step = torch.zeros_like(student)
    step[4, 2] = 1e-6
    ahead, behind = (lf.rkd_angle(student + sign * step, teacher) for sign in (1, -1))
    assert slope[4, 2].item() == pytest.approx((ahead - behind).item() / 2e-6, rel=1e-6)
