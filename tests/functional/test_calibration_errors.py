"""Calibration errors against loops, another library where its conventions agree, and limits."""

import math

import pytest
import torch
from functional_references import naive_cross_entropy, naive_ece, naive_equal_mass_gaps
from torchmetrics.functional.classification import multiclass_calibration_error

from limbeck import functional as lf

TOP_LABEL = [
    lf.expected_calibration_error,
    lf.overconfidence_error,
    lf.underconfidence_error,
    lf.adaptive_expected_calibration_error,
]
PER_CLASS = [lf.classwise_calibration_error, lf.adaptive_calibration_error]
BINNED = TOP_LABEL + PER_CLASS


def predictions(number: int = 200, classes: int = 5, sharpness: float = 2.0):
    probs = (torch.randn(number, classes, dtype=torch.float64) * sharpness).softmax(1)
    return probs, torch.randint(classes, (number,))


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_ece_and_its_parts_against_loops(num_bins):
    probs, targets = predictions()
    over, under = naive_ece(probs, targets, num_bins)
    options = {"num_bins": num_bins}
    assert lf.overconfidence_error(probs, targets, **options).item() == pytest.approx(over)
    assert lf.underconfidence_error(probs, targets, **options).item() == pytest.approx(under)
    ece = lf.expected_calibration_error(probs, targets, **options)
    assert ece.item() == pytest.approx(over + under, rel=1e-12)


@pytest.mark.parametrize("num_bins", [5, 15, 40])
def test_ece_is_that_of_torchmetrics_away_from_bin_edges(num_bins):
    probs, targets = predictions(500, 10)
    theirs = multiclass_calibration_error(
        probs.float(), targets, num_classes=10, n_bins=num_bins, norm="l1"
    )
    ours = lf.expected_calibration_error(probs.float(), targets, num_bins=num_bins)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-7)


def test_bins_are_open_below_and_closed_above():
    confidence = torch.tensor([0.5, 0.50001, 0.75, 1.0], dtype=torch.float64)
    probs = torch.stack((confidence, 1 - confidence), 1)
    bins = lf.reliability_bins(probs, torch.zeros(4, dtype=torch.long), num_bins=4)
    assert bins.count.tolist() == [0, 1, 2, 1]
    assert math.isnan(bins.confidence[0])
    assert math.isnan(bins.accuracy[0])
    assert bins.confidence[2].item() == pytest.approx((0.50001 + 0.75) / 2)
    assert bins.accuracy.tolist()[1:] == [1, 1, 1]


def test_reliability_bins_hold_every_sample_once():
    probs, targets = predictions(333)
    probs[:5] = torch.tensor([1.0, 0, 0, 0, 0]).double()
    bins = lf.reliability_bins(probs, targets, num_bins=10)
    assert bins.count.sum() == 333
    confidence, predicted = probs.max(1)
    filled = bins.count > 0
    torch.testing.assert_close((bins.count * bins.confidence)[filled].sum(), confidence.sum())
    hits = (bins.count * bins.accuracy)[filled].sum()
    assert hits.item() == pytest.approx((predicted == targets).sum().item())


def test_always_nearly_sure_and_half_right():
    probs = torch.tensor([[0.99, 0.01]], dtype=torch.float64).repeat(100, 1)
    targets = torch.arange(100) % 2
    for error in (lf.expected_calibration_error, lf.overconfidence_error):
        assert error(probs, targets).item() == pytest.approx(0.49)
    assert lf.underconfidence_error(probs, targets) == 0
    for error in [*PER_CLASS, lf.adaptive_expected_calibration_error]:  # ties share their accuracy
        assert error(probs, targets).item() == pytest.approx(0.49)


@pytest.mark.parametrize("error", BINNED)
def test_a_calibrated_sampler_has_next_to_no_error(error):
    sizes = (300, 30_000)
    errors = []
    for size in sizes:
        probs = (torch.randn(size, 3, dtype=torch.float64)).softmax(1)
        targets = torch.multinomial(probs, 1).squeeze(1)
        errors.append(error(probs, targets).item())
    assert errors[1] < 0.012
    assert errors[1] < errors[0]


@pytest.mark.parametrize("num_bins", [1, 4, 15, 500])
def test_equal_mass_errors_against_loops(num_bins):
    probs, targets = predictions(101, 4)
    confidence, predicted = probs.max(1)
    gaps = naive_equal_mass_gaps(confidence.tolist(), (predicted == targets).tolist(), num_bins)
    assert sum(size for size, _ in gaps) == 101
    expected = sum(size * gap for size, gap in gaps) / 101
    adaptive = lf.adaptive_expected_calibration_error(probs, targets, num_bins=num_bins)
    assert adaptive.item() == pytest.approx(expected, rel=1e-10)
    per_class = []
    for k in range(4):
        gaps = naive_equal_mass_gaps(probs[:, k].tolist(), (targets == k).tolist(), num_bins)
        per_class.append(sum(gap for _, gap in gaps) / len(gaps))
    ace = lf.adaptive_calibration_error(probs, targets, num_bins=num_bins)
    assert ace.item() == pytest.approx(sum(per_class) / 4, rel=1e-10)


def test_one_sample_is_in_a_bin():
    """An implementation that leaves out the lowest confidence reports 0 here."""
    probs, targets = torch.tensor([[0.22, 0.78]]), torch.tensor([0])
    error = lf.adaptive_expected_calibration_error(probs, targets)
    assert error.item() == pytest.approx(0.78)


def test_classwise_error_counts_every_class_even_one_that_never_occurs():
    probs, targets = predictions(100, 4)
    targets = targets % 3  # class 3 has no sample
    total = 0.0
    for k in range(4):
        binary = torch.stack((probs[:, k], 1 - probs[:, k]), 1)
        for m in range(10):
            inside = (probs[:, k] > m / 10) & (probs[:, k] <= (m + 1) / 10)
            if inside.any():
                hit = (targets[inside] == k).double().mean()
                total += (hit - binary[inside, 0].mean()).abs().item() * inside.sum().item() / 100
    error = lf.classwise_calibration_error(probs, targets, num_bins=10)
    assert error.item() == pytest.approx(total / 4, rel=1e-10)


@pytest.mark.parametrize("error", [*BINNED, lf.brier_score])
def test_the_order_of_samples_does_not_matter_even_with_ties(error):
    probs, targets = predictions(60)
    probs = (probs * 4).round()
    probs = torch.where(probs.sum(1, keepdim=True) > 0, probs, 1.0)
    probs = probs / probs.sum(1, keepdim=True)
    order = torch.randperm(60)
    shuffled = error(probs[order], targets[order])
    torch.testing.assert_close(shuffled, error(probs, targets), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("error", [*BINNED, lf.brier_score, lf.negative_log_likelihood])
def test_unlabelled_samples_are_left_out_and_nothing_is_nan(error):
    probs, targets = predictions(50)
    before = probs.clone()
    more = torch.cat((probs, torch.full((3, 5), 0.2).double()))
    padded = torch.cat((targets, torch.full((3,), -100)))
    torch.testing.assert_close(error(more, padded), error(probs, targets))
    assert torch.equal(probs, before)
    assert error(probs, targets).dtype == torch.float64
    assert math.isnan(error(probs, torch.full((50,), -100)))
    assert math.isnan(error(probs[:0], targets[:0]))
    with pytest.raises(ValueError, match=r"predictions have shape \(50, 5\), targets have shape"):
        error(probs, targets[:1])


@pytest.mark.parametrize("error", BINNED)
def test_bins_must_be_positive(error):
    with pytest.raises(ValueError, match="num_bins is 0; expected at least 1"):
        error(*predictions(3), num_bins=0)


@pytest.mark.parametrize("error", BINNED)
def test_a_perfect_and_sure_prediction_has_no_error(error):
    targets = torch.arange(40) % 4
    probs = torch.nn.functional.one_hot(targets, 4).float()
    assert error(probs, targets) == 0


def test_likelihood_and_brier_score_against_loops():
    logits, targets = torch.randn(30, 4, dtype=torch.float64) * 3, torch.randint(4, (30,))
    nll = lf.negative_log_likelihood(logits, targets)
    assert nll.item() == pytest.approx(naive_cross_entropy(logits, targets), rel=1e-12)
    probs = logits.softmax(1)
    squares = [
        sum((p - (k == y)) ** 2 for k, p in enumerate(row))
        for row, y in zip(probs.tolist(), targets.tolist(), strict=True)
    ]
    assert lf.brier_score(probs, targets).item() == pytest.approx(sum(squares) / 30, rel=1e-12)
    wrong = torch.tensor([[1.0, 0.0]])
    assert lf.brier_score(wrong, torch.tensor([1])) == 2


def test_likelihood_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4]])
    assert lf.negative_log_likelihood(logits, torch.tensor([1])).item() == 2e4
