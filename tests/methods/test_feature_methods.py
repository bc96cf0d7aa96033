"""Feature methods: which layers meet, what every pair of networks gives, what is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_runs import log_of, make_cnn, make_plan, run
from test_every_pair import CLASSES, FAMILIES, SHAPE, images, take_two_steps
from test_every_pair import make_plan as plan_of
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ShapeError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models import build_model
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher
from limbeck.testing import check_method

__all__ = ["images"]  # a fixture

# (weight, weight of the task term) that the reference codebases run.
PUBLISHED = {
    "at": (1000.0, 1.0),
    "nst": (50.0, 1.0),
}
ON_STAGES = ["at", "nst"]
"""Methods that compare the stages of any two networks of the same form."""


def prepare(method: Any, student: nn.Module, teacher: nn.Module, size: int = 16) -> Any:
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, size, size)))
    return method.prepare(student, {"teacher": LiveTeacher(teacher)}, None, ctx)


@pytest.mark.parametrize("name", PUBLISHED)
def test_default_weights(name):
    method = make_method(name)
    assert (method.weight, method.card.task_weight) == PUBLISHED[name]


PAIRS = [
    ("resnet", "resnet"),
    ("resnet", "vgg"),
    ("mobilenetv2", "resnet"),
    ("shufflenetv2", "timm_cnn"),
    ("odd", "odd"),
    ("vit", "vit"),
    ("encoder", "encoder"),
]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("name", ON_STAGES)
def test_stages_of_one_form_teach_each_other(name, pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    take_two_steps(plan_of(student, teacher, make_method(name), images))


@pytest.mark.parametrize("name", ON_STAGES)
@pytest.mark.parametrize("pair", [("resnet", "vit"), ("vit", "resnet")], ids="-".join)
def test_maps_and_tokens_are_refused_with_what_to_name(name, pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    with pytest.raises(ShapeError) as caught:
        take_two_steps(plan_of(student, teacher, make_method(name), images))
    line = str(caught.value)
    assert "\n" not in line
    for part in (f"method {name}: student tap", "teacher tap", "pairs: [[student tap"):
        assert part in line


def test_tokens_that_differ_in_number_are_refused():
    def vit(patch: int) -> nn.Module:
        return build_model(
            "vit", num_classes=CLASSES, input_shape=SHAPE, dim=16, depth=2, heads=2, patch=patch
        )

    ctx = Context(example=Batch(inputs=torch.rand(2, *SHAPE)))
    with pytest.raises(ShapeError, match="the numbers of tokens differ"):
        make_method("at").prepare(vit(8), {"teacher": LiveTeacher(vit(16))}, None, ctx)


def test_vectors_have_no_positions():
    with pytest.raises(ShapeError, match="compares maps or tokens of both"):
        prepare(make_method("at", pairs="penultimate"), make_cnn(4, 8), make_cnn(4, 8), 8)


def test_tokens_are_positions_and_their_entries_channels():
    tokens = torch.rand(2, 3, 6, 4, dtype=torch.float64)  # student and teacher, batch, tokens, dim
    logits = torch.zeros(3, 2)
    said, heard = (Outputs(logits, {"layer": feature}) for feature in tokens)
    batch = Batch(inputs=logits)
    value = make_method("at").losses(said, heard, batch, Context())["at"]
    rows = [torch.nn.functional.normalize(x.square().mean(2), dim=1) for x in tokens]
    torch.testing.assert_close(value, (rows[0] - rows[1]).square().mean())


def test_a_loop_of_ones_own_passes_features():
    maps = torch.rand(2, 4, 3, 5, 5)
    logits = torch.zeros(4, 2)
    terms = make_method("at", weight=2.0)(
        Outputs(logits, {"a": maps[0]}), Outputs(logits, {"b": maps[1]})
    )
    assert terms["at"] == 2 * functional.attention_transfer(maps[0], maps[1])
    with pytest.raises(MethodError, match="pass Outputs with as many of the student"):
        make_method("at")(logits, logits)


@pytest.mark.parametrize("name", ["at", "nst"])
def test_the_term_is_the_sum_over_the_stages(name):
    runtime = prepare(make_method(name), make_cnn(2, 3, 4), make_cnn(5, 6, 7), 8)
    names = runtime.student_taps()
    assert names == runtime.teacher_taps() == ("stages.0", "stages.1", "stages.2")
    ours = {n: torch.rand(2, 3, 4, 4) for n in names}
    theirs = {n: torch.rand(2, 5, 4, 4) for n in names}
    logits = torch.zeros(2, 10)
    batch = Batch(inputs=logits)
    value = runtime.losses(Outputs(logits, ours), Outputs(logits, theirs), batch, Context())[name]
    equation = {"at": functional.attention_transfer, "nst": functional.neuron_selectivity}[name]
    expected = sum(float(equation(ours[n], theirs[n])) for n in names)
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", [*ON_STAGES])
def test_what_is_deployed_has_no_adapters(name, tmp_path):
    outcome = run(make_plan(name), tmp_path / "run")
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())
    assert not any(module._forward_hooks for module in outcome.student.modules())
    assert any(name in record for record in log_of(outcome.folder.path))


OTHERS = [
    make_method("at", power=1, distance="norm"),
    make_method("at", pairs=(("stages.0", "stages.1"),)),
    make_method("nst", kernel="gaussian"),
    make_method("nst", kernel="gaussian", bandwidth=0.5),
    make_method("nst", kernel="linear"),
]


@pytest.mark.parametrize("method", OTHERS, ids=lambda method: method.describe())
def test_contracts_hold_for_other_parameters(method):
    check_method(method)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("at", "power", 0),
        ("at", "power", 1.5),
        ("at", "distance", "l1"),
        ("nst", "kernel", "rbf"),
        ("nst", "degree", 0),
        ("nst", "bandwidth", 0.0),
    ],
)
def test_values_without_a_meaning_are_refused(name, key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected .* got .*\({name}\)"):
        make_method(name, **{key: value})
