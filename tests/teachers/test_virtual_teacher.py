"""VirtualTeacher against the rule written out with loops."""

import math

import pytest
import torch
from teacher_worlds import CPU, batch_of, digits
from torch.nn import functional as F

from limbeck.data import IGNORE, Batch, bundle_from
from limbeck.errors import TeacherError
from limbeck.teachers import VirtualTeacher
from limbeck.testing.check_teacher import check_teacher


def test_keeps_the_contract():
    data = digits()
    teacher = VirtualTeacher(0.95)
    teacher.bind(data, CPU)
    assert teacher.num_classes == 10
    check_teacher(teacher, batch_of(data))


def test_softmax_of_the_logits_is_the_rule_exactly():
    labels = [2, 0, IGNORE, 4]
    teacher = VirtualTeacher(0.9, num_classes=5)
    said = teacher.ask(Batch(torch.zeros(4, 3), torch.tensor(labels))).logits
    expected = [
        [1 / 5 if y == IGNORE else 0.9 if k == y else 0.1 / 4 for k in range(5)] for y in labels
    ]
    assert torch.allclose(said.double().softmax(1), torch.tensor(expected, dtype=torch.float64))
    assert said[0].tolist() == pytest.approx([math.log(p) for p in expected[0]], rel=1e-6)


def test_is_label_smoothing_of_the_other_convention():
    """alpha = eps (C - 1) / C makes the two conventions of smoothing the same loss."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 8, dtype=torch.float64), torch.randint(8, (6,))
    epsilon = 0.1
    teacher = VirtualTeacher(1 - epsilon * 7 / 8, num_classes=8)
    probs = teacher.ask(Batch(logits, labels)).logits.double().exp()
    loss = -(probs * logits.log_softmax(1)).sum(1).mean()
    expected = F.cross_entropy(logits, labels, label_smoothing=epsilon)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_without_targets_everything_is_uniform():
    said = VirtualTeacher(num_classes=4).ask(Batch(torch.zeros(3, 2))).logits
    assert torch.allclose(said.softmax(1), torch.full((3, 4), 0.25))


def test_rule_of_the_users_own_may_say_zero():
    def neighbours(labels, num_classes):
        table = torch.zeros(num_classes, num_classes)
        for k in range(num_classes):
            table[k, k], table[k, (k + 1) % num_classes] = 0.75, 0.25
        return table[labels]

    teacher = VirtualTeacher(rule=neighbours, num_classes=3)
    said = teacher.ask(Batch(torch.zeros(2, 1), torch.tensor([0, 2]))).logits
    assert torch.isfinite(said).all()
    assert torch.allclose(said.softmax(1), torch.tensor([[0.75, 0.25, 0], [0.25, 0, 0.75]]))
    assert "neighbours" in teacher.describe()
    assert teacher.fingerprint() != VirtualTeacher(num_classes=3).fingerprint()


def test_multilabel_has_one_probability_a_label():
    targets = torch.tensor([[1.0, 0.0, math.nan]]).repeat(40, 1)
    data = bundle_from((torch.randn(40, 2), targets.nan_to_num(0)), task="multilabel")
    teacher = VirtualTeacher(0.9)
    teacher.bind(data, CPU)
    said = teacher.ask(Batch(torch.zeros(1, 2), targets[:1])).logits
    assert said.sigmoid().tolist()[0] == pytest.approx([0.9, 0.1, 0.5])
    assert teacher.ask(Batch(torch.zeros(2, 2))).logits.tolist() == [[0.0] * 3] * 2


def test_refusals():
    inputs = torch.zeros(2, 3)
    for correct in (0, 1, 1.5, math.nan):
        with pytest.raises(TeacherError, match=r"correct: expected a number in \(0, 1\)"):
            VirtualTeacher(correct)
    with pytest.raises(TeacherError, match="bind it to data"):
        VirtualTeacher().ask(Batch(inputs))
    with pytest.raises(TeacherError, match="at least 2 classes"):
        VirtualTeacher(num_classes=1).ask(Batch(inputs))
    with pytest.raises(TeacherError, match=r"outside of 0\.\.3"):
        VirtualTeacher(num_classes=4).ask(Batch(inputs, torch.tensor([0, 4])))
    with pytest.raises(TeacherError, match="expected class indices"):
        VirtualTeacher(num_classes=4).ask(Batch(inputs, torch.rand(2, 4)))
    with pytest.raises(TeacherError, match="no distributions"):
        VirtualTeacher(rule=lambda y, c: torch.ones(len(y), c), num_classes=4).ask(
            Batch(inputs, torch.tensor([0, 1]))
        )
    with pytest.raises(TeacherError, match="has 4 classes, the data have 10"):
        VirtualTeacher(num_classes=4).bind(digits(), CPU)
    regression = bundle_from((torch.randn(40, 2), torch.randn(40, 1)), task="regression")
    with pytest.raises(TeacherError, match="regression"):
        VirtualTeacher().bind(regression, CPU)


def test_fingerprint_is_the_rule():
    assert (
        VirtualTeacher(0.9, num_classes=5).fingerprint()
        == VirtualTeacher(0.9, num_classes=5).fingerprint()
    )
    assert (
        len({VirtualTeacher(p, num_classes=c).fingerprint() for p in (0.9, 0.91) for c in (5, 6)})
        == 4
    )
