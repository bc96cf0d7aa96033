"""From what a user has to a Teacher."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from teacher_worlds import Net

from limbeck.errors import TeacherError
from limbeck.teachers import (
    BlackBoxTeacher,
    EnsembleTeacher,
    LiveTeacher,
    VirtualTeacher,
    as_teacher,
)


def test_reads_what_users_have():
    net = Net()
    live = as_teacher(net, "big")
    assert isinstance(live, LiveTeacher)
    assert live.module is net
    assert live.name == "big"
    virtual = VirtualTeacher()
    assert as_teacher(virtual, "rule") is virtual
    assert virtual.name == "rule"
    zoo = as_teacher([Net(), virtual], "zoo")
    assert isinstance(zoo, EnsembleTeacher)
    assert zoo.merge == "logits"
    assert [member.name for member in zoo.members] == ["zoo[0]", "zoo[1]"]
    assert isinstance(as_teacher(LogisticRegression()), BlackBoxTeacher)
    assert isinstance(as_teacher(np.exp), BlackBoxTeacher)


@pytest.mark.parametrize("value", [None, 3, "resnet20", Net, []])
def test_refuses_what_cannot_answer(value):
    with pytest.raises(TeacherError, match=r"teachers\.big"):
        as_teacher(value, "big")
