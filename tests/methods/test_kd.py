"""KD against the equation in plain loops, and the limits of its card."""

import math

import pytest
import torch

from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.methods.kd import KD
from limbeck.taps.outputs import Outputs


def softened(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    parts = [math.exp((z - top) / temperature) for z in row]
    return [part / sum(parts) for part in parts]


def naive_kd(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softened(ours, temperature), softened(theirs, temperature)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    return 3 * torch.randn(6, 10, dtype=torch.float64), 3 * torch.randn(6, 10, dtype=torch.float64)


def losses(method: KD, student, teacher, task="classification"):
    said = [Outputs(student), Outputs(teacher)]
    return method.losses(*said, Batch(inputs=student), Context(task=task))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_value_is_the_equation(logits, temperature):
    value = losses(KD(temperature=temperature), *logits)["kd"]
    assert float(value) == pytest.approx(naive_kd(*logits, temperature), rel=1e-10)


def test_elementwise_is_smaller_by_the_number_of_classes(logits):
    whole = losses(KD(), *logits)["kd"]
    parts = losses(KD(reduction="elementwise"), *logits)["kd"]
    assert float(parts) == pytest.approx(float(whole) / 10, rel=1e-14)


def test_gradient_is_t_times_the_difference_of_probabilities(logits):
    student, teacher = logits
    student.requires_grad_()
    losses(KD(temperature=3.0), student, teacher)["kd"].backward()
    for row in range(6):
        q = softened(student[row].tolist(), 3.0)
        p = softened(teacher[row].tolist(), 3.0)
        expected = [3.0 * (b - a) / 6 for a, b in zip(p, q, strict=True)]
        assert student.grad[row].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_several_labels_are_one_coin_each(logits):
    student, teacher = logits
    total = 0.0
    for ours, theirs in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        (q, q0), (p, p0) = softened([ours, 0.0], 2.0), softened([theirs, 0.0], 2.0)
        total += p * math.log(p / q) + p0 * math.log(p0 / q0)
    value = losses(KD(temperature=2.0), student, teacher, "multilabel")["kd"]
    assert float(value) == pytest.approx(4 * total / 6, rel=1e-10)


def test_regression_is_the_squared_distance(logits):
    student, teacher = logits
    total = sum(
        (a - b) ** 2
        for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    )
    value = losses(KD(temperature=9.0), student, teacher, "regression")["kd"]
    assert float(value) == pytest.approx(total / 6, rel=1e-12)


def test_defaults_are_those_of_the_reference_codebases():
    method = KD()
    assert (method.temperature, method.weight, method.card.task_weight) == (4.0, 0.9, 0.1)


def test_call_in_a_loop_of_ones_own_weighs_the_term(logits):
    student, teacher = logits
    terms = KD(weight=0.3)(student, teacher)
    expected = 0.3 * float(losses(KD(), student, teacher)["kd"])
    assert {k: float(v) for k, v in terms.items()} == {"kd": pytest.approx(expected, rel=1e-14)}


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0.0), ("reduction", "mean"), ("weight", -1.0)]
)
def test_values_without_a_meaning_are_refused(key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected .*{value}"):
        KD(**{key: value})
