"""Codewords, guesses and sub-classes, against loops."""

import math

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


FEATURE, WORDS = draw(2, 3, 5), draw(4, 3, seed=1)


def distance(a: list[float], b: list[float]) -> float:
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.25, 7.0])
def test_codeword_probabilities_against_loops(temperature):
    found = lf.codeword_probabilities(FEATURE, WORDS, temperature=temperature)
    assert found.shape == (2, 4, 5)
    for sample in range(2):
        for place in range(5):
            at = FEATURE[sample, :, place].tolist()
            weights = [math.exp(-temperature * distance(at, word)) for word in WORDS.tolist()]
            expected = [weight / math.fsum(weights) for weight in weights]
            assert found[sample, :, place].tolist() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 5, dtype=torch.float64))


def test_positions_are_named_one_by_one():
    order = torch.tensor([3, 1, 0, 4, 2])
    found = lf.codeword_probabilities(FEATURE[..., order], WORDS)
    assert torch.equal(found, lf.codeword_probabilities(FEATURE, WORDS)[..., order])
    centres = draw(2, 3, 3, seed=4)
    labels = torch.tensor([1, 0])
    found = lf.nearest_subclass(FEATURE[..., order], centres, labels)
    assert torch.equal(found, lf.nearest_subclass(FEATURE, centres, labels)[..., order])


def test_assignment_kl_against_loops():
    scores, wanted = draw(2, 4, 5, seed=2), draw(2, 4, 5, seed=3).softmax(dim=1)
    wanted[0, :, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    rows = zip(scores.mT.reshape(-1, 4).tolist(), wanted.mT.reshape(-1, 4).tolist(), strict=True)
    values = []
    for said, probs in rows:
        log_sum = math.log(math.fsum(math.exp(s) for s in said))
        values += [
            math.fsum(
                p * (math.log(p) - s + log_sum) for s, p in zip(said, probs, strict=True) if p
            )
        ]
    value = lf.assignment_kl(scores, wanted)
    assert value.item() == pytest.approx(sum(values) / len(values), rel=1e-10)


def test_a_right_guess_costs_nothing():
    wanted = lf.codeword_probabilities(FEATURE, WORDS)
    scores = (wanted.log() + 3.0).requires_grad_()
    value = lf.assignment_kl(scores, wanted)
    (slope,) = torch.autograd.grad(value, scores)
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert slope.abs().max() < 1e-15
    assert lf.assignment_kl(scores[:0], wanted[:0]).item() == 0


def test_the_sub_class_is_searched_within_the_true_class():
    centres = draw(3, 4, 3, seed=5)
    labels = torch.tensor([2, 0])
    found = lf.nearest_subclass(FEATURE, centres, labels)
    for sample, label in enumerate(labels.tolist()):
        for place in range(5):
            at = FEATURE[sample, :, place].tolist()
            distances = [distance(at, centre) for centre in centres[label].tolist()]
            assert found[sample, place] == 4 * label + distances.index(min(distances))
    empty = centres.clone()
    empty[2, found[0, 0] % 4] = torch.inf
    other = lf.nearest_subclass(FEATURE, empty, labels)
    assert other[0, 0] != found[0, 0]
    assert other[0, 0] // 4 == 2


def test_subclass_decisions_against_loops(monkeypatch):
    rows, members = draw(40, 3, seed=6), torch.arange(40) % 5  # 5: nobody's
    members[members == 4] = 3
    means = [rows[members == m].mean(dim=0).tolist() if m < 4 else None for m in range(6)]
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for row, member in zip(rows.tolist(), members.tolist(), strict=True):
        far = [math.inf if mean is None else distance(row, mean) for mean in means]
        expected[member, far.index(min(far))] += 1
    expected[4, 4] = expected[5, 5] = 1
    expected /= expected.sum(dim=1, keepdim=True)
    assert torch.equal(lf.subclass_decisions(rows, members, 6), expected)
    monkeypatch.setattr("limbeck.functional.codebook.CHUNK", 7)
    assert torch.equal(lf.subclass_decisions(rows, members, 6), expected)


def test_sub_classes_far_apart_are_never_confused():
    centres = 100 * torch.eye(6, dtype=torch.float64)
    members = torch.arange(60) % 6
    rows = centres[members] + 0.1 * draw(60, 6, seed=7)
    assert torch.equal(lf.subclass_decisions(rows, members, 6), torch.eye(6).double())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="feature has 3 channels, codewords have 2"):
        lf.codeword_probabilities(FEATURE, WORDS[:, :2])
    with pytest.raises(ValueError, match="assignments: student has shape"):
        lf.assignment_kl(FEATURE, FEATURE[:, :2])
