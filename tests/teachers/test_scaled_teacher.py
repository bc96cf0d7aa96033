"""CalibratedTeacher by vector and matrix scaling: where it is fitted, and what is said."""

import pytest
import torch
from teacher_worlds import CPU, Net, batch_of, digits
from torch import nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError, TeacherError
from limbeck.functional import expected_calibration_error, fit_scaling, scale_logits
from limbeck.recipe import build_plan, load_recipe
from limbeck.recipe.running import run_recipe
from limbeck.teachers import (
    CachedTeacher,
    CalibratedTeacher,
    EnsembleTeacher,
    LiveTeacher,
    Visits,
)
from limbeck.testing.check_teacher import check_teacher

WEIGHTS = {"model": "mlp", "weights": "random", "widths": [8]}


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def sure(data):
    """A linear map that was fitted until it is far too sure."""
    raw = data.splits["train"].fetch(torch.arange(200))
    inputs = data.augment_eval(raw.inputs, raw.index)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), raw.targets).backward()
        optimizer.step()
    return net


def answers(data, split, net):
    view = data.splits[split]
    raw = view.fetch(torch.arange(len(view)))
    with torch.no_grad():
        return net(data.augment_eval(raw.inputs, raw.index)), raw.targets


@pytest.mark.parametrize("scaling", ["vector", "matrix"])
def test_it_is_fitted_on_validation_alone(data, sure, scaling):
    said: list[str] = []
    teacher = CalibratedTeacher(
        LiveTeacher(sure), scaling=scaling, penalty=0.01, name="big", say=said.append
    )
    teacher.bind(data, CPU)
    fit = fit_scaling(*answers(data, "validation", sure), form=scaling, penalty=0.01)
    batch = batch_of(data, "test")
    with torch.no_grad():
        expected = scale_logits(sure(batch.inputs), fit.weight, fit.bias)
    torch.testing.assert_close(teacher.ask(batch).logits, expected)
    assert said[0].startswith(f"big: {scaling} scaling by nll on ")
    assert "held out by halves: NLL" in said[0]
    assert f"{scaling} scaling W z + b" in teacher.describe()
    check_teacher(teacher, batch)


def test_before_and_after_are_measured_on_samples_that_were_not_fitted(data, sure):
    teacher = CalibratedTeacher(LiveTeacher(sure), scaling="matrix")
    teacher.bind(data, CPU)
    logits, labels = answers(data, "validation", sure)
    after = torch.empty_like(logits)
    for part, other in ((0, 1), (1, 0)):
        fit = fit_scaling(logits[other::2], labels[other::2], form="matrix")
        after[part::2] = scale_logits(logits[part::2], fit.weight, fit.bias)
    found = teacher.account
    assert found["nll_before"] == pytest.approx(float(F.cross_entropy(logits.double(), labels)))
    assert found["nll_after"] == pytest.approx(float(F.cross_entropy(after.double(), labels)))
    ece = expected_calibration_error(after.double().softmax(1), labels)
    assert found["ece_after"] == pytest.approx(float(ece))
    # A matrix has 110 numbers for these samples: on the samples it fits it looks far better.
    whole = fit_scaling(logits, labels, form="matrix")
    assert whole.error < 0.5 * found["nll_after"]


def test_one_temperature_is_said_with_what_it_did(data, sure):
    said: list[str] = []
    teacher = CalibratedTeacher(LiveTeacher(sure), say=said.append)
    teacher.bind(data, CPU)
    assert said[0].startswith(f"teacher: temperature {teacher.fitted:.4g} by nll on ")
    found = teacher.account
    assert found["nll_after"] < found["nll_before"]
    assert found["ece_after"] < found["ece_before"]
    assert found["accuracy_after"] == found["accuracy_before"]
    assert f"ECE {found['ece_before']:.4g} -> {found['ece_after']:.4g}" in teacher.describe()


def test_in_and_around_ensembles_and_caches(data, sure, tmp_path):
    held = {"scaling": "vector", "penalty": 0.1}
    inside = EnsembleTeacher([CalibratedTeacher(LiveTeacher(sure), **held), LiveTeacher(Net())])
    around = CalibratedTeacher(EnsembleTeacher([sure, Net()]), **held)
    for number, teacher in enumerate((inside, around)):
        cache = CachedTeacher(teacher, tmp_path / str(number))
        cache.foresee(Visits(views=1))
        cache.bind(data, CPU)
        batch = batch_of(data, "test")
        assert torch.equal(cache.ask(batch).logits, teacher.ask(batch).logits)
        cache.capture(0)
        assert (tmp_path / str(number) / "manifest.json").exists()
    prints = set()
    for scaling in ("temperature", "vector", "matrix"):
        penalty = 0.0 if scaling == "temperature" else 0.1
        one = CalibratedTeacher(LiveTeacher(sure), scaling=scaling, penalty=penalty)
        one.bind(data, CPU)
        prints.add(one.fingerprint())
    assert len(prints) == 3


def test_by_recipe_the_summary_says_it(tmp_path, capsys):
    recipe = {
        "data": {"name": "digits", "num_train": 100},
        "teacher": {"calibrated": WEIGHTS, "scaling": "vector", "penalty": 0.1},
        "student": {"model": "mlp", "widths": [8]},
        "method": "kd",
        "train": {"epochs": 1},
    }
    outcome = run_recipe(recipe, output=tmp_path / "run")
    assert "teacher: vector scaling by nll on" in capsys.readouterr().out
    assert "vector scaling" in outcome.summary["teachers"]["teacher"]["what"]


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        ({"scaling": "vektor"}, "teacher.scaling: unknown choice 'vektor': did you mean 'vector'"),
        ({"penalty": 0.1}, "teacher.penalty: expected 0 beside one temperature"),
        ({"scaling": "vector", "penalty": -1}, "teacher.penalty: expected a number of at least 0"),
        (
            {"scaling": "matrix", "temperature": 2},
            "teacher.temperature: expected auto-nll, for matrix scaling is fitted by likelihood",
        ),
    ],
)
def test_refusals_of_recipes(teacher, line):
    recipe = {
        "data": "digits",
        "teacher": {"calibrated": WEIGHTS, **teacher},
        "student": "mlp",
        "method": "kd",
    }
    with pytest.raises(LimbeckError, match=line):
        build_plan(load_recipe(recipe), train_teachers=False)


def test_refusals():
    net = LiveTeacher(Net())
    with pytest.raises(TeacherError, match="scaling: unknown scaling 'vektor'"):
        CalibratedTeacher(net, scaling="vektor")
    with pytest.raises(TeacherError, match="matrix scaling is fitted by likelihood"):
        CalibratedTeacher(net, scaling="matrix", temperature="ace")
    for options in ({"penalty": 1.0}, {"penalty": -1.0, "scaling": "vector"}):
        with pytest.raises(TeacherError, match="penalty: expected a number of at least 0"):
            CalibratedTeacher(net, **options)
