"""Several teachers at once against plain loops."""

import math

import pytest
import torch

from limbeck import functional as lf


def voices(count=3, batch=5, classes=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    said = torch.randn(count, batch, classes, generator=rng, dtype=torch.float64) * 2
    student = torch.randn(batch, classes, generator=rng, dtype=torch.float64)
    return student, said, torch.tensor([0, 3, -100, 1, 2][:batch])


def softmax(values):
    top = max(values)
    total = sum(math.exp(v - top) for v in values)
    return [math.exp(v - top) / total for v in values]


def test_confidence():
    _, said, labels = voices()
    found = lf.teacher_confidence(said, labels)
    for i, label in enumerate(labels.tolist()):
        if label == -100:
            assert found[:, i].tolist() == pytest.approx([1 / 3] * 3)
            continue
        errors = [-math.log(softmax(one[i].tolist())[label]) for one in said]
        expected = [(1 - share) / 2 for share in softmax(errors)]
        assert found[:, i].tolist() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(found.sum(0), torch.ones(5, dtype=torch.float64))


def test_confidence_at_its_limits():
    _, said, labels = voices()
    assert lf.teacher_confidence(said[:1], labels).tolist() == [[1.0] * 5]
    same = lf.teacher_confidence(said[:1].expand(4, -1, -1), labels)
    torch.testing.assert_close(same, torch.full((4, 5), 0.25, dtype=torch.float64))
    right = torch.tensor([[[9e3, 0.0]], [[-9e3, 0.0]]])  # one knows, one is sure of the other
    assert lf.teacher_confidence(right, torch.tensor([0])).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_weighted_divergences(temperature):
    student, said, _ = voices()
    weights = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total = 0.0
    for k in range(3):
        for i in range(5):
            p = softmax((said[k, i] / temperature).tolist())
            q = softmax((student[i] / temperature).tolist())
            kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            total += float(weights[k, i]) * temperature**2 * kl
    value = lf.multi_teacher_kd(student, said, weights, temperature=temperature)
    assert float(value) == pytest.approx(total / 5, rel=1e-12)


def test_one_teacher_is_kd_and_the_gradient_is_that_of_the_mean_of_probabilities(monkeypatch):
    student, said, _ = voices()
    ones = torch.ones(1, 5, dtype=torch.float64)
    ours = lf.multi_teacher_kd(student, said[:1], ones)
    # KD of small logits has its gradient written down, and rounds elsewhere.
    torch.testing.assert_close(ours, lf.kd(student, said[0], temperature=4.0), rtol=1e-14, atol=0)
    monkeypatch.setenv("LIMBECK_KERNELS", "plain")
    assert torch.equal(ours, lf.kd(student, said[0], temperature=4.0))
    leaf = student.clone().requires_grad_()
    lf.multi_teacher_kd(leaf, said, torch.full((3, 5), 1 / 3), temperature=2.0).backward()
    mean = (said / 2).softmax(-1).mean(0)
    expected = 2 * ((student / 2).softmax(-1) - mean) / 5
    torch.testing.assert_close(leaf.grad, expected)


def test_errors():
    student, said, _ = voices()
    with pytest.raises(ValueError, match=r"weights have shape \(2, 5\); expected \(3, 5\)"):
        lf.multi_teacher_kd(student, said, torch.ones(2, 5))
    with pytest.raises(ValueError, match="expected the same shape"):
        lf.multi_teacher_kd(student[:, :2], said, torch.ones(3, 5))
    with pytest.raises(ValueError, match="temperature"):
        lf.multi_teacher_kd(student, said, torch.ones(3, 5), temperature=0.0)
