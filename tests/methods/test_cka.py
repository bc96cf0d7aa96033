"""CKA: the measure, the loss, and layers that are paired by it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from feature_runs import prepare
from method_runs import make_cnn, make_plan, run
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of_pair
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import TeacherError
from limbeck.methods import make_method
from limbeck.methods.alike import match_in_order
from limbeck.methods.context import Context
from limbeck.teachers.live import LiveTeacher

__all__ = ["images"]  # a fixture


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gram(rows: list[list[float]]) -> list[list[float]]:
    return [[math.fsum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]


def biased(k: list[list[float]], m: list[list[float]]) -> float:
    """Tr(K H L H) by sums."""
    n = len(k)

    def centre(g: list[list[float]]) -> list[list[float]]:
        rows = [math.fsum(row) / n for row in g]
        whole = math.fsum(rows) / n
        return [[g[i][j] - rows[i] - rows[j] + whole for j in range(n)] for i in range(n)]

    a, b = centre(k), centre(m)
    return math.fsum(a[i][j] * b[i][j] for i in range(n) for j in range(n))


def unbiased(k: list[list[float]], m: list[list[float]]) -> float:
    """The U-statistic itself: over all choices of four samples that differ."""
    n = len(k)
    parts = []
    for i, j, q, r in itertools.permutations(range(n), 4):
        parts.append(k[i][j] * (m[i][j] + m[q][r] - 2 * m[i][q]))
    return math.fsum(parts) / len(parts)


@pytest.mark.parametrize("debiased", [False, True])
def test_the_measure_by_sums_over_samples(debiased):
    student, teacher = draw(6, 3, 2), draw(6, 4, seed=1) + 5
    k, m = (gram(one.flatten(1).tolist()) for one in (student, teacher))
    product = unbiased if debiased else biased
    scale = abs(product(k, k)) * abs(product(m, m))
    assert product(k, k) > 0
    assert product(m, m) > 0
    value = functional.cka(student, teacher, debiased=debiased)
    assert value.item() == pytest.approx(product(k, m) / math.sqrt(scale), rel=1e-9)


def test_what_changes_nothing():
    student, teacher = draw(7, 4), draw(7, 5, seed=1)
    value = functional.cka(student, teacher)
    turn = torch.linalg.qr(draw(4, 4, seed=2))[0]
    torch.testing.assert_close(functional.cka(3 * student @ turn + 9, teacher), value)
    torch.testing.assert_close(functional.cka(student, 2 * student @ turn - 1), value * 0 + 1)
    assert 0 < value < 1


def test_gradient_is_the_numerical_one_and_none_reaches_the_teacher():
    teacher = draw(5, 3, seed=1).requires_grad_()
    student = draw(5, 2).requires_grad_()
    for debiased in (False, True):
        assert torch.autograd.gradcheck(
            lambda s, d=debiased: functional.cka(s, teacher.detach(), debiased=d), student
        )
    functional.cka(student, teacher).backward()
    assert teacher.grad is None


def test_wide_layers_that_share_nothing_look_alike_unless_debiased():
    first, second = draw(32, 2000), draw(32, 2000, seed=1)
    assert functional.cka(first, second) > 0.9
    assert functional.cka(first, second, debiased=True).abs() < 0.1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_layer_that_is_the_same_for_all_samples_is_like_none(count):
    student = torch.ones(count, 3, requires_grad=True)
    value = functional.cka(student, draw(count, 2))
    value.backward()
    assert value == 0
    assert not student.grad.any()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="student has 3 samples, teacher has 2"):
        functional.cka(draw(3, 2), draw(2, 2))
    with pytest.raises(ValueError, match="needs 4"):
        functional.cka(draw(3, 2), draw(3, 2), debiased=True)


def test_the_term_is_the_distance_from_one_and_a_single_sample_costs_nothing():
    method = make_method("cka")
    student, teacher = draw(5, 3), draw(5, 4, seed=1)
    value = method.relate(student, teacher)["cka"]
    torch.testing.assert_close(value, 1 - functional.cka(student, teacher))
    assert method.relate(student[:1], teacher[:1])["cka"] == 0


@pytest.mark.parametrize(
    "pair", [("resnet", "vit"), ("encoder", "odd"), ("timm_vit", "vgg"), ("odd", "timm_cnn")]
)
def test_networks_of_all_kinds(pair, images):
    student, teacher = (FAMILIES[name] for name in pair)
    take_two_steps(plan_of_pair(student, teacher, make_method("cka"), images))


@pytest.mark.parametrize("pair", [("resnet", "vit"), ("vgg", "resnet"), ("timm_vit", "encoder")])
def test_stages_of_all_kinds_pair_by_it(pair, images):
    student, teacher = (FAMILIES[name] for name in pair)
    take_two_steps(plan_of_pair(student, teacher, make_method("cka", pairs="cka"), images))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 3)])
def test_the_best_pairs_in_order_by_trying_all(shape):
    similarity = draw(*shape, seed=3)
    rows, columns = shape
    fewer = min(shape)
    choices = [
        list(zip(mine, other, strict=True))
        for mine in itertools.combinations(range(rows), fewer)
        for other in itertools.combinations(range(columns), fewer)
    ]
    best = max(choices, key=lambda pairs: sum(float(similarity[i, j]) for i, j in pairs))
    assert match_in_order(similarity) == best


class Chain(nn.Module):
    """Linear blocks of one shape, given."""

    def __init__(self, *factors: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(12, 12, bias=False) for _ in factors)
        for block, factor in zip(self.blocks, factors, strict=True):
            block.weight.data = factor
        self.head = nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = block(inputs)
        return self.head(inputs)

    def roles(self) -> dict[str, list[str] | str]:
        return {"stages": [f"blocks.{i}" for i in range(len(self.blocks))], "head": "head"}


def context(count: int) -> Context:
    inputs = torch.randn(count, 12, generator=torch.Generator().manual_seed(5))
    return Context(
        example=Batch(inputs=inputs[:2]), num_outputs=3, samples=lambda _: Batch(inputs=inputs)
    )


def test_a_layer_finds_the_one_that_does_the_same_wherever_it_stands():
    turn = torch.linalg.qr(draw(12, 12))[0].float()
    squash = torch.diag(torch.tensor([9.0] + [0.1] * 11))
    mix = torch.linalg.qr(draw(12, 12, seed=1))[0].float()
    student = Chain(squash @ turn)
    for place in range(3):
        factors = [mix, mix, mix]
        factors[place] = squash @ turn @ torch.linalg.matrix_power(mix.T, place)
        if place < 2:
            # what follows undoes it, so that later layers see what earlier ones saw
            factors[place + 1] = mix @ torch.linalg.inv(factors[place])
        teacher = {"teacher": LiveTeacher(Chain(*factors))}
        runtime = make_method("cka", pairs="cka").prepare(student, teacher, None, context(200))
        assert runtime.student_taps() == ("stages.0",)
        assert runtime.teacher_taps() == (f"stages.{place}",)


def test_too_few_samples_to_tell_are_refused():
    network = Chain(torch.eye(12))
    with pytest.raises(TeacherError, match=r"expected at least 4, got 3; name the layers"):
        make_method("cka", pairs="cka").prepare(
            network, {"teacher": LiveTeacher(network)}, None, context(3)
        )


def test_other_methods_pair_by_it_too(tmp_path):
    outcome = run(make_plan({"name": "at", "pairs": "cka", "weight": 1}), tmp_path / "run")
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())


def test_without_data_the_reason_is_said():
    with pytest.raises(RuntimeError, match="no data"):
        prepare(make_method("cka", pairs="cka"), make_cnn(3, 4), make_cnn(5, 6), 8)
