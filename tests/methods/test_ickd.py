"""ICKD: channels of one sample against each other, whatever the sizes and forms of the layers."""

from __future__ import annotations

import math

import pytest
import torch
from feature_runs import prepare
from method_runs import make_cnn
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of_pair
from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import ShapeError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.taps.outputs import Outputs

__all__ = ["images"]  # a fixture


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def naive(student: Tensor, teacher: Tensor) -> float:
    def rows(feature: Tensor) -> list[list[float]]:
        flat = [channel.flatten().tolist() for channel in feature]
        products = [
            [math.fsum(x * y for x, y in zip(a, b, strict=True)) for b in flat] for a in flat
        ]
        lengths = [math.hypot(*row) for row in products]
        return [[v / length for v in row] for row, length in zip(products, lengths, strict=True)]

    gaps = []
    for mine, other in zip(student, teacher, strict=True):
        pairs = zip(rows(mine), rows(other), strict=True)
        gaps += [(a - b) ** 2 for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
    return math.fsum(gaps) / (student.shape[0] * student.shape[1])


def test_the_equation_by_loops():
    student, teacher = draw(3, 4, 5, 2), draw(3, 4, 2, 3, seed=1)
    value = functional.channel_correlation(student, teacher)
    assert value.item() == pytest.approx(naive(student, teacher), rel=1e-12)


def test_scale_and_place_of_responses_change_nothing():
    student, teacher = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    value = functional.channel_correlation(student, teacher)
    turned = student.rot90(1, (2, 3)) * torch.tensor([0.1, 7.0]).double().view(2, 1, 1, 1)
    torch.testing.assert_close(functional.channel_correlation(turned, teacher), value)
    assert functional.channel_correlation(student, 3 * student) <= 1e-28


def test_gradient_is_the_numerical_one_and_an_empty_batch_costs_nothing():
    teacher = draw(2, 3, 2, 2, seed=1).requires_grad_()
    student = draw(2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: functional.channel_correlation(s, teacher.detach()), student
    )
    functional.channel_correlation(student, teacher).backward()
    assert teacher.grad is None
    assert functional.channel_correlation(draw(0, 3, 2, 2), draw(0, 3, 2, 2)) == 0


@pytest.mark.parametrize("other", [(2, 4, 2, 2), (3, 3, 2, 2), (2, 3, 4)])
def test_maps_of_other_samples_or_channels_are_refused(other):
    with pytest.raises(ValueError, match="of the same samples and channels"):
        functional.channel_correlation(draw(2, 3, 2, 2), draw(*other))


def test_the_students_map_is_embedded_in_the_teachers_channels():
    runtime = prepare(make_method("ickd"), make_cnn(3, 4), make_cnn(5, 6), 8).double().train()
    ours, theirs = draw(3, 4, 4, 4), draw(3, 6, 4, 4, seed=1)
    said, heard = (
        Outputs(torch.zeros(3, 10), {taps[0]: feature})
        for taps, feature in ((runtime.student_taps(), ours), (runtime.teacher_taps(), theirs))
    )
    value = runtime.losses(said, heard, Batch(inputs=said.logits), Context())["ickd"]
    mixed = torch.einsum("bcyx,kc->bkyx", ours, runtime.embeddings[0][0].weight[..., 0, 0])
    mean, spread = (f(mixed.transpose(0, 1).flatten(1), dim=1) for f in (torch.mean, torch.var))
    spread = spread * (3 * 16 - 1) / (3 * 16)
    shape = (1, 6, 1, 1)
    embedded = (mixed - mean.view(shape)) / (spread.view(shape) + 1e-5).sqrt()
    assert value.item() == pytest.approx(naive(embedded.detach(), theirs), rel=1e-9)


@pytest.mark.parametrize(
    "pair", [("resnet", "vit"), ("encoder", "odd"), ("timm_vit", "timm_cnn"), ("vgg", "resnet")]
)
def test_networks_of_all_kinds(pair, images):
    student, teacher = (FAMILIES[name] for name in pair)
    take_two_steps(plan_of_pair(student, teacher, make_method("ickd"), images))


def test_vectors_are_refused_in_one_line(images):
    method = make_method("ickd", pairs="penultimate")
    with pytest.raises(ShapeError, match=r"method ickd: .*reads maps or tokens.*name layers"):
        take_two_steps(plan_of_pair(FAMILIES["resnet"], FAMILIES["vgg"], method, images))
