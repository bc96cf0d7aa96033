"""CAT-KD: which maps and classifiers meet, and what trains through them."""

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
from limbeck.errors import ShapeError, TapError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.taps import linear_head, tapping
from limbeck.taps.outputs import Outputs

__all__ = ["images"]  # a fixture

AVERAGING = ["resnet", "mobilenetv2", "shufflenetv2"]
"""Families whose classifiers read the mean of a map of several positions."""


@pytest.mark.parametrize("family", AVERAGING)
def test_the_map_that_a_classifier_reads_averaged_is_found(family, images):
    model = FAMILIES[family]()
    inputs = images.splits["train"].fetch(torch.arange(2)).inputs
    head = linear_head(model, inputs)
    assert head.averaged is not None
    with tapping(model.eval(), [head.averaged, f"{head.path}:in"]) as store:
        model(inputs)
    maps, read = store[head.averaged], store[f"{head.path}:in"]
    assert maps.shape[2] * maps.shape[3] > 1
    torch.testing.assert_close(maps.mean((2, 3)), read, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "pair", [("resnet", "mobilenetv2"), ("mobilenetv2", "shufflenetv2")], ids="-".join
)
def test_networks_of_any_width_teach_each_other(pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    take_two_steps(plan_of(student, teacher, make_method("catkd"), images))


REFUSED = [
    (("vit", "resnet"), "student"),  # tokens
    (("resnet", "odd"), "teacher"),  # no module gives the map that is averaged
    (("resnet", "timm_cnn"), "teacher"),  # a map of one position
]


@pytest.mark.parametrize(("pair", "side"), REFUSED)
def test_what_has_no_maps_of_classes_is_refused(pair, side, images):
    student, teacher = (FAMILIES[family] for family in pair)
    with pytest.raises(ShapeError) as caught:
        take_two_steps(plan_of(student, teacher, make_method("catkd"), images))
    line = str(caught.value)
    assert "\n" not in line
    assert f"method catkd: the {side}'s classifier" in line
    assert "pairs: [[student tap, teacher tap]]" in line


def test_the_classifiers_weigh_the_maps_and_the_students_is_trained_through_them():
    student, teacher = make_cnn(4, 6), make_cnn(5, 7)
    runtime = prepare(make_method("catkd"), student, teacher, 8)
    assert not runtime.state_dict()
    ours, theirs = torch.rand(3, 6, 4, 4), torch.rand(3, 7, 4, 4)
    logits = torch.zeros(3, 10)
    said, heard = (
        Outputs(logits, {taps[0]: feature})
        for taps, feature in ((runtime.student_taps(), ours), (runtime.teacher_taps(), theirs))
    )
    value = runtime.losses(said, heard, Batch(inputs=logits), Context())["catkd"]
    maps = [
        torch.einsum("bcyx,kc->bkyx", feature, model.head.weight)
        for model, feature in ((student, ours), (teacher, theirs))
    ]
    torch.testing.assert_close(value, functional.class_attention(*maps))
    value.backward()
    assert student.head.weight.grad.any()
    assert teacher.head.weight.grad is None


def test_layers_that_the_classifier_does_not_read_are_refused():
    method = make_method("catkd", pairs=(("stages.0", "stages.1"),))
    with pytest.raises(ShapeError, match=r"student tap 'stages\.0' has 4 channels, its classifier"):
        prepare(method, make_cnn(4, 6), make_cnn(5, 7), 8)
    with pytest.raises(ShapeError, match="compares one map of each network, found 2 pairs"):
        prepare(make_method("catkd", pairs="stages"), make_cnn(4, 6), make_cnn(5, 7), 8)


class Headless(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.mean((2, 3)) + torch.zeros(10)


def test_a_network_without_a_linear_head_is_refused():
    with pytest.raises(TapError, match=r"Headless has no linear head: give it a roles\(\)"):
        prepare(make_method("catkd"), make_cnn(4, 6), Headless(), 8)
