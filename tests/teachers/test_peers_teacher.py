"""PeersTeacher against hand-picked members."""

import pytest
import torch

from limbeck.data import Batch
from limbeck.errors import TeacherError
from limbeck.taps import Outputs
from limbeck.teachers import PeersTeacher


def cohort(count):
    torch.manual_seed(0)
    members = tuple(
        Outputs(
            torch.randn(4, 3, requires_grad=True), {"stage": torch.randn(4, 2, requires_grad=True)}
        )
        for _ in range(count)
    )
    return Outputs(torch.stack([m.logits for m in members]).mean(0), members=members)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_member_hears_the_others(count):
    voices = cohort(count)
    teacher = PeersTeacher()
    for member in range(count):
        heard = teacher.hear(voices, member)
        others = [voices.members[k] for k in range(count) if k != member]
        expected = sum(o.logits.detach().double() for o in others) / (count - 1)
        assert torch.allclose(heard.logits.double(), expected, atol=1e-6)
        assert not heard.logits.requires_grad
        assert len(heard.members) == count - 1
        for mine, theirs in zip(heard.members, others, strict=True):
            assert torch.equal(mine.logits, theirs.logits)
            assert torch.equal(mine.features["stage"], theirs.features["stage"])
            assert not mine.logits.requires_grad
            assert not mine.features["stage"].requires_grad
        assert list(heard.features) == (["stage"] if count == 2 else [])


def test_is_heard_not_asked():
    teacher = PeersTeacher()
    with pytest.raises(TeacherError, match="only during a training step"):
        teacher.ask(Batch(torch.zeros(2, 3)))


def test_needs_others():
    teacher = PeersTeacher("friends")
    with pytest.raises(TeacherError, match=r"teachers\.friends: a student alone has no peers"):
        teacher.hear(cohort(1), 0)
    with pytest.raises(TeacherError, match="a student alone"):
        teacher.hear(Outputs(torch.zeros(2, 3)), 0)
    with pytest.raises(TeacherError, match="no member 2 in a cohort of 2"):
        teacher.hear(cohort(2), 2)


def test_taps_are_for_the_engine_to_read():
    teacher = PeersTeacher()
    teacher.set_taps(["stages"])
    assert teacher.taps == ("stages",)
    assert teacher.can_give("features")
    assert not teacher.can_give("module")
    assert teacher.fingerprint() == PeersTeacher("other").fingerprint()
