"""Any method in a loop of one's own: the same weights as Limbeck's own loop, or one clear line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_loops import (
    EPOCHS,
    RATE,
    SEED,
    SIZE,
    STEPS,
    Bank,
    Seams,
    assert_same_as_own,
    digits,
    network,
    own_loop,
    stream,
    student,
    students,
    teacher,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb
from limbeck.data import Normalize
from limbeck.errors import DataError
from limbeck.integrations import IndexedDataset
from limbeck.methods.base import Runtime
from limbeck.teachers import CalibratedTeacher, EmaTeacher, LiveTeacher, SnapshotTeacher

METHODS: dict[str, Any] = {
    "kd": lb.KD(temperature=2),
    "fitnet": lb.FitNet(weight=1.0),
    "sum": lb.KD() + lb.FitNet(weight=1.0, projector="conv1x1", pairs="stages[0]"),
    "smoothing": lb.LabelSmoothing() + lb.KD(),
    "e2kd": lb.E2KD(),
    "dml": lb.DML(),
    "seams": Seams(),
}


def make(method: Any, **changes: Any) -> lb.Distillation:
    cohort = any(one.card.students == "cohort" for one in _methods(method))
    arguments: dict[str, Any] = {
        "teacher": None if cohort else teacher(),
        "example": stream()[0].replace(index=None),
        "seed": SEED,
        **changes,
    }
    given = arguments.pop("student", students() if cohort else student())
    return lb.Distillation(given, arguments.pop("teacher"), method, **arguments)


def _methods(method: Any) -> list[Any]:
    return [] if isinstance(method, str) else list(getattr(method, "methods", [method]))


def train(distillation: lb.Distillation, first: int = 0, last: int = STEPS * EPOCHS) -> Any:
    optimizer = torch.optim.SGD(distillation.parameters(), lr=RATE)
    distillation.train()
    for number, batch in list(enumerate(stream()))[first:last]:
        optimizer.zero_grad()
        distillation(batch).backward()
        distillation.before_step()
        optimizer.step()
        distillation.after_step()
        if (number + 1) % STEPS == 0:
            distillation.epoch_end()
    return distillation.state_dict()


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_are_those_of_limbecks_own_loop(name: str, tmp_path: Path) -> None:
    own = own_loop(METHODS[name], tmp_path / "own", cohort=name == "dml")
    assert_same_as_own(train(make(METHODS[name])), own)


@pytest.mark.parametrize("name", ["sum", "seams"])
def test_the_state_dict_is_all_that_going_on_needs(name: str) -> None:
    undisturbed = train(make(METHODS[name]))
    half = train(make(METHODS[name]), last=3)
    second = make(METHODS[name])
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    second.load_state_dict(half)
    resumed = train(second, first=3)
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[key], undisturbed[key]) for key in resumed)


def test_memory_is_found_again_by_index(tmp_path: Path) -> None:
    own = own_loop(Bank(), tmp_path / "own")
    ours = train(make(Bank(), example=stream()[0]))
    seen = ours["runtimes.0.0.seen"][digits().splits["train"].indices]
    assert torch.equal(seen, torch.full((SIZE * STEPS,), float(EPOCHS)))
    assert_same_as_own(ours, own)


def test_the_teacher_is_no_part_of_it_and_comes_back_as_it_was() -> None:
    big, small = teacher().train(), student()
    before = {key: value.clone() for key, value in big.state_dict().items()}
    distillation = make(lb.FitNet() + lb.KD(), teacher=big, student=small)
    state = train(distillation)
    teachers = {id(parameter) for parameter in big.parameters()}
    assert not teachers & {id(parameter) for parameter in distillation.parameters()}
    assert {key.split(".")[0] for key in state} == {"student", "runtimes", "position"}
    plain = distillation.deploy()
    assert plain is small
    assert not plain.training
    assert big.training
    assert all(parameter.requires_grad for parameter in big.parameters())
    for module in [*plain.modules(), *big.modules()]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(torch.equal(before[key], value) for key, value in big.state_dict().items())
    with pytest.raises(lb.LimbeckError, match="was deployed"):
        distillation(stream()[0])


@pytest.mark.parametrize("kind", [EmaTeacher, SnapshotTeacher])
def test_a_teacher_that_changes_is_in_the_state_and_is_not_trained(kind: Any) -> None:
    undisturbed = make(lb.KD(), teacher=kind())
    state = train(undisturbed)
    followers = [key for key in state if key.startswith("teachers.teacher.")]
    assert followers
    first = kind()
    half = train(make(lb.KD(), teacher=first), last=5)
    second = make(lb.KD(), teacher=kind())
    second.load_state_dict(half)
    resumed = train(second, first=5)
    assert all(torch.equal(resumed[key], state[key]) for key in state)
    changed = [not torch.equal(state[key], value) for key, value in _initial(kind()).items()]
    assert any(changed)


def _initial(kind: Any) -> dict[str, torch.Tensor]:
    state = make(lb.KD(), teacher=kind).state_dict()
    return {key: value for key, value in state.items() if key.startswith("teachers.")}


def test_named_teachers_and_an_ensemble() -> None:
    method = lb.KD(teacher="big") + 0.5 * lb.KD(teacher="both", temperature=2)
    distillation = make(method, teacher={"big": teacher(), "both": [teacher(), network(4, 8)]})
    distillation(stream()[0])
    assert sorted(distillation.terms) == ["kd@big", "kd@both", "loss", "task"]


def test_terms_and_weights() -> None:
    distillation = make(lb.KD(weight=0.7), task_weight=0.25)
    loss = distillation(stream()[0])
    terms = distillation.terms
    assert torch.allclose(loss, 0.25 * terms["task"] + 0.7 * terms["kd"])
    assert make(lb.KD()).task_weight == lb.KD.card.task_weight


def test_forms_of_a_batch_say_the_same() -> None:
    distillation = make(lb.KD()).eval()
    batch = stream()[0]
    pair = (batch.inputs, batch.targets)
    mapping = {"inputs": batch.inputs, "labels": batch.targets}
    losses = [distillation(one) for one in (batch, pair, (*pair, batch.index), mapping)]
    assert all(torch.equal(losses[0], one) for one in losses)


def test_regression_and_several_labels() -> None:
    inputs = torch.randn(8, 5)
    net = nn.Linear(5, 1)
    numbers = lb.Distillation(net, nn.Linear(5, 1), "plain", example=(inputs, torch.randn(8)))
    assert numbers.task == "regression"
    assert numbers((inputs, torch.randn(8))).requires_grad
    rows = (torch.rand(8, 3) > 0.5).float()
    several = lb.Distillation(nn.Linear(5, 3), None, "plain", example=(inputs, rows))
    assert several.task == "multilabel"
    loss = nn.functional.binary_cross_entropy_with_logits(several.student(inputs), rows)
    assert torch.allclose(several((inputs, rows)), 3 * loss, atol=1e-5)  # a sum over the labels


def test_the_loops_own_random_numbers_are_not_disturbed() -> None:
    big, small, batch = teacher(), student(), stream()[0]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lb.Distillation(small, big, lb.FitNet(), example=batch, seed=SEED)
    assert torch.equal(torch.rand(3), expected)


def test_autocast_and_several_micro_batches() -> None:
    distillation = make(lb.KD() + lb.FitNet())
    whole = stream(SIZE * 2)[0]
    distillation.eval()
    distillation(whole).backward()
    expected = [p.grad.clone() for p in distillation.parameters()]
    distillation.zero_grad()
    for part in stream()[:2]:
        (distillation(part) / 2).backward()
    for parameter, grad in zip(distillation.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, grad, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distillation(whole).dtype == torch.float32


def test_progress_follows_steps_or_epochs() -> None:
    seen = []

    class Watching(Runtime):
        def losses(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
            seen.append((ctx.epoch, ctx.step, ctx.progress))
            return {"zero": student.logits.sum() * 0}

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watch(Seams):
        def prepare(self, *arguments: Any) -> Runtime:
            return Watching(self)

    train(make(Watch(), epochs=EPOCHS, steps=8))
    assert seen == [(step // 4, step, step / 8) for step in range(8)]
    seen.clear()
    train(make(Watch(), epochs=EPOCHS))
    assert seen == [(step // 4, step, (step // 4) / 2) for step in range(8)]


class FittingRuntime(Runtime):
    mean: torch.Tensor

    def __init__(self, method: Any) -> None:
        super().__init__(method)
        self.register_buffer("mean", torch.zeros(()))

    def fit(self, data: Any, ctx: Any) -> None:
        self.mean += data.splits["train"].targets.float().mean()

    def losses(self, student: Any, teacher: Any, batch: Any, ctx: Any) -> Any:
        return {"fit": (student.logits - self.mean).square().mean()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitting(Seams):
    name = "fitting"

    def prepare(self, *arguments: Any) -> Runtime:
        return FittingRuntime(self)


def test_what_is_fitted_is_fitted_once_and_not_after_loading() -> None:
    first = make(Fitting(), data=digits())
    state = train(first, last=2)
    expected = digits().splits["train"].targets.float().mean()
    assert torch.equal(state["runtimes.0.0.mean"], expected)
    second = make(Fitting(), data=digits())
    second.load_state_dict(state)
    assert torch.equal(train(second, first=2, last=3)["runtimes.0.0.mean"], expected)


def _with_statistics() -> LiveTeacher:
    return LiveTeacher(network(4), normalization=Normalize((0.5,), (0.5,)))


@pytest.mark.parametrize(
    ("method", "changes", "line"),
    [
        ("kcd", {}, "method kcd: needs data whose samples have an index"),
        (lb.FitNet(hint_epochs=2), {"epochs": 2}, "epochs: the stages of fitnet need .* 3, got 2"),
        (lb.DML(), {"student": network(4)}, "method dml: needs several students .* got one"),
        (lb.KD(), {"teacher": None}, "method kd: needs a teacher, and there is none"),
        (Fitting(), {}, "method fitting: fits on the training data .* data=limbeck.data.bundle"),
        (lb.KD(teacher="bg"), {"teacher": {"big": network(4)}}, "did you mean 'big'"),
        (lb.KD(), {"student": 3}, "student: expected a module or a list, got int"),
        (lb.KD(), {"student": nn.Linear(3, 2)}, "student: cannot read the example: "),
        (lb.KD(), {"student": nn.Conv2d(1, 2, 1)}, r"gives outputs of shape \[16, 2, 8, 8\]"),
        (lb.KD(), {"teacher": nn.Linear(3, 2)}, "teachers.teacher: cannot read the example: "),
        (lb.KD(), {"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 2))}, "2 outputs, .* 10"),
        (lb.KD(), {"example": (torch.zeros(1, 1, 8, 8), torch.zeros(1).long())}, "at least two"),
        (lb.KD(), {"example": torch.zeros(3)}, "batch: expected .inputs, targets., .* got Tensor"),
        (
            lb.E2KD(),
            {"task": "regression"},
            "method e2kd: serves classification, multilabel, not r",
        ),
        ("kdd", {}, "did you mean 'kd'"),
        (
            lb.KD(),
            {"teacher": _with_statistics()},
            r"teachers.teacher.normalization: .* pass data=",
        ),
        (lb.KD(), {"teacher": [_with_statistics(), network(4)]}, r"normalization: the statistics"),
        (
            lb.KD(),
            {"teacher": CalibratedTeacher(LiveTeacher(network(4)))},
            "temperature: not fitted yet",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_line(method: Any, changes: Any, line: str) -> None:
    with pytest.raises(lb.LimbeckError, match=line) as told:
        make(method, **changes)
    assert "\n" not in str(told.value)


def test_refusals_during_training() -> None:
    bank = make(Bank(), example=stream()[0])
    with pytest.raises(lb.LimbeckError, match=r"method bank: needs the index .*IndexedDataset"):
        bank(stream()[0].replace(index=None))
    seams = make(Seams())
    seams(stream()[0]).backward()
    with pytest.raises(lb.LimbeckError, match=r"method seams: changes gradients: call before_step"):
        seams.after_step()
    nothing = make("plain", task_weight=0.0)
    with pytest.raises(lb.LimbeckError, match="no term of the loss teaches"):
        nothing(stream()[0])


def test_a_refusal_leaves_no_hook_on_the_teacher() -> None:
    big = teacher()
    with pytest.raises(lb.LimbeckError):
        make(lb.FitNet(hint_epochs=1), teacher=big)
    assert all(parameter.requires_grad for parameter in big.parameters())
    assert not any(module._forward_hooks for module in big.modules())


def test_samples_with_an_index() -> None:
    pairs = IndexedDataset(TensorDataset(torch.zeros(3, 2), torch.arange(3)))
    _, _, index = next(iter(DataLoader(pairs, batch_size=2)))
    assert len(pairs) == 3
    assert index.tolist() == [0, 1]
    assert IndexedDataset([{"a": 1}])[0] == {"a": 1, "sample_index": 0}
    with pytest.raises(lb.LimbeckError, match="have no index"):
        IndexedDataset(iter([1]))
    with pytest.raises(lb.LimbeckError, match="cannot add an index to a sample of type int"):
        IndexedDataset([1])[0]


def test_soft_labels_are_no_class_indices():
    mixed = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.0, 0.9], [0.5, 0.5, 0.0]])
    inputs, student, teacher = torch.randn(3, 4), nn.Linear(4, 3), nn.Linear(4, 3)
    with pytest.raises(
        DataError, match=r"targets \[3, 3\] sum to 1, as soft labels do; say the task"
    ):
        lb.Distillation(student, teacher, lb.KD(), example=(inputs, mixed))
    line = r"batch: targets of shape \[3, 3\] for classification; expected one class index .* -100"
    with pytest.raises(DataError, match=line):
        lb.Distillation(student, teacher, lb.KD(), example=(inputs, mixed), task="classification")
    lb.Distillation(student, teacher, lb.LogitMSE(), example=(inputs, mixed), task="regression")
