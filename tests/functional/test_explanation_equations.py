"""GradCAM, the similarity of maps and the loss made of it."""

import pytest
import torch
from functional_references import naive_cosine
from torch.nn import functional as F

from limbeck.functional import (
    energy_pointing_game,
    explanation_loss,
    explanation_similarity,
    gradcam,
)


def test_gradcam_of_maps_against_loops():
    features, gradients = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 4, 5).double()
    result = gradcam(features, gradients)
    assert result.shape == (2, 4, 5)
    for b in range(2):
        weights = [gradients[b, k].sum().item() / 20 for k in range(3)]
        for i in range(4):
            for j in range(5):
                value = sum(weights[k] * features[b, k, i, j].item() for k in range(3))
                assert result[b, i, j].item() == pytest.approx(max(value, 0.0), abs=1e-12)


def test_gradcam_of_tokens_is_that_of_a_map_one_high():
    features, gradients = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    as_map = gradcam(features.mT.unsqueeze(2), gradients.mT.unsqueeze(2)).squeeze(1)
    torch.testing.assert_close(gradcam(features, gradients), as_map)


def test_gradcam_follows_a_flip_and_can_be_trained_through():
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    gradients = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    flipped = gradcam(features.flip(-1), gradients.flip(-1))
    torch.testing.assert_close(flipped, gradcam(features, gradients).flip(-1))
    assert torch.autograd.gradcheck(gradcam, (features, gradients))


def test_gradcam_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="expected the same shape"):
        gradcam(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"features have shape \(2, 3\); expected \[batch, chann"):
        gradcam(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 6, 4, 4), (3, 9)])
def test_similarity_is_the_cosine(shape):
    student, teacher = torch.randn(shape).double(), torch.randn(shape).double()
    expected = [naive_cosine(s, t) for s, t in zip(student, teacher, strict=True)]
    similarity = explanation_similarity(student, teacher)
    assert similarity.tolist() == pytest.approx(expected, rel=1e-10)
    assert explanation_loss(student, teacher).item() == pytest.approx(
        1 - sum(expected) / 3, rel=1e-10
    )


def test_range_and_scale_invariance():
    student, teacher = torch.randn(50, 4, 4).double(), torch.randn(50, 4, 4).double()
    similarity = explanation_similarity(student, teacher)
    assert (similarity.abs() <= 1).all()
    torch.testing.assert_close(explanation_similarity(student * 1e4, teacher / 1e4), similarity)
    torch.testing.assert_close(explanation_similarity(student, -student), -torch.ones(50).double())
    positive = explanation_similarity(student.relu(), teacher.relu())
    assert ((positive >= 0) & (positive <= 1)).all()


def test_maps_without_direction_cost_one_and_give_no_gradient():
    zero = torch.zeros(2, 3, 3)
    for student, teacher in (
        (torch.rand(2, 3, 3), zero),
        (zero, torch.rand(2, 3, 3)),
        (zero, zero),
    ):
        student = student.clone().requires_grad_()
        loss = explanation_loss(student, teacher)
        loss.backward()
        assert loss == 1
        assert torch.equal(student.grad, zero)
        assert not explanation_similarity(student, teacher).any()


def test_a_zero_map_does_not_touch_the_other_samples():
    student = torch.rand(2, 3, 3, requires_grad=True)
    teacher = torch.rand(2, 3, 3)
    teacher[0] = 0
    explanation_loss(student, teacher).backward()
    assert not student.grad[0].any()
    assert student.grad[1].any()


def test_precise_for_maps_that_are_nearly_alike():
    """1 - cosine computed as such is all rounding here."""
    teacher = torch.rand(4, 8, 8)
    student = teacher * (1 + 1e-3 * torch.randn(4, 8, 8))
    wide = explanation_loss(student.double(), teacher.double())
    exact = 1 - sum(naive_cosine(s, t) for s, t in zip(student, teacher, strict=True)) / 4
    assert wide.item() == pytest.approx(exact, rel=1e-6)
    torch.testing.assert_close(explanation_loss(student, teacher).double(), wide, rtol=1e-3, atol=0)


def test_maps_are_resized_to_a_common_size():
    student, teacher = torch.rand(2, 3, 5), torch.rand(2, 7, 7)
    with pytest.raises(ValueError, match=r"student has shape \(2, 3, 5\).*give size=\(height"):
        explanation_similarity(student, teacher)
    for size in ((14, 14), (2, 2), (4, 9)):
        resized = [
            F.interpolate(
                m.unsqueeze(1),
                size=size,
                mode="bilinear",
                antialias=size[0] < m.shape[1] or size[1] < m.shape[2],
            )
            for m in (student, teacher)
        ]
        expected = [naive_cosine(s, t) for s, t in zip(*resized, strict=True)]
        similarity = explanation_similarity(student, teacher, size=size)
        assert similarity.tolist() == pytest.approx(expected, rel=1e-5)


def test_shrinking_averages_instead_of_skipping():
    """A checkerboard shrunk without antialiasing could come out as one colour or stripes."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    smooth = explanation_similarity(
        board.float().expand(1, 16, 16), torch.ones(1, 5, 5), size=(5, 5)
    )
    assert smooth.item() == pytest.approx(1, abs=1e-3)


def test_what_cannot_be_resized_is_refused():
    with pytest.raises(ValueError, match=r"a map of shape \(2, 9\) cannot be resized to \(3, 3\)"):
        explanation_similarity(torch.rand(2, 9), torch.rand(2, 9), size=(3, 3))


@pytest.mark.parametrize("size", [None, (6, 6), (2, 2)])
def test_gradient_is_the_numerical_one_and_the_teacher_gets_none(size):
    student = torch.rand(2, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.rand(2, 4, 4, dtype=torch.float64, requires_grad=True)
    fixed = teacher.detach()
    assert torch.autograd.gradcheck(lambda s: explanation_loss(s, fixed, size=size), student)
    assert torch.autograd.gradgradcheck(lambda s: explanation_loss(s, fixed, size=size), student)
    explanation_loss(student, teacher, size=size).backward()
    assert teacher.grad is None


def test_energy_pointing_game_counts_pixel_by_pixel():
    maps, masks = torch.randn(3, 4, 5), torch.rand(3, 4, 5) > 0.5
    found = energy_pointing_game(maps, masks)
    for row in range(3):
        inside = total = 0.0
        for value, there in zip(
            maps[row].flatten().tolist(), masks[row].flatten().tolist(), strict=True
        ):
            total += max(value, 0.0)
            inside += max(value, 0.0) if there else 0.0
        assert found[row].item() == pytest.approx(inside / total, rel=1e-6)
    whole = torch.ones_like(masks)
    torch.testing.assert_close(energy_pointing_game(maps, whole), torch.ones(3))
    assert not energy_pointing_game(maps, ~whole).any()
    channels = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(
        energy_pointing_game(channels, masks[:2]), energy_pointing_game(channels.sum(1), masks[:2])
    )


def test_a_map_that_points_nowhere_has_no_energy_and_shapes_must_fit():
    assert energy_pointing_game(-torch.rand(1, 2, 2), torch.ones(1, 2, 2)).isnan().all()
    with pytest.raises(
        ValueError, match=r"maps have shape \(1, 2, 2\), masks have shape \(1, 3, 3\)"
    ):
        energy_pointing_game(torch.rand(1, 2, 2), torch.ones(1, 3, 3))


def test_without_a_reduction_there_is_one_number_a_sample():
    student, teacher = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    rows = explanation_loss(student, teacher, reduction="none")
    torch.testing.assert_close(rows, 1 - explanation_similarity(student, teacher))
    torch.testing.assert_close(rows.mean(), explanation_loss(student, teacher))
