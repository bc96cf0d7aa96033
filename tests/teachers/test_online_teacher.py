"""An online teacher learns as it would alone, and teaches meanwhile."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from teacher_worlds import CPU, batch_of
from torch import Tensor, nn

import limbeck
from limbeck.data import DataBundle, load_data
from limbeck.engine.plan import Plan
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Checkpoints, Optimizer, Train
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError, RecipeError, TapError, TeacherError
from limbeck.methods import as_methods
from limbeck.models import Cohort, build_model
from limbeck.recipe import build_plan, load_recipe
from limbeck.teachers import (
    CalibratedTeacher,
    EnsembleTeacher,
    OnlineTeacher,
    PeersTeacher,
    RouteTeacher,
    Teacher,
)


@pytest.fixture(scope="module")
def data() -> DataBundle:
    return load_data("digits", num_train=200, augment=["flip"])


def network(*channels: int, seed: int = 1, norm: str = "batch") -> nn.Module:
    torch.manual_seed(seed)
    return build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=channels, norm=norm)


def plan_with(
    teacher: nn.Module | None, data: DataBundle, method: Any = "kd", cohort: int = 1, **train: Any
) -> Plan:
    teachers: dict[str, Teacher] = {} if teacher is None else {"teacher": OnlineTeacher(teacher)}
    if cohort > 1:
        teachers["peers"] = PeersTeacher()
    students = [network(4, 8, seed=9 + number) for number in range(cohort)]
    student = Cohort(students) if cohort > 1 else students[0]
    settings = {"epochs": 2, "batch_size": 50, "optimizer": Optimizer(lr=0.1), **train}
    return Plan(
        name="online",
        data=data,
        make_student=lambda: copy.deepcopy(student),
        methods=as_methods(method),
        teachers=teachers,
        train=Train(**settings),
        checkpoints=Checkpoints(every_steps=3, keep=1),
        seed=3,
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def alone(data: DataBundle, tmp_path: Path, **train: Any) -> dict[str, Tensor]:
    """Train the teacher's network by itself; return its last weights."""
    start = network(8, 16)
    plan = plan_with(None, data, "plain", deploy="last", **train)
    plan = copy.copy(plan)
    object.__setattr__(plan, "make_student", lambda: copy.deepcopy(start))
    return weights(run_plan(plan, tmp_path / "alone", quiet=True).student)


@pytest.mark.parametrize("train", [{}, {"clip_norm": 0.5}, {"accumulate": 2}])
def test_it_learns_as_it_would_alone(
    train: dict[str, Any], data: DataBundle, tmp_path: Path
) -> None:
    expected = alone(data, tmp_path, **train)
    for number, method in enumerate(["kd", {"name": "kd", "weight": 0.1}]):
        teacher = network(8, 16)
        run_plan(plan_with(teacher, data, method, **train), tmp_path / str(number), quiet=True)
        assert_same(weights(teacher), expected)


def test_its_students_hear_it_and_no_gradient_goes_back(data: DataBundle, tmp_path: Path) -> None:
    found = []
    for weight in (0.0, 0.9):
        teacher = network(8, 16)
        method = {"name": "kd", "weight": weight}
        plan = plan_with(teacher, data, method)
        found.append(weights(run_plan(plan, tmp_path / str(weight), quiet=True).student))
    assert not torch.equal(found[0]["head.weight"], found[1]["head.weight"])


def test_samples_without_a_label_are_heard_by_students_alone(tmp_path: Path) -> None:
    half = load_data("digits", num_train=200, label_fraction=0.5)
    teacher = network(8, 16)
    before = weights(teacher)
    run_plan(plan_with(teacher, half, "kd"), tmp_path / "run", quiet=True)
    assert not torch.equal(weights(teacher)["head.weight"], before["head.weight"])
    none = load_data("digits", num_train=200, label_fraction=0.0)
    with pytest.raises(TeacherError, match=r"learns from labels, and no training sample has one"):
        OnlineTeacher(network(8, 16)).bind(none, CPU)


def test_students_alike_stay_alike(data: DataBundle, tmp_path: Path) -> None:
    plan = plan_with(network(8, 16), data, [{"name": "kd", "teacher": "teacher"}, "dml"], cohort=2)
    twin = network(4, 8, seed=9)
    object.__setattr__(plan, "make_student", lambda: Cohort([copy.deepcopy(twin) for _ in "ab"]))
    object.__setattr__(plan, "cohort", "ensemble")
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    first, second = outcome.student.members
    assert_same(weights(first), weights(second))
    one = plan_with(network(8, 16), data, "kd")
    object.__setattr__(one, "make_student", lambda: copy.deepcopy(twin))
    outcome = run_plan(one, tmp_path / "one", quiet=True)
    with torch.no_grad():
        x = batch_of(data, size=8).inputs
        assert not torch.equal(outcome.student(x), network(4, 8, seed=9)(x))


@pytest.mark.parametrize("method", ["kd", "fitnet", "at"])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    method: str, data: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = network(8, 16)
    whole = run_plan(plan_with(teacher, data, method), tmp_path / "whole", quiet=True)
    expected, student = weights(teacher), weights(whole.student)
    again = network(8, 16)

    from limbeck.engine.distiller import Distiller

    real, count = Distiller._after_step, [0]

    def stop(self: Distiller, *arguments: Any) -> None:
        real(self, *arguments)
        count[0] += 1
        if count[0] == 4:  # one step after a checkpoint
            raise Interrupted(str(self.folder.path))

    monkeypatch.setattr(Distiller, "_after_step", stop)
    with pytest.raises(Interrupted):
        run_plan(plan_with(again, data, method), tmp_path / "cut", quiet=True)
    monkeypatch.setattr(Distiller, "_after_step", real)
    fresh = network(8, 16, seed=77)  # what it knew comes from the checkpoint
    outcome = run_plan(plan_with(fresh, data, method), tmp_path / "cut", resume=True, quiet=True)
    assert_same(weights(fresh), expected)
    assert_same(weights(outcome.student), student)


def test_questions_beside_training_do_not_touch_it(data: DataBundle) -> None:
    teacher = OnlineTeacher(network(8, 16))
    teacher.bind(data, CPU)
    teacher.module.train()
    before = weights(teacher.module)
    said = teacher.ask(batch_of(data, size=8))
    assert teacher.module.training
    assert not said.logits.requires_grad
    assert_same(weights(teacher.module), before)  # no statistics of the batch were taken
    assert teacher.ask(batch_of(data, size=8), require_grad=True).logits.requires_grad
    assert not torch.equal(
        weights(teacher.module)["stages.0.norm1.running_mean"],
        before["stages.0.norm1.running_mean"],
    )


def test_a_recipe_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(
        {
            "data": {"name": "digits", "num_train": 100},
            "teacher": {"online": "mlp"},
            "student": {"model": "mlp", "widths": [8]},
            "method": "kd",
            "train": {"epochs": 1},
        },
        ["teacher.online.widths=[32]"],
    )
    plan = build_plan(recipe)
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    entry = outcome.summary["teachers"]["teacher"]
    assert entry["what"] == "MLP, learning beside the student"
    assert entry["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert "teacher_task" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_it_must_stand_by_itself() -> None:
    line = "an online teacher learns from its own answers and must stand by itself"
    with pytest.raises(TeacherError, match=f"teachers.ensemble: {line}, not in an ensemble"):
        EnsembleTeacher([OnlineTeacher(network(4))])
    with pytest.raises(TeacherError, match=f"{line}, not in a calibrated one"):
        CalibratedTeacher(OnlineTeacher(network(4)), temperature=2.0)
    with pytest.raises(TeacherError, match="must not change by itself"):
        RouteTeacher([OnlineTeacher(network(4)), network(4)])


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        ({"cache": {"online": "cnn"}}, "teacher.cache: this teacher changes during the run"),
        ({"ensemble": [{"online": "cnn"}]}, "teacher.ensemble.0: an online teacher learns from"),
        ({"calibrated": {"online": "cnn"}}, "teacher.calibrated: an online teacher learns from"),
        ({"route": [{"online": "cnn"}, {"online": "cnn"}]}, "teacher.route.0: a teacher on a rou"),
        ({"online": "cnnn"}, "teacher.online.model: unknown model 'cnnn': did you mean 'cnn'?"),
        ({"onlin": "cnn"}, "teacher.onlin: unknown key 'onlin': did you mean 'online'?"),
        ({"online": {"model": "cnn", "chanels": [4]}}, "teacher.online.chanels: unknown key"),
    ],
)
def test_recipes_that_cannot_be_are_one_line(teacher: dict[str, Any], line: str) -> None:
    document = {"data": "digits", "student": "cnn", "method": "kd", "teacher": teacher}
    with pytest.raises((RecipeError, TeacherError)) as found:
        build_plan(load_recipe(document))
    assert str(found.value).startswith(line)
    assert "\n" not in str(found.value)


def test_what_cannot_be_trained_or_asked_is_one_line(data: DataBundle) -> None:
    with pytest.raises(TeacherError, match="has nothing that could be trained"):
        OnlineTeacher(nn.Flatten())
    with pytest.raises(TeacherError, match=r"teachers\.teacher\.online: cannot read the data"):
        OnlineTeacher(nn.Linear(3, 10)).bind(data, CPU)
    with pytest.raises(TeacherError, match="10"):
        OnlineTeacher(nn.Sequential(nn.Flatten(), nn.Linear(64, 7))).bind(data, CPU)
    shared = network(4, 8)
    with pytest.raises(TeacherError, match=r"the student shares 8 parameters with it \(stages"):
        OnlineTeacher(shared).meet(shared)


def test_a_foreign_loop_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"is trained by Limbeck's own loop; use limbeck\.dist"):
        limbeck.Distillation(
            network(4),
            teacher=OnlineTeacher(network(4)),
            method="kd",
            example=torch.rand(2, 1, 8, 8),
        )


@pytest.mark.parametrize("method", ["gkd", {"name": "e2kd", "lam": 1}])
def test_methods_that_differentiate_it_leave_it_as_it_would_be_alone(
    method: Any, data: DataBundle, tmp_path: Path
) -> None:
    teacher = network(8, 16)
    run_plan(plan_with(teacher, data, method), tmp_path / "run", quiet=True)
    assert_same(weights(teacher), alone(data, tmp_path))


@pytest.mark.parametrize("name", ["half", "keys", "type"])
def test_it_may_be_called_what_a_module_has(name: str, data: DataBundle, tmp_path: Path) -> None:
    teacher = network(8, 16)
    before = weights(teacher)
    plan = plan_with(None, data, {"name": "kd", "teacher": name}, epochs=1)
    object.__setattr__(plan, "teachers", {name: OnlineTeacher(teacher)})
    run_plan(plan, tmp_path / "run", quiet=True)
    assert not torch.equal(weights(teacher)["head.weight"], before["head.weight"])
    assert f"{name}_task" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "method",
    [
        {"name": "ft", "fit_epochs": 1},
        {"name": "ofd"},
        {"name": "sskd", "fit_epochs": 1},
        {"name": "quest"},
        {"name": "letkd1"},
        {"name": "at", "pairs": "cka"},
    ],
    ids=lambda method: method["name"],
)
def test_nothing_is_taken_of_it_before_it_has_learned(
    method: dict[str, Any], data: DataBundle, tmp_path: Path
) -> None:
    line = "before the first step, when the online teacher 'teacher' has learned nothing"
    with pytest.raises(MethodError, match=line) as found:
        run_plan(plan_with(network(8, 16), data, method), tmp_path / "run", quiet=True)
    assert str(found.value).startswith(f"method {method['name']}: ")
    assert "\n" not in str(found.value)


def test_it_does_not_learn_from_labels_of_its_own(data: DataBundle, tmp_path: Path) -> None:
    plan = plan_with(network(8, 16), data, [{"name": "chimeric", "epochs": 1}, "kd"])
    with pytest.raises(MethodError, match="'teacher' would learn from its own answers"):
        run_plan(plan, tmp_path / "run", quiet=True)


def test_mixed_samples_have_no_label_to_learn_from() -> None:
    mixed = load_data("digits", num_train=200, augment=[{"mixup": 0.2}])
    with pytest.raises(
        TeacherError, match=r"teachers\.teacher\.online: .* mixup .* leaves no samp"
    ):
        OnlineTeacher(network(8, 16)).bind(mixed, CPU)


def test_a_student_that_learns_nothing_is_refused_though_the_teacher_learns(
    data: DataBundle, tmp_path: Path
) -> None:
    plan = plan_with(network(8, 16), data, "plain")
    object.__setattr__(plan, "task_weight", 0.0)
    with pytest.raises(MethodError, match="no term of the loss teaches the student anything"):
        run_plan(plan, tmp_path / "run", quiet=True)


def test_taps_that_it_cannot_give_are_one_line() -> None:
    teacher = OnlineTeacher(network(4))
    with pytest.raises(TapError, match=r"teachers\.teacher: unknown tap 'stagse'"):
        teacher.set_taps(["stagse"])
    with pytest.raises(TeacherError, match=r"explanations change .* set method\.frozen=false"):
        teacher.set_taps(["explanation:gradcam:stages[-1]"])


@pytest.mark.parametrize("cohort", [1, 2])
def test_the_log_adds_up(cohort: int, data: DataBundle, tmp_path: Path) -> None:
    kd = {"name": "kd", "teacher": "teacher", "weight": 0.7}
    plan = plan_with(network(8, 16), data, kd, cohort=cohort, epochs=1)
    object.__setattr__(plan, "task_weight", 0.3)
    if cohort > 1:
        object.__setattr__(plan, "teachers", {"teacher": plan.teachers["teacher"]})
    run_plan(plan, tmp_path / "run", quiet=True)
    log = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    expected = 0.3 * log["task"] + 0.7 * log["kd"] + log["teacher_task"]
    assert log["loss"] == pytest.approx(expected, rel=1e-5)
