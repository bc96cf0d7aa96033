"""SP: its published defaults, and what it does not see."""

import torch

from limbeck.methods.sp import SP


def test_defaults():
    assert (SP().weight, SP.card.task_weight, SP().pairs) == (3000.0, 1.0, "auto")


def test_a_teacher_that_is_a_scaled_and_rotated_student_teaches_nothing():
    student = torch.randn(8, 6, dtype=torch.float64, requires_grad=True)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    value = SP().relate(student, 5 * student.detach() @ turn)["sp"]
    value.backward()
    assert value.abs() <= 1e-25
    assert student.grad.abs().max() <= 1e-14
