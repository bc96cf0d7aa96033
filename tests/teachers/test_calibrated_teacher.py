"""CalibratedTeacher: fitted where it should be, on what it should be."""

import logging

import pytest
import torch
from scipy.optimize import minimize_scalar
from teacher_worlds import CPU, Net, batch_of, digits
from torch import nn
from torch.nn import functional as F

from limbeck.data import IGNORE, Batch, bundle_from
from limbeck.errors import TeacherError
from limbeck.functional import adaptive_calibration_error
from limbeck.teachers import CalibratedTeacher, EmaTeacher, EnsembleTeacher, LiveTeacher
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(scope="module")
def data():
    return digits()


def overconfident(data):
    """A linear map fitted to the training part until it is far too sure."""
    view = data.splits["train"]
    raw = view.fetch(torch.arange(200))
    inputs = data.augment_eval(raw.inputs, raw.index)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), raw.targets).backward()
        optimizer.step()
    return net


def part(data, split, net):
    view = data.splits[split]
    raw = view.fetch(torch.arange(len(view)))
    with torch.no_grad():
        return net(data.augment_eval(raw.inputs, raw.index)).double(), raw.targets


def test_fits_the_likelihood_on_validation_alone(data, caplog):
    net = overconfident(data)
    teacher = CalibratedTeacher(LiveTeacher(net, name="big"))
    with caplog.at_level(logging.INFO, logger="limbeck"):
        teacher.bind(data, CPU)
    logits, targets = part(data, "validation", net)
    best = minimize_scalar(
        lambda t: float(F.cross_entropy(logits / t, targets)),
        bounds=(0.05, 50),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert teacher.fitted == pytest.approx(best.x, rel=1e-4)
    assert teacher.fitted > 1.2
    test_logits, test_targets = part(data, "test", net)
    other = minimize_scalar(
        lambda t: float(F.cross_entropy(test_logits / t, test_targets)),
        bounds=(0.05, 50),
        method="bounded",
    )
    assert abs(teacher.fitted - other.x) > 0.01
    assert "teacher big: temperature" in caplog.text
    assert f"T = {teacher.fitted:.4g} (by nll" in teacher.describe()
    check_teacher(teacher, batch_of(data), taps=("1:in",))


def test_fits_the_adaptive_error(data):
    net = overconfident(data)
    teacher = CalibratedTeacher(LiveTeacher(net), temperature="ace")
    teacher.bind(data, CPU)
    logits, targets = part(data, "validation", net)

    def error(t):
        return float(adaptive_calibration_error((logits / t).softmax(1), targets))

    assert error(teacher.fitted) < error(1.0)
    assert all(error(teacher.fitted) <= error(10 ** (k / 20)) + 1e-12 for k in range(-20, 21))


def test_divides_logits_and_nothing_else(data):
    batch = batch_of(data)
    inner = LiveTeacher(Net())
    teacher = CalibratedTeacher(inner, temperature=2.5)
    teacher.bind(data, CPU)
    teacher.set_taps(["act"])
    said, plain = teacher.ask(batch), inner.ask(batch)
    assert torch.allclose(said.logits * 2.5, plain.logits)
    assert torch.equal(said.features["act"], plain.features["act"])
    linked = teacher.ask(batch, require_grad=True)
    assert torch.autograd.grad(linked.logits.sum(), linked.features["act"])[0].abs().sum() > 0
    several = CalibratedTeacher(EnsembleTeacher([Net(), Net(seed=1)]), temperature=2)
    outputs = several.ask(batch)
    assert torch.equal(outputs.members[0].logits * 2, Net().eval()(batch.inputs))
    assert several.access == "outputs"


def test_unlabelled_validation_samples_are_left_out(data):
    net = overconfident(data)
    view = data.splits["validation"]
    targets = view.base_targets.clone()
    targets[view.indices[::2]] = IGNORE
    splits = {**data.splits, "validation": view.with_targets(targets)}
    import dataclasses

    teacher = CalibratedTeacher(LiveTeacher(net))
    teacher.bind(dataclasses.replace(data, splits=splits), CPU)
    logits, labels = part(data, "validation", net)
    best = minimize_scalar(
        lambda t: float(F.cross_entropy(logits[1::2] / t, labels[1::2])),
        bounds=(0.05, 50),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert teacher.fitted == pytest.approx(best.x, rel=1e-4)
    nothing = view.with_targets(torch.full_like(targets, IGNORE))
    with pytest.raises(TeacherError, match="no labelled validation samples"):
        teacher.bind(dataclasses.replace(data, splits={**splits, "validation": nothing}), CPU)


def test_refusals(data):
    for wrong in ("mle", 0, -1, float("inf"), float("nan"), True):
        with pytest.raises(TeacherError, match="expected 'nll', 'ace' or a number above 0"):
            CalibratedTeacher(LiveTeacher(Net()), temperature=wrong)
    unbound = CalibratedTeacher(LiveTeacher(Net()))
    with pytest.raises(TeacherError, match="bind it to data first"):
        unbound.ask(Batch(torch.zeros(1, 1, 8, 8)))
    with pytest.raises(TeacherError, match="bind it to data first"):
        unbound.fingerprint()
    with pytest.raises(TeacherError, match="changes during the run"):
        CalibratedTeacher(EmaTeacher()).bind(data, CPU)
    numbers = bundle_from((torch.randn(40, 2), torch.randn(40, 1)), task="regression")
    with pytest.raises(TeacherError, match="no temperature for regression"):
        CalibratedTeacher(LiveTeacher(nn.Linear(2, 1)), temperature=2).bind(numbers, CPU)


def test_fingerprint_knows_the_temperature(data):
    prints = {CalibratedTeacher(LiveTeacher(Net()), temperature=t).fingerprint() for t in (1, 2)}
    assert len(prints | {LiveTeacher(Net()).fingerprint()}) == 3
