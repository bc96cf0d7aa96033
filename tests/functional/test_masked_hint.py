"""The hint loss over tokens: padding changes nothing, texts count alike."""

import pytest
import torch

from limbeck.functional import hint

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


def features():
    generator = torch.Generator().manual_seed(1)
    shape = (3, 4, 5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def by_hand(student, teacher, normaliser):
    texts = []
    for row in range(3):
        gaps = [
            (float(student[row, token, k]) - float(teacher[row, token, k])) ** 2
            for token in range(4)
            for k in range(5)
            if MASK[row, token]
        ]
        texts.append(sum(gaps) / len(gaps) if normaliser == "elementwise" else sum(gaps) / 2)
    return sum(texts) / len(texts)


@pytest.mark.parametrize("normaliser", ["elementwise", "half_sum"])
def test_by_hand(normaliser):
    student, teacher = features()
    found = hint(student, teacher, normaliser=normaliser, mask=MASK)
    assert float(found) == pytest.approx(by_hand(student, teacher, normaliser), rel=1e-12)


@pytest.mark.parametrize("normaliser", ["elementwise", "half_sum"])
def test_a_full_mask_is_no_mask(normaliser):
    student, teacher = features()
    full = hint(student, teacher, normaliser=normaliser, mask=torch.ones(3, 4, dtype=torch.bool))
    torch.testing.assert_close(full, hint(student, teacher, normaliser=normaliser))


def test_padding_changes_nothing_and_learns_nothing():
    student, teacher = features()
    expected = hint(student, teacher, mask=MASK)
    student[~MASK], teacher[~MASK] = float("nan"), float("inf")
    student.requires_grad_()
    found = hint(student, teacher, mask=MASK)
    assert torch.equal(found, expected)
    found.backward()
    assert (student.grad[~MASK] == 0).all()
    assert torch.isfinite(student.grad).all()
    assert (student.grad[MASK] != 0).all()
    longer = [torch.nn.functional.pad(one.detach(), (0, 0, 0, 3)) for one in (student, teacher)]
    torch.testing.assert_close(hint(*longer, mask=torch.nn.functional.pad(MASK, (0, 3))), expected)


def test_two_halves_average_to_the_whole():
    student, teacher = features()
    both = torch.cat([student, student.flip(0)]), torch.cat([teacher, teacher.flip(0)])
    masks = torch.cat([MASK, MASK.flip(0)])
    whole = hint(*both, mask=masks)
    halves = [hint(both[0][p], both[1][p], mask=masks[p]) for p in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close((2 * halves[0] + 4 * halves[1]) / 6, whole)


def test_vectors_a_position_and_empty_texts():
    student, teacher = (one[:, :, 0] for one in features())
    found = hint(student, teacher, mask=MASK)
    rows = ((student - teacher) ** 2 * MASK).sum(1) / MASK.sum(1)
    torch.testing.assert_close(found, rows.mean())
    assert hint(student, teacher, mask=torch.zeros_like(MASK)) == 0
    assert hint(student[:0], teacher[:0], mask=MASK[:0]) == 0


def test_a_mask_of_another_shape():
    student, teacher = features()
    with pytest.raises(ValueError, match=r"mask has shape \(3, 3\); expected \(3, 4\)"):
        hint(student, teacher, mask=MASK[:, :3])
