"""Snapshot and EMA teachers against the student's own history."""

import copy
from types import SimpleNamespace

import pytest
import torch
from teacher_worlds import CPU, Net, batch_of, digits, same_state, state_of

from limbeck.errors import TeacherError
from limbeck.models import Cohort
from limbeck.taps import TappedModel
from limbeck.teachers import EmaTeacher, SnapshotTeacher
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(scope="module")
def data():
    return digits()


def learn(student):
    """One made-up optimiser step, statistics and counters too."""
    with torch.no_grad():
        for value in student.parameters():
            value.add_(torch.randn_like(value), alpha=0.1)
        student.norm.running_mean.add_(0.1)
        student.norm.num_batches_tracked.add_(1)


@pytest.mark.parametrize("teacher", [SnapshotTeacher(), EmaTeacher()], ids=["snapshot", "ema"])
def test_keeps_the_contract_and_starts_as_the_student(data, teacher):
    student = Net().train()
    teacher.bind(data, CPU)
    teacher.meet(student)
    teacher.set_taps(["act"])
    batch = batch_of(data)
    check_teacher(teacher, batch, taps=("act",))
    assert torch.equal(teacher.ask(batch).logits, copy.deepcopy(student).eval()(batch.inputs))
    before = teacher.ask(batch).logits
    learn(student)
    assert torch.equal(teacher.ask(batch).logits, before)
    assert student.training
    assert all(value.requires_grad for value in student.parameters())
    teacher.close()


@pytest.mark.parametrize(
    ("every", "start", "taken"),
    [(1, None, [1, 2, 3, 4, 5, 6, 7]), (3, None, [3, 6]), (2, 3, [3, 5, 7]), (4, 1, [1, 5])],
)
def test_snapshots_are_taken_when_due(every, start, taken):
    student = Net()
    teacher = SnapshotTeacher(every, start)
    teacher.meet(student)
    expected = state_of(student)
    for epoch in range(7):
        learn(student)
        teacher.epoch_end(student, SimpleNamespace(epoch=epoch))
        if epoch + 1 in taken:
            expected = state_of(student)
        assert same_state(state_of(teacher.state), expected)


@pytest.mark.parametrize("warm_up", [True, False])
def test_average_follows_its_equation(warm_up):
    student = Net()
    teacher = EmaTeacher(0.8, warm_up=warm_up)
    teacher.meet(student)
    expected = {k: v.double() for k, v in state_of(student).items()}
    for step in range(12):
        learn(student)
        decay = min(0.8, step / (step + 1)) if warm_up else 0.8
        for name, value in student.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
            else:
                expected[name] = value.double()
        teacher.step_end(student, SimpleNamespace(step=step))
    for name, value in teacher.state.state_dict().items():
        assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    assert not torch.allclose(teacher.state.conv.weight, student.conv.weight)


def test_state_restores_it_in_a_new_process(data):
    student = Net()
    first = EmaTeacher(0.5)
    first.bind(data, CPU)
    first.meet(student)
    for step in range(5):
        learn(student)
        first.step_end(student, SimpleNamespace(step=step))
    saved = state_of(first.state)
    second = EmaTeacher(0.5)
    second.bind(data, CPU)
    second.meet(Net())
    second.state.load_state_dict(saved)
    batch = batch_of(data)
    assert torch.equal(first.ask(batch).logits, second.ask(batch).logits)
    assert first.fingerprint() == second.fingerprint()


def test_hooks_of_the_student_do_not_hear_the_copy(data):
    """Taps on the student are put on after ``meet``; later steps must not disturb them."""
    student = Net()
    teacher = SnapshotTeacher()
    teacher.bind(data, CPU)
    teacher.meet(student)
    batch = batch_of(data)
    with TappedModel(student, ["act"]) as tapped:
        outputs = tapped(batch)
        teacher.epoch_end(student, SimpleNamespace(epoch=0))
        teacher.ask(batch)
        assert not any(part._forward_hooks for part in teacher.module.modules())
        assert outputs.features["act"].requires_grad


def test_copies_a_cohort_whole(data):
    cohort = Cohort([Net(), Net(seed=1)])
    teacher = SnapshotTeacher()
    teacher.bind(data, CPU)
    teacher.meet(cohort)
    batch = batch_of(data)
    outputs = teacher.ask(batch)
    assert len(outputs.members) == 2
    assert torch.equal(outputs.members[1].logits, Net(seed=1).eval()(batch.inputs))


def test_the_copy_moves_with_a_student_that_is_moved_in_the_middle_of_a_training():
    teacher = SnapshotTeacher()
    teacher.bind(None, CPU)
    teacher.meet(Net())
    teacher.bind(None, torch.device("meta"))
    assert {value.device.type for value in teacher.module.parameters()} == {"meta"}


def test_refusals(data):
    with pytest.raises(TeacherError, match="has not met the student"):
        SnapshotTeacher().ask(batch_of(data))
    with pytest.raises(TeacherError, match="every_epochs: expected at least 1, got 0"):
        SnapshotTeacher(0)
    with pytest.raises(TeacherError, match="start_epoch"):
        SnapshotTeacher(1, 0)
    for decay in (-0.1, 1, float("nan")):
        with pytest.raises(TeacherError, match=r"decay: expected a number in \[0, 1\)"):
            EmaTeacher(decay)
    teacher = EmaTeacher()
    teacher.meet(Net())
    with pytest.raises(TeacherError, match="no longer the network"):
        teacher.step_end(Net(7), SimpleNamespace(step=0))
    assert "the initial student before" in SnapshotTeacher(2).describe()
    assert "decay 0.999" in teacher.describe()
