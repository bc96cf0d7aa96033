"""Block-KD: what the stepping stones are made of, and what is left of them."""

from __future__ import annotations

import pytest
import torch
from feature_runs import prepare
from method_runs import make_cnn
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, TapError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.taps import run_from
from limbeck.taps.outputs import Outputs

__all__ = ["images"]  # a fixture

INPUTS = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def tail(teacher: nn.Module, feature: torch.Tensor, stage: int) -> torch.Tensor:
    """The small CNN from behind a stage on, written out."""
    for later in teacher.stages[stage + 1 :]:
        feature = later(feature)
    return teacher.head(feature.mean((2, 3)))


def test_a_network_goes_on_from_what_enters():
    teacher = make_cnn(3, 5, 6).eval()
    feature = torch.rand(3, 5, 4, 4, requires_grad=True)
    said = run_from(teacher, "stages.1", feature, lambda model: model(INPUTS))
    torch.testing.assert_close(said, tail(teacher, feature, 1))
    assert torch.autograd.grad(said.sum(), feature)[0].any()
    own = teacher.stages[:2](INPUTS)
    again = run_from(teacher, "stages.1", own, lambda model: model(INPUTS))
    assert torch.equal(again, teacher(INPUTS))
    assert not any(m._forward_hooks for m in teacher.modules())


def test_what_enters_must_fit():
    teacher = make_cnn(3, 5, 6).eval()
    with pytest.raises(TapError, match=r"gives features of shape \(3, 5, 4, 4\); what enters"):
        run_from(teacher, "stages.1", torch.rand(3, 4, 4, 4), lambda model: model(INPUTS))
    for tap in ("stages", "stages.1:in"):
        with pytest.raises(TapError, match="name the output of one module for features to enter"):
            run_from(teacher, tap, torch.rand(3, 5, 4, 4), lambda model: model(INPUTS))
    assert not any(m._forward_hooks for m in teacher.modules())


def test_each_stone_counts_half_of_the_next_and_the_student_counts_whole():
    student, teacher = make_cnn(2, 3, 4).eval(), make_cnn(3, 5, 6).eval()
    runtime = prepare(make_method("blockkd"), student, teacher, 8).eval()
    assert runtime.student_taps() == ("stages.0", "stages.1")
    assert runtime.teacher_taps() == ()
    assert not any("teacher" in key for key in runtime.state_dict())
    features = {"stages.0": torch.rand(3, 2, 8, 8), "stages.1": torch.rand(3, 3, 4, 4)}
    said, heard = Outputs(student(INPUTS), features), Outputs(teacher(INPUTS))
    terms = runtime.losses(said, heard, Batch(inputs=INPUTS), Context())
    assert terms["blockkd"] == functional.kd(said.logits, heard.logits, temperature=4.0)
    stones = [
        functional.kd(tail(teacher, connector(feature), stage), heard.logits, temperature=4.0)
        for stage, (connector, feature) in enumerate(
            zip(runtime.connectors, features.values(), strict=True)
        )
    ]
    torch.testing.assert_close(terms["stones"], stones[0] / 4 + stones[1] / 2)
    assert all(value.grad is None for value in teacher.parameters())


def test_one_block_is_plain_kd():
    student, teacher = make_cnn(4).eval(), make_cnn(6).eval()
    runtime = prepare(make_method("blockkd"), student, teacher, 8)
    said, heard = Outputs(student(INPUTS)), Outputs(teacher(INPUTS))
    terms = runtime.losses(said, heard, Batch(inputs=INPUTS), Context())
    assert dict(terms) == {"blockkd": functional.kd(said.logits, heard.logits, temperature=4.0)}


def test_a_stone_of_the_teachers_own_feature_says_what_the_teacher_says():
    student, teacher = make_cnn(3, 4).eval(), make_cnn(3, 5).eval()
    runtime = prepare(make_method("blockkd", connector="identity"), student, teacher, 8)
    features = {"stages.0": teacher.stages[0](INPUTS)}
    said, heard = Outputs(student(INPUTS), features), Outputs(teacher(INPUTS))
    terms = runtime.losses(said, heard, Batch(inputs=INPUTS), Context())
    assert float(terms["stones"].detach()) < 1e-12


@pytest.mark.parametrize(
    "pair", [("resnet", "vgg"), ("vit", "vit"), ("encoder", "encoder")], ids="-".join
)
def test_networks_of_one_form_teach_each_other(pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    take_two_steps(plan_of(student, teacher, make_method("blockkd"), images))


def test_connectors_need_a_runtime():
    logits = torch.zeros(2, 3)
    with pytest.raises(MethodError, match="method blockkd: has learned parts, use it through"):
        make_method("blockkd")(logits, logits)
