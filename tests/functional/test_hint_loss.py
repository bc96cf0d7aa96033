"""FitNet's hint in both normalisers."""

import pytest
import torch

from limbeck.functional import hint


def test_both_normalisers_against_loops():
    student = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    teacher = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    squares = [
        sum((a - b) ** 2 for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True))
        for s, t in zip(student, teacher, strict=True)
    ]
    mean = sum(squares) / (3 * 2 * 4 * 5)
    assert hint(student, teacher).item() == pytest.approx(mean, rel=1e-12)
    half = sum(square / 2 for square in squares) / 3
    assert hint(student, teacher, normaliser="half_sum").item() == pytest.approx(half, rel=1e-12)


def test_half_precision_does_not_overflow():
    student = torch.full((2, 600), 300.0, dtype=torch.float16, requires_grad=True)
    loss = hint(student, torch.zeros(2, 600, dtype=torch.float16), normaliser="half_sum")
    assert loss.item() == 300.0**2 * 600 / 2
    loss.backward()
    assert student.grad.dtype == torch.float16


def test_a_regressor_that_is_missing_is_seen():
    with pytest.raises(ValueError, match=r"features: student has shape \(2, 3\), teacher has"):
        hint(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="normaliser is 'mean'; expected one of elementwise, half"):
        hint(torch.zeros(2, 3), torch.zeros(2, 3), normaliser="mean")
