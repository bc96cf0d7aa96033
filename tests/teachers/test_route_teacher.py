"""RouteTeacher: who speaks when, what is kept, what is refused."""

import pytest
import torch
from teacher_worlds import CPU, Net, batch_of, digits

from limbeck.errors import TeacherError
from limbeck.methods.context import Context
from limbeck.teachers import (
    CachedTeacher,
    CalibratedTeacher,
    EmaTeacher,
    EnsembleTeacher,
    LiveTeacher,
    RouteTeacher,
    VirtualTeacher,
    Visits,
)
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(scope="module")
def data():
    return digits()


def nets(count=3):
    return [Net(seed=seed) for seed in range(count)]


def at(teacher, progress, epochs=10):
    teacher.step_begin(Context(progress=progress, epochs=epochs))
    return teacher.current


@pytest.mark.parametrize(
    ("moments", "epochs", "expected"),
    [
        (None, 10, {0.0: 0, 0.33: 0, 0.34: 1, 0.66: 1, 0.67: 2, 0.99: 2}),
        ((0, 0.2, 0.9), 10, {0.19: 0, 0.2: 1, 0.89: 1, 0.9: 2}),
        ((0, 2, 5), 10, {0.19: 0, 0.2: 1, 0.49: 1, 0.5: 2, 0.99: 2}),
        ((0, 0.5, 1.5), 3, None),  # shares and epochs at once
    ],
)
def test_who_speaks_when(moments, epochs, expected):
    if expected is None:
        with pytest.raises(TeacherError, match="either shares of the training"):
            RouteTeacher(nets(), at=moments)
        return
    teacher = RouteTeacher(nets(), at=moments)
    teacher.foresee(Visits(epochs=epochs))
    for progress, number in expected.items():
        assert at(teacher, progress, epochs) == number


def test_moments_in_epochs_are_laid_anew_in_another_loop():
    teacher = RouteTeacher(nets(2), at=(0, 2))
    teacher.foresee(Visits(epochs=4))
    assert at(teacher, 0.4, 4) == 0
    teacher.close()
    assert at(teacher, 0.4, 10) == 1  # a loop that tells the epochs with each step


def test_every_epoch_begins_with_its_teacher_whatever_the_rounding():
    for epochs in range(2, 60):
        teacher = RouteTeacher(nets(), at=(0, 1, epochs - 0.5) if epochs > 2 else (0, 1, 1.5))
        teacher.foresee(Visits(epochs=epochs))
        assert at(teacher, 1 / epochs, epochs) == 1


def test_it_says_what_the_current_teacher_says(data):
    members, batch = nets(2), batch_of(data)
    teacher = RouteTeacher(members, at=(0, 0.5))
    teacher.foresee(Visits(epochs=4))
    teacher.bind(data, CPU)
    teacher.set_taps(["act"])
    for progress, net in ((0.0, members[0]), (0.7, members[1])):
        at(teacher, progress)
        assert torch.equal(teacher.ask(batch).logits, LiveTeacher(net).ask(batch).logits)
        assert set(teacher.ask(batch).features) == {"act"}
        assert teacher.module is net
    check_teacher(teacher, batch, taps=("act",))
    assert "from the start, 0.5 on" in teacher.describe()


def test_a_checkpoint_keeps_the_place(data):
    first, second = (RouteTeacher(nets(2)) for _ in range(2))
    at(first, 0.8)
    second.state.load_state_dict(first.state.state_dict())
    assert second.current == 1
    second.bind(data, CPU)
    assert second.current == 0


def test_an_ensemble_and_a_temperature_hand_the_step_on():
    route = RouteTeacher(nets(2))
    outer = CalibratedTeacher(EnsembleTeacher([route, Net(seed=7)]), temperature=2)
    outer.step_begin(Context(progress=0.9, epochs=2))
    assert route.current == 1


def test_access_is_the_least_and_never_a_head():
    assert RouteTeacher(nets(2)).access == "features"
    assert RouteTeacher([Net(), VirtualTeacher()]).access == "outputs"


def test_refusals():
    with pytest.raises(TeacherError, match="at least two"):
        RouteTeacher(nets(1))
    with pytest.raises(TeacherError, match="must not change by itself"):
        RouteTeacher([Net(), EmaTeacher()])
    with pytest.raises(TeacherError, match="some classes only"):
        RouteTeacher([Net(), CachedTeacher(Net(), codec="topk")])
    for wrong in ((0.1, 0.5), (0, 0), (0, 0.5, 0.4), (0, float("nan"))):
        with pytest.raises(TeacherError, match=r"\.at: expected"):
            RouteTeacher(nets(len(wrong)), at=wrong)
    with pytest.raises(TeacherError, match="expected 3 numbers, one for each teacher"):
        RouteTeacher(nets(), at=(0, 0.5))
    with pytest.raises(TeacherError, match="after 5 epochs, but the training has 5"):
        RouteTeacher(nets(2), at=(0, 5)).foresee(Visits(epochs=5))
    with pytest.raises(TeacherError, match="after 5 epochs, but the training has 5"):
        at(RouteTeacher(nets(2), at=(0, 5)), 0.0, epochs=5)  # another loop foresees nothing
    with pytest.raises(TeacherError, match="cannot be kept"):
        CachedTeacher(RouteTeacher(nets(2)))
