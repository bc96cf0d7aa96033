"""CRD's equation by loops; the bank's scores and its update."""

import math

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_nce(positive, negatives, z, num_data, counted, eps) -> float:
    total = []
    rows = zip(positive.tolist(), negatives.tolist(), counted.tolist(), strict=True)
    for own, others, flags in rows:
        others = [score for score, flag in zip(others, flags, strict=True) if flag]
        noise = len(others) / num_data
        found = math.exp(own) / z
        total.append(math.log(found / (found + noise + eps)))
        total += [math.log(noise / (math.exp(score) / z + noise + eps)) for score in others]
    return -math.fsum(total) / len(positive)


@pytest.mark.parametrize("z", [1.0, 5e3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_against_loops(z, masked):
    positive, negatives = 3 * draw(4), 3 * draw(4, 6, seed=1)
    counted = draw(4, 6, seed=2) > -0.3 if masked else torch.ones(4, 6, dtype=torch.bool)
    value = lf.crd_nce(
        positive,
        negatives,
        log_normaliser=math.log(z),
        num_data=50,
        counted=counted if masked else None,
        eps=1e-3,
    )
    assert float(value) == pytest.approx(
        naive_nce(positive, negatives, z, 50, counted, 1e-3), rel=1e-10
    )


def test_the_gradient_is_the_numerical_one():
    positive, negatives = draw(3).requires_grad_(), draw(3, 4, seed=1).requires_grad_()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return lf.crd_nce(a, b, log_normaliser=0.7, num_data=9)

    assert torch.autograd.gradcheck(loss, (positive, negatives))


def test_scores_beyond_what_exponentials_hold_are_exact():
    positive, negatives = torch.tensor([2e3, -2e3]), torch.tensor([[-2e3, 2e3], [1e3, -5e3]])
    narrow = lf.crd_nce(positive, negatives, log_normaliser=0.0, num_data=10)
    wide = lf.crd_nce(positive.double(), negatives.double(), log_normaliser=0.0, num_data=10)
    assert float(narrow) == pytest.approx(float(wide), rel=1e-6)
    # -log P₀/(P₀ + c) and -log n/(P + c) of scores far from everything are the scores themselves
    level, noise = math.log(0.2 + 1e-7), math.log(0.2)
    expected = (2e3 - noise) + (level - noise) + (2e3 + level) + (1e3 - noise) + (level - noise)
    assert float(wide) == pytest.approx(expected / 2, rel=1e-12)


def test_a_sample_without_negatives_is_only_to_be_found():
    positive = torch.zeros(2, dtype=torch.float64).requires_grad_()
    none = torch.zeros(2, 3, dtype=torch.bool)
    value = lf.crd_nce(positive, draw(2, 3), log_normaliser=0.0, num_data=5, counted=none, eps=1e-3)
    assert float(value.detach()) == pytest.approx(math.log(1 + 1e-3), rel=1e-10)
    (slope,) = torch.autograd.grad(value, positive)
    assert torch.isfinite(slope).all()


def test_an_empty_batch_costs_nothing():
    positive = torch.zeros(0, requires_grad=True)
    assert lf.crd_nce(positive, torch.zeros(0, 3), log_normaliser=0.0, num_data=5) == 0


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(ValueError, match="expected the same samples"):
        lf.crd_nce(draw(2), draw(3, 4), log_normaliser=0.0, num_data=5)
    with pytest.raises(ValueError, match="num_data is 0"):
        lf.crd_nce(draw(2), draw(2, 4), log_normaliser=0.0, num_data=0)


@pytest.mark.parametrize("data", [7, 60])  # all products at once, and the chosen rows alone
def test_bank_scores_either_way(data):
    bank, rows = draw(data, 3), torch.tensor([[0, 5, 5, 2], [6, 1, 0, 3]])
    embedding = draw(2, 3, seed=1).requires_grad_()
    scores = lf.bank_scores(embedding, bank, rows)
    by_hand = torch.stack(
        [torch.stack([embedding[b] @ bank[row] for row in rows[b]]) for b in range(2)]
    )
    torch.testing.assert_close(scores, by_hand)
    expected = torch.autograd.grad(by_hand.square().sum(), embedding)[0]
    value = scores.square().sum()
    bank.zero_()  # the bank moves on before the backward pass
    torch.testing.assert_close(torch.autograd.grad(value, embedding)[0], expected)


def test_the_bank_moves_towards_the_embeddings_and_stays_of_length_one():
    bank, fresh = unit(draw(6, 3)), unit(draw(3, 3, seed=1))
    before = bank.clone()
    lf.bank_update(bank, torch.tensor([4, 0, 4]), fresh, momentum=0.5)
    for row, new in ((0, fresh[1]), (4, fresh[2])):  # of the two for row 4, the last
        mean = 0.5 * before[row] + 0.5 * new
        torch.testing.assert_close(bank[row], mean / mean.norm())
    untouched = [1, 2, 3, 5]
    assert torch.equal(bank[untouched], before[untouched])


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
