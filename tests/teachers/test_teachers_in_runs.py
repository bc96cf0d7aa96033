"""Every kind of teacher through whole runs: from Python, and from each form in a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from teacher_worlds import CPU, Net, batch_of, same_state, state_of
from torch import nn

import limbeck
from limbeck.data import DataBundle, load_data
from limbeck.engine.running import run_plan
from limbeck.errors import LimbeckError, TeacherError
from limbeck.recipe import build_plan, load_recipe
from limbeck.teachers import (
    BlackBoxTeacher,
    CalibratedTeacher,
    EmaTeacher,
    EnsembleTeacher,
    LiveTeacher,
    SnapshotTeacher,
    Teacher,
    VirtualTeacher,
    fit_sklearn,
)
from limbeck.testing.check_teacher import check_teacher

SMALL = {"name": "digits", "num_train": 200}
TINY = {"model": "cnn", "channels": [2, 4]}
FAST = {"epochs": 1, "batch_size": 128}
FOREST = {"sklearn": {"estimator": "RandomForestClassifier", "n_estimators": 5}}
BOOSTING = {
    "sklearn": {"estimator": "GradientBoostingClassifier", "n_estimators": 2, "max_depth": 2}
}


@pytest.fixture(scope="module")
def data() -> DataBundle:
    return load_data("digits", num_train=200)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays(data: DataBundle) -> tuple[np.ndarray, np.ndarray]:
    batch = batch_of(data, size=len(data.splits["train"]))
    return batch.inputs.flatten(1).numpy(), batch.targets.numpy()


def distill(teacher: Any, data: DataBundle, output: Path, **options: Any) -> Any:
    settings = {"student": "mlp", "epochs": 1, "batch_size": 128, "quiet": True, **options}
    return limbeck.distill(teacher=teacher, data=data, output=output, **settings)


KINDS: dict[str, Any] = {
    "module": lambda data: Net(),
    "list": lambda data: [Net(), Net(seed=1)],
    "callable": lambda data: lambda x: np.full((len(x), 10), 0.1),
    "estimator": lambda data: RandomForestClassifier(5, random_state=0).fit(*arrays(data)),
    "boosting": lambda data: GradientBoostingClassifier(
        n_estimators=2, max_depth=2, random_state=0
    ).fit(*arrays(data)),
    "fitted by name": lambda data: fit_sklearn("KNeighborsClassifier", {}, data),
    "mixed ensemble": lambda data: EnsembleTeacher(
        [Net(), fit_sklearn("GaussianNB", {}, data), VirtualTeacher(0.9)], merge="probabilities"
    ),
    "calibrated": lambda data: CalibratedTeacher(LiveTeacher(Net())),
    "calibrated ensemble": lambda data: CalibratedTeacher(EnsembleTeacher([Net(), Net(seed=1)])),
    "virtual": lambda data: VirtualTeacher(0.9),
    "snapshot": lambda data: SnapshotTeacher(),
    "ema": lambda data: EmaTeacher(0.9),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_teaches_a_run_from_python(kind: str, data: DataBundle, tmp_path: Path) -> None:
    teacher = KINDS[kind](data)
    run = distill(teacher, data, tmp_path / "run")
    assert run.summary["status"] == "done"
    compared = {"agreement", "kl_to_teacher"} <= run.metrics.keys()
    assert compared == (kind != "virtual")  # a rule over labels says nothing about test samples
    assert all(np.isfinite(value) for value in run.metrics.values())
    assert not any(part._forward_hooks for part in run.student.modules())


def test_the_same_voice_teaches_the_same_whatever_its_kind(
    data: DataBundle, tmp_path: Path
) -> None:
    """A network, the function of it, and the mean of two of it: one student, bit for bit."""
    net = Net().eval()
    voices = {
        "network": net,
        "function": BlackBoxTeacher(net.forward, takes="tensor", gives="logits"),
        "twins": [Net(), Net()],
        "cold": CalibratedTeacher(LiveTeacher(Net()), temperature=1),
        "other": Net(seed=1),
    }
    students = {
        name: state_of(distill(voice, data, tmp_path / name).student)
        for name, voice in voices.items()
    }
    for name in ("function", "twins", "cold"):
        assert same_state(students["network"], students[name])
    assert not same_state(students["network"], students["other"])


def test_named_teachers_serve_the_methods_that_name_them(data: DataBundle, tmp_path: Path) -> None:
    run = distill(
        {"net": Net(), "forest": fit_sklearn("RandomForestClassifier", {"n_estimators": 3}, data)},
        data,
        tmp_path / "run",
        method=[limbeck.KD(teacher="net"), limbeck.KD(teacher="forest")],
    )
    assert set(run.summary["teachers"]) == {"net", "forest"}


def test_a_run_gives_the_users_module_back_as_it_was(data: DataBundle, tmp_path: Path) -> None:
    net = Net().train()
    before = state_of(net)
    distill(net, data, tmp_path / "run")
    assert same_state(before, state_of(net))  # batch statistics too
    assert all(part.training for part in net.modules())
    assert all(value.requires_grad and value.grad is None for value in net.parameters())


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        (lambda: Net(7), "teachers.teacher: gives 7 outputs, the data have 10"),
        (lambda: lambda x: np.full((len(x), 7), 1 / 7), r"teacher: gives .*7.*10"),
        (lambda: [Net(), Net(7)], r"teachers.teacher\[1\]: gives 7 outputs, the data have 10"),
        (lambda: lambda x: np.full((len(x), 10), 1.0), "sum to 10, expected 1"),
        (lambda: object(), "teachers.teacher: expected an nn.Module"),
    ],
)
def test_what_does_not_fit_is_one_line_before_training(
    teacher: Any, line: str, data: DataBundle, tmp_path: Path
) -> None:
    with pytest.raises(LimbeckError, match=line) as caught:
        distill(teacher(), data, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_feature_method_refuses_a_black_box_at_once(data: DataBundle, tmp_path: Path) -> None:
    with pytest.raises(LimbeckError, match="asks teacher 'teacher' for features"):
        distill(VirtualTeacher(), data, tmp_path / "run", method="fitnet")


# Recipes.

NET = {"model": "cnn", "weights": "random", "channels": [3, 4]}
FORMS: dict[str, tuple[dict[str, Any], type[Teacher]]] = {
    "model": (NET, LiveTeacher),
    "sklearn": (FOREST, BlackBoxTeacher),
    "sklearn boosting": (BOOSTING, BlackBoxTeacher),
    "ensemble": ({"ensemble": [NET, FOREST], "merge": "probabilities"}, EnsembleTeacher),
    "weighted": ({"ensemble": [NET, NET], "weights": [1, 3]}, EnsembleTeacher),
    "calibrated nll": ({"calibrated": FOREST, "temperature": "auto-nll"}, CalibratedTeacher),
    "calibrated ace": ({"calibrated": NET, "temperature": "auto-ace"}, CalibratedTeacher),
    "calibrated ensemble": ({"calibrated": {"ensemble": [NET, FOREST]}}, CalibratedTeacher),
    "virtual": ({"virtual": {"correct": 0.9}}, VirtualTeacher),
    "snapshot": ({"snapshot": {"every": 1}}, SnapshotTeacher),
    "ema": ({"ema": {"decay": 0.9}}, EmaTeacher),
    "train": (
        {"train": {"student": TINY, "method": "plain", "train": FAST}},
        LiveTeacher,
    ),
    "calibrated train": (
        {"calibrated": {"train": {"student": TINY, "method": "plain", "train": FAST}}},
        CalibratedTeacher,
    ),
}


def plan_of(teacher: dict[str, Any], said: list[str] | None = None, **changes: Any) -> Any:
    document = {"data": SMALL, "student": TINY, "method": "kd", "train": FAST, "teacher": teacher}
    say = (said if said is not None else []).append
    return build_plan(load_recipe({**document, **changes}), say=say, quiet=True)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_recipe_is_built_keeps_the_contract_and_trains(
    form: str, home: Path
) -> None:
    spec, kind = FORMS[form]
    plan = plan_of(spec)
    teacher = plan.teachers["teacher"]
    assert type(teacher) is kind
    teacher.bind(plan.data, CPU)
    teacher.meet(plan.make_student())
    check_teacher(teacher, batch_of(plan.data))
    teacher.close()
    outcome = run_plan(plan_of(spec), home / "run", quiet=True)
    assert outcome.summary["status"] == "done"


def test_a_trained_teacher_is_found_again_by_content(home: Path) -> None:
    spec = {"train": {"student": TINY, "method": "plain", "train": FAST}}

    def print_of(plan: Any) -> str:
        plan.teachers["teacher"].bind(plan.data, CPU)
        return plan.teachers["teacher"].fingerprint()

    first: list[str] = []
    again: list[str] = []
    other: list[str] = []
    made = print_of(plan_of(spec, first))
    (folder,) = (path for path in (home / "teachers").iterdir() if path.is_dir())
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert print_of(plan_of(spec, again)) == made
    assert [path.stat().st_mtime_ns for path in stamps] == list(stamps.values())
    assert any("trained first" in line for line in first)
    assert any("found again" in line for line in again)
    assert not any("trained first" in line for line in again)
    changed = {"train": {**spec["train"], "seed": 7}}
    assert print_of(plan_of(changed, other)) != made
    assert any("trained first" in line for line in other)


def test_a_fitted_teacher_follows_the_seed_of_its_recipe(home: Path) -> None:
    prints = [plan_of(FOREST, seed=seed).teachers["teacher"].fingerprint() for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("estimator", "line"),
    [
        ({"estimator": "RandomForrestClassifier"}, "did you mean 'RandomForestClassifier'"),
        ({"estimator": "RandomForestClassifier", "n_trees": 5}, "n_trees"),
        ({"estimator": "Ridge"}, "unknown scikit-learn classifier 'Ridge'"),
    ],
)
def test_wrong_estimators_name_the_key(estimator: dict[str, Any], line: str) -> None:
    with pytest.raises(LimbeckError, match=line) as caught:
        plan_of({"sklearn": estimator})
    assert str(caught.value).startswith("teacher")
    assert "\n" not in str(caught.value)


# Calibration sees validation labels, and nothing else.


def fitted_on(data: DataBundle, *damaged: str) -> float | None:
    """Temperature after all labels of some parts were shifted by one class."""
    splits = dict(data.splits)
    for part in damaged:
        view = splits[part]
        splits[part] = view.with_targets((view.base_targets + 1) % data.num_outputs)
    torch.manual_seed(0)
    inputs, labels = (torch.from_numpy(part) for part in arrays(data))
    head = nn.Linear(64, 10)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(inputs), labels).backward()
        optimizer.step()
    teacher = CalibratedTeacher(LiveTeacher(nn.Sequential(nn.Flatten(), head)))
    teacher.bind(dataclasses.replace(data, splits=splits), CPU)
    return teacher.fitted


def test_corrupt_labels_outside_of_validation_do_not_reach_the_temperature(
    data: DataBundle,
) -> None:
    undamaged = fitted_on(data)
    assert fitted_on(data, "test", "train") == undamaged
    assert fitted_on(data, "validation") != undamaged


def test_no_temperature_for_a_teacher_that_changes() -> None:
    with pytest.raises(TeacherError, match="changes during the run"):
        CalibratedTeacher(SnapshotTeacher()).bind(load_data("digits"), CPU)
