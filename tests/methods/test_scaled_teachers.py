"""Methods that reach for a teacher's own network, where the teacher scales what that says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from feature_runs import prepare
from method_runs import make_cnn, make_explaining, teacher_network
from torch import Tensor, nn
from torch.nn.functional import conv2d, cosine_similarity, interpolate

from limbeck import functional
from limbeck.data import Normalize
from limbeck.data.batch import Batch
from limbeck.errors import MethodError, TeacherError
from limbeck.functional import ScalingFit
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models.grown import graft
from limbeck.taps import tapping
from limbeck.taps.outputs import Outputs
from limbeck.teachers import (
    CachedTeacher,
    CalibratedTeacher,
    EnsembleTeacher,
    LiveTeacher,
    RouteTeacher,
    Teacher,
)

CLASSES = 10
KINDS = ("temperature", "vector", "matrix")


def drawn(kind: str) -> ScalingFit:
    torch.manual_seed(9)
    shape = (CLASSES,) if kind == "vector" else (CLASSES, CLASSES)
    weight, bias = torch.randn(shape).double(), torch.randn(CLASSES).double()
    if kind == "vector":
        weight = -weight.abs()  # another class is the largest then
    return ScalingFit(weight, bias, 0.0, True)


def calibrated(kind: str, network: nn.Module | None = None) -> CalibratedTeacher:
    inner = LiveTeacher(network or teacher_network(), name="teacher")
    if kind == "temperature":
        return CalibratedTeacher(inner, temperature=2.5)
    teacher = CalibratedTeacher(inner, scaling=kind)  # type: ignore[arg-type]
    teacher.fitted = drawn(kind)
    return teacher


def matrix_of(kind: str) -> Tensor:
    """The calibration as one matrix, and nothing of ours in it."""
    if kind == "temperature":
        return torch.eye(CLASSES) / 2.5
    weight = drawn(kind).weight.float()
    return weight.diag() if kind == "vector" else weight


def at_work(name: str, teacher: Teacher, **arguments: Any) -> tuple[Any, nn.Module]:
    torch.manual_seed(4)
    student = make_cnn(4, 8).eval()
    example = Batch(inputs=torch.rand(2, 1, 8, 8))
    ctx = Context(example=example, num_outputs=CLASSES)
    method = make_method(name, **arguments)
    return method.prepare(student, {"teacher": teacher}, None, ctx).eval(), student


def heard(teacher: Teacher, *taps: str) -> tuple[Tensor, Outputs]:
    inputs = torch.rand(5, 1, 8, 8)
    return inputs, teacher.ask(Batch(inputs=inputs), taps=taps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["srrl", "simkd", "residual"])
def test_a_classifier_that_is_used_again_gives_the_teachers_answers(name: str, kind: str) -> None:
    teacher = calibrated(kind)
    runtime, student = at_work(name, teacher)
    _, said = heard(teacher, "penultimate")
    head = runtime.head if name == "srrl" else (runtime.student or student).head
    torch.testing.assert_close(head(said.features["penultimate"]), said.logits)
    plain = teacher_network().head
    assert not torch.allclose(plain(said.features["penultimate"]), said.logits, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_srrl_is_zero_where_the_features_are_the_teachers(kind: str) -> None:
    teacher = calibrated(kind)
    runtime, _ = at_work("srrl", teacher, pairs="penultimate")
    runtime.connector = nn.Identity()
    inputs, said = heard(teacher, *runtime.teacher_taps())
    (theirs,) = said.features.values()
    ours = Outputs(said.logits, {runtime.pair.student: theirs})
    terms = runtime.losses(ours, said, Batch(inputs=inputs), Context())
    assert float(terms["srrl"]) == 0
    assert float(terms["srrl_logits"]) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_class_activation_maps_are_of_the_scaled_classifier(kind: str) -> None:
    teacher = calibrated(kind)
    runtime, student = at_work("catkd", teacher, normalise=False)
    inputs, said = heard(teacher, *runtime.teacher_taps())
    (theirs,) = said.features.values()
    weight = matrix_of(kind) @ teacher_network().head.weight
    with tapping(student, list(runtime.student_taps())) as store:
        logits = student(inputs)
    value = runtime.losses(Outputs(logits, dict(store)), said, Batch(inputs=inputs), Context())
    (ours,) = store.values()
    expected = functional.class_attention(
        conv2d(ours, student.head.weight[:, :, None, None]),
        conv2d(theirs, weight[:, :, None, None]),
        normalise=False,
    )
    torch.testing.assert_close(value["catkd"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_alike_classes_are_those_of_the_scaled_classifier(kind: str) -> None:
    runtime, _ = at_work("kd_sim", calibrated(kind))
    rows = matrix_of(kind) @ teacher_network().head.weight
    cosines = cosine_similarity(rows[:, None], rows[None], dim=2)
    table = (cosines / 0.3).softmax(dim=1)
    torch.testing.assert_close(runtime.table.float(), table, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_on_inside_the_teacher_says_what_the_teacher_says(kind: str) -> None:
    teacher = calibrated(kind)
    runtime, _ = at_work("blockkd", teacher, pairs=(("stages.0", "stages.0"),))
    runtime.connectors = nn.ModuleList([nn.Identity()])
    inputs, said = heard(teacher, "stages.0")
    ours = Outputs(said.logits, {"stages.0": said.features["stages.0"]})
    terms = runtime.losses(ours, said, Batch(inputs=inputs), Context())
    assert abs(float(terms["stones"])) < 1e-5
    assert abs(float(terms["blockkd"])) < 1e-5


def test_groups_that_explain_other_answers_are_refused() -> None:
    line = r"^method ked: the groups of teachers\.teacher explain the answers of its network, not"
    teacher = calibrated("temperature", make_explaining(24))
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, 8, 8)), num_outputs=CLASSES)
    with pytest.raises(MethodError, match=line):
        make_method("ked").prepare(make_explaining(8), {"teacher": teacher}, None, ctx)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cached", [False, True])
def test_frozen_explanations_are_of_the_answer_that_is_heard(kind: str, cached: bool) -> None:
    teacher: Teacher = calibrated(kind)
    inside, network = teacher, teacher_network()
    if cached:
        teacher = CachedTeacher(teacher)
    tap = "explanation:gradcam:stages.1"
    teacher.set_taps([tap])
    inputs = torch.rand(5, 1, 8, 8)
    said = teacher.ask(Batch(inputs=inputs))
    with tapping(network, "stages.1", require_grad=True) as store:
        plain = network(inputs)
    logits = plain @ matrix_of(kind).T
    if kind != "temperature":
        logits = logits + drawn(kind).bias.float()
        assert (logits.argmax(1) != plain.argmax(1)).any()
    torch.testing.assert_close(said.logits, logits)
    maps = store["stages.1"]
    (slope,) = torch.autograd.grad(logits.amax(dim=1).sum(), maps)
    naive = (slope.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1).relu()
    naive = interpolate(naive[:, None], (8, 8), mode="bilinear")[:, 0]
    found = said.features[tap]
    alike = cosine_similarity(found.flatten(1), naive.flatten(1), dim=1)
    shown = naive.flatten(1).norm(dim=1) > 1e-6
    assert shown.any()
    torch.testing.assert_close(alike[shown], torch.ones(int(shown.sum())), rtol=0, atol=1e-4)
    assert set(teacher.ask(Batch(inputs=inputs), taps=["stages.0"]).features) == {"stages.0"}
    inside.close()


def test_a_teacher_behind_another_reads_and_is_called_as_alone() -> None:
    def forward(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.inputs)

    inner = LiveTeacher(
        make_cnn(4, 8), normalization=Normalize([0.5], [0.25]), forward=forward, name="teacher"
    )
    batch = Batch(inputs=torch.rand(2, 1, 8, 8))
    for outer in (CachedTeacher(inner), CalibratedTeacher(inner, temperature=2), _route(inner)):
        assert outer.forward is forward
        assert torch.equal(outer.inputs_of(batch), inner.inputs_of(batch))


def _route(first: Teacher) -> RouteTeacher:
    return RouteTeacher([first, make_cnn(4, 8)])


@pytest.mark.parametrize("name", ["srrl", "simkd", "catkd", "ked", "blockkd", "residual"])
def test_what_has_no_one_classifier_gives_none(name: str) -> None:
    wanted, network = make_method(name).card.teacher_access, make_cnn(4, 8)
    for teacher in (
        EnsembleTeacher([network, network]),
        CachedTeacher(LiveTeacher(network)),
        _route(LiveTeacher(network)),
        CalibratedTeacher(EnsembleTeacher([network]), temperature=2),
    ):
        assert not teacher.can_give(wanted)


def test_a_classifier_that_is_not_linear_is_told_in_one_line() -> None:
    grown = make_cnn(4, 8)
    graft(grown, "head", nn.Dropout(), "in")
    with pytest.raises(TeacherError, match=r"got Grafted; name the vectors") as caught:
        prepare(make_method("srrl"), make_cnn(4, 8), grown, 8)
    assert "\n" not in str(caught.value)
