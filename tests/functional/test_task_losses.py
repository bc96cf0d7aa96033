"""Losses on labels: values, missing labels, smoothing."""

import math

import pytest
import torch
from functional_references import naive_cross_entropy

from limbeck.functional import (
    binary_cross_entropy,
    cross_entropy,
    label_smoothing_targets,
    soft_cross_entropy,
    squared_error,
)

NAN = math.nan


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_the_naive_one_over_labelled_samples(smoothing):
    logits = torch.randn(5, 4, dtype=torch.float64) * 3
    targets = torch.tensor([0, 3, -100, 1, -100])
    loss = cross_entropy(logits, targets, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(naive_cross_entropy(logits, targets, smoothing), rel=1e-12)
    rows = cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    assert rows[2] == rows[4] == 0
    torch.testing.assert_close(rows.sum() / 3, loss)
    total = cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(total, rows.sum())


def test_cross_entropy_without_any_label_is_zero_with_a_graph():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), -100))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(3, 4))
    empty = torch.zeros(0, 4, requires_grad=True)
    cross_entropy(empty, torch.zeros(0, dtype=torch.long)).backward()
    assert empty.grad.shape == (0, 4)


def test_unlabelled_samples_change_nothing():
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    more = torch.cat((logits, torch.full((2, 3), 1e4)))
    padded = torch.cat((targets, torch.tensor([-1, -1])))
    with_them = cross_entropy(more, padded, ignore_index=-1)
    torch.testing.assert_close(with_them, cross_entropy(logits, targets))


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_cross_entropy_precision(scale, dtype, rtol):
    logits = (torch.randn(20, 6) * scale).clamp(-1e4, 1e4).to(dtype)
    targets = logits.argmax(1)  # confident and right: the loss is tiny, and must not be lost
    for labels in (targets, torch.arange(20) % 6):
        loss = cross_entropy(logits, labels)
        assert loss.dtype == torch.float32
        wide = cross_entropy(logits.double(), labels)
        torch.testing.assert_close(loss.double(), wide, rtol=rtol, atol=1e-12)


def test_a_confident_right_answer_keeps_its_digits():
    logits = torch.tensor([[25.0, 0.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-25)), rel=1e-4, abs=0)
    loss.backward()
    assert logits.grad[0, 1].item() == pytest.approx(math.exp(-25), rel=1e-5, abs=0)


def test_cross_entropy_over_several_dimensions():
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    flat = cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(cross_entropy(logits, targets), flat)
    assert cross_entropy(logits, targets, reduction="none").shape == (2, 3)


def test_cross_entropy_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"targets have shape \(3,\); expected \(2,\)"):
        cross_entropy(torch.zeros(2, 4), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="reduction is 'elementwise'; expected one of batchmean"):
        cross_entropy(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long), reduction="elementwise")
    with pytest.raises(IndexError):
        cross_entropy(torch.zeros(2, 4), torch.tensor([0, 4]))


def naive_bce(logit: float, target: float) -> float:
    return -target * math.log(1 / (1 + math.exp(-logit))) - (1 - target) * math.log(
        1 - 1 / (1 + math.exp(-logit))
    )


def test_binary_cross_entropy_is_the_naive_one():
    logits = torch.randn(4, 3, dtype=torch.float64) * 2
    targets = torch.tensor([[1, 0, 1], [0, NAN, 0.3], [NAN, NAN, NAN], [1, 1, NAN]]).double()
    entries = [
        [naive_bce(z, y) if not math.isnan(y) else 0.0 for z, y in zip(row, ys, strict=True)]
        for row, ys in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    sums = [sum(row) for row in entries]
    close = {"rel": 1e-10}
    assert binary_cross_entropy(logits, targets).item() == pytest.approx(sum(sums) / 3, **close)
    mean = binary_cross_entropy(logits, targets, reduction="elementwise").item()
    assert mean == pytest.approx(sum(sums) / 7, **close)
    total = binary_cross_entropy(logits, targets, reduction="sum").item()
    assert total == pytest.approx(sum(sums), **close)
    rows = binary_cross_entropy(logits, targets, reduction="none")
    assert rows.tolist() == pytest.approx(sums, **close)


def test_squared_error_is_the_naive_one():
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    targets = torch.tensor([[0.0, 4.0], [NAN, 1.0], [NAN, NAN]])
    assert squared_error(outputs, targets).item() == (1 + 4 + 9) / 2
    assert squared_error(outputs, targets, reduction="elementwise").item() == pytest.approx(14 / 3)
    assert squared_error(outputs, targets, reduction="sum").item() == 14
    assert squared_error(outputs, targets, reduction="none").tolist() == [5, 9, 0]


@pytest.mark.parametrize("loss", [binary_cross_entropy, squared_error])
def test_missing_labels_cost_nothing_and_give_no_gradient(loss):
    outputs = torch.randn(3, 2, requires_grad=True)
    value = loss(outputs, torch.full((3, 2), NAN))
    value.backward()
    assert value == 0
    assert torch.equal(outputs.grad, torch.zeros(3, 2))
    partly = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0]])
    infinite = torch.tensor([[0.3, math.inf], [NAN, 1.0], [1.0, -1.0]], requires_grad=True)
    loss(infinite, partly).backward()
    assert torch.isfinite(infinite.grad).all()
    assert not infinite.grad[torch.isnan(partly)].any()


@pytest.mark.parametrize("loss", [binary_cross_entropy, squared_error])
def test_gradients_precision_and_purity(loss):
    outputs = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1.0, NAN], [0.0, 1.0], [0.5, 0.0]], dtype=torch.float64)
    before = targets.clone()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), outputs)
    assert torch.equal(targets.nan_to_num(7), before.nan_to_num(7))
    large = (torch.randn(9, 4) * 1e4).clamp(-1e4, 1e4)
    wide = loss(large.double(), torch.ones(9, 4).double())
    torch.testing.assert_close(loss(large, torch.ones(9, 4)).double(), wide, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="expected the same shape"):
        loss(torch.zeros(3, 2), torch.zeros(3, 1))


def test_binary_cross_entropy_keeps_small_losses():
    logits = torch.tensor([[40.0, -40.0]])
    loss = binary_cross_entropy(logits, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(2 * math.exp(-40), rel=1e-6, abs=0)


def test_label_smoothing_conventions():
    targets = torch.tensor([1, -100, 0])
    uniform = label_smoothing_targets(targets, 4, 0.2)
    torch.testing.assert_close(uniform[0], torch.tensor([0.05, 0.85, 0.05, 0.05]))
    off = label_smoothing_targets(targets, 4, 0.3, convention="off_label")
    torch.testing.assert_close(off[2], torch.tensor([0.7, 0.1, 0.1, 0.1]))
    for rows in (uniform, off):
        assert not rows[1].any()
        torch.testing.assert_close(rows.sum(1), torch.tensor([1.0, 0.0, 1.0]))


def test_the_two_conventions_agree_at_the_matching_strength():
    targets, eps, classes = torch.arange(10), 0.1, 10
    off = label_smoothing_targets(
        targets, classes, eps * (classes - 1) / classes, convention="off_label"
    )
    torch.testing.assert_close(off, label_smoothing_targets(targets, classes, eps))


def test_smoothed_targets_give_the_smoothed_cross_entropy():
    logits, targets = torch.randn(6, 5), torch.randint(5, (6,))
    soft = soft_cross_entropy(logits, label_smoothing_targets(targets, 5, 0.1))
    torch.testing.assert_close(soft, cross_entropy(logits, targets, label_smoothing=0.1))


def test_label_smoothing_of_few_classes_and_bad_arguments():
    one = torch.tensor([0])
    assert label_smoothing_targets(one, 1, 0.5).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="num_classes is 1; off_label smoothing needs 2"):
        label_smoothing_targets(one, 1, 0.5, convention="off_label")
    with pytest.raises(ValueError, match=r"eps is 1.5; expected a number in \[0, 1\]"):
        label_smoothing_targets(one, 3, 1.5)
    with pytest.raises(ValueError, match="convention is 'paper'; expected one of uniform"):
        label_smoothing_targets(one, 3, 0.1, convention="paper")
