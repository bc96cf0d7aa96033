"""OFA-KD: targets made surer of the label, and exits from layers of any kind of network."""

from __future__ import annotations

import math

import pytest
import torch
from method_runs import log_of, make_cnn, make_plan, run
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of_pair
from torch import nn

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError, TapError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.methods.exits import Merge, TokenExit, make_exit
from limbeck.models import build_model
from limbeck.taps import TappedModel
from limbeck.teachers.live import LiveTeacher

__all__ = ["images"]  # a fixture


def probabilities(row, temperature):
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / math.fsum(powers) for power in powers]


def naive(student, teacher, targets, gamma, temperature):
    rows = []
    for z, v, y in zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True):
        q, p = probabilities(z, temperature), probabilities(v, temperature)
        if y == IGNORE:
            rows.append(0.0)
            continue
        wanted = [(1 + p[k]) ** gamma - 1 if k == y else p[k] ** gamma for k in range(len(p))]
        rows.append(-math.fsum(t * math.log(s) for t, s in zip(wanted, q, strict=True)))
    return math.fsum(rows) / len(rows)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_equation_by_loops(gamma, temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        3 * torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    targets = torch.tensor([0, 3, IGNORE, 1, 1])
    value = functional.ofa(student, teacher, targets, gamma=gamma, temperature=temperature)
    expected = naive(student, teacher, targets, gamma, temperature)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda s: functional.ofa(s, teacher, targets, gamma=gamma), student.requires_grad_()
    )


def test_with_gamma_1_it_is_cross_entropy_with_the_teacher():
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    value = functional.ofa(student, teacher, torch.tensor([0, 1, 2, 3, 0]))
    torch.testing.assert_close(value, functional.kd_cross_entropy(student, teacher))


def test_a_larger_gamma_makes_the_target_surer_of_the_label():
    logits = torch.randn(6, 5).double()
    targets = logits.argmin(dim=1)
    pulls = []
    for gamma in (0.5, 1.0, 2.0):
        student = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
        functional.ofa(student, logits, targets, gamma=gamma).backward()
        others = student.grad.scatter(1, targets[:, None], 0.0)
        pulls.append(float(-student.grad.gather(1, targets[:, None]).sum() / others.abs().sum()))
    assert pulls == sorted(pulls)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="gamma is 0"):
        functional.ofa(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), gamma=0)
    for arguments in ({"gamma": 0.0}, {"gamma": ()}, {"temperature": 0.0}, {"exits": ()}):
        (key,) = arguments
        with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
            make_method("ofa", **arguments)
    with pytest.raises(MethodError, match="exits_weight: expected a number of at least 0"):
        make_method("ofa", exits_weight=-1)


def prepare(method, student, teacher=None, size=8):
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, size, size)), num_outputs=10)
    teacher = LiveTeacher(teacher or make_cnn(5, 7))
    return method.prepare(student.eval(), {"teacher": teacher}, None, ctx)


def test_each_exit_and_the_output_has_its_gamma():
    runtime = prepare(make_method("ofa", gamma=(0.5, 1.0, 2.0), exits_weight=0.3), make_cnn(3, 4))
    runtime.double().eval()
    student = make_cnn(3, 4).double()
    said = TappedModel(student, runtime.student_taps())(torch.rand(4, 1, 8, 8).double())
    heard = said.detach()
    heard = type(heard)(torch.randn(4, 10).double())
    targets = torch.tensor([0, 1, IGNORE, 3])
    terms = runtime.losses(said, heard, Batch(inputs=said.logits, targets=targets), Context())
    features = [said.features[tap] for tap in runtime.student_taps()]
    parts = [
        functional.ofa(branch(feature), heard.logits, targets, gamma=gamma)
        for branch, feature, gamma in zip(runtime.exits, features, (0.5, 1.0), strict=True)
    ]
    torch.testing.assert_close(terms["ofa_exits"], 0.3 * (parts[0] + parts[1]))
    torch.testing.assert_close(
        terms["ofa"], functional.ofa(said.logits, heard.logits, targets, gamma=2.0)
    )


def test_another_number_of_gammas_than_exits_is_refused():
    with pytest.raises(MethodError, match=r"method\.gamma: expected one number, or 3 .* got 2"):
        prepare(make_method("ofa", gamma=(1.0, 1.0)), make_cnn(3, 4))


def test_a_map_is_halved_once_for_each_stage_behind():
    branch = make_exit((1, 6, 16, 16), below=2, width=20, vector=0, outputs=5)
    maps = branch[:2](torch.rand(3, 6, 16, 16))
    assert maps.shape == (3, 20, 4, 4)
    assert branch(torch.rand(3, 6, 16, 16)).shape == (3, 5)
    last = make_exit((1, 6, 4, 4), below=0, width=20, vector=0, outputs=5)
    assert last[0](torch.rand(3, 6, 4, 4)).shape == (3, 20, 4, 4)


def test_width_is_that_of_the_wider_network():
    narrow = prepare(make_method("ofa"), make_cnn(3, 4), make_cnn(5, 7))
    assert [branch[-1].in_features for branch in narrow.exits] == [7, 7]
    wide = prepare(make_method("ofa"), make_cnn(3, 9), make_cnn(5, 7))
    assert [branch[-1].in_features for branch in wide.exits] == [9, 9]


def test_four_neighbours_become_one():
    merge = Merge(4, 3, 5, linear=False).double()
    tokens = torch.randn(2, 16, 3, dtype=torch.float64)
    merged = merge(tokens)
    assert merged.shape == (2, 4, 5)
    for row in range(2):
        for column in range(2):
            corners = [(0, 0), (1, 0), (0, 1), (1, 1)]  # downwards, then to the right
            places = [(2 * row + y) * 4 + 2 * column + x for y, x in corners]
            four = torch.cat([tokens[:, place] for place in places], dim=1)
            normed = (four - four.mean(1, keepdim=True)) / (
                four.var(1, unbiased=False, keepdim=True) + 1e-5
            ).sqrt()
            expected = nn.functional.gelu(normed @ merge.reduction.weight.T)
            torch.testing.assert_close(merged[:, 2 * row + column], expected)


@pytest.mark.parametrize(
    ("tokens", "before", "merges"), [(197, 1, 1), (196, 0, 1), (198, 2, 1), (17, 1, 0), (23, 0, 0)]
)
def test_class_tokens_are_told_from_those_of_a_grid(tokens, before, merges):
    branch = TokenExit(tokens, 8, below=1, vector=12, outputs=3).eval()
    assert (branch.before, len(branch.merges)) == (before, merges)
    with torch.no_grad():
        assert branch(torch.rand(2, tokens, 8)).shape == (2, 3)


def test_deep_students_have_four_exits():
    student = build_model(
        "vit", num_classes=10, input_shape=(1, 8, 8), patch=4, dim=8, depth=6, heads=2
    )
    runtime = prepare(make_method("ofa"), student)
    assert runtime.student_taps() == ("stages.1", "stages.2", "stages.3", "stages.5")
    assert [len(branch.blocks) for branch in runtime.exits] == [3, 2, 1, 1]
    named = prepare(make_method("ofa", exits=("stages[0]", "penultimate")), student)
    assert len(named.exits) == 2


def test_a_tap_that_is_not_there_names_the_key():
    with pytest.raises(TapError, match=r"method ofa: .*name layers \(exits: \[student tap"):
        prepare(make_method("ofa", exits="blocks.9"), make_cnn(3, 4))


def test_nothing_of_it_is_deployed(tmp_path):
    outcome = run(make_plan("ofa"), tmp_path / "run")
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())
    assert all({"ofa", "ofa_exits"} <= set(record) for record in log_of(tmp_path / "run"))


@pytest.mark.parametrize(
    "pair", [("resnet", "vit"), ("timm_vit", "vgg"), ("encoder", "odd"), ("odd", "timm_vit")]
)
def test_networks_of_all_kinds(pair, images):
    student, teacher = (FAMILIES[name] for name in pair)
    take_two_steps(plan_of_pair(student, teacher, make_method("ofa"), images))
