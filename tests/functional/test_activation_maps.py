"""Class activation maps and their distance, against loops."""

import math

import pytest
import torch
from torch import Tensor

from limbeck import functional as lf


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = draw(3, 5, 4, 4), draw(3, 5, 8, 8, seed=1)


def test_the_mean_of_a_map_is_the_logit_without_its_bias():
    feature, head = draw(2, 7, 3, 4), torch.nn.Linear(7, 5).double()
    maps = lf.class_activation_maps(feature, head.weight.detach())
    torch.testing.assert_close(maps.mean((2, 3)), (head(feature.mean((2, 3))) - head.bias).detach())
    b, k, y, x = 1, 4, 2, 3
    weight = head.weight.detach()
    value = sum(float(weight[k, c]) * float(feature[b, c, y, x]) for c in range(7))
    assert maps[b, k, y, x].item() == pytest.approx(value, rel=1e-12)


def pooled(maps: Tensor, b: int, k: int, size: int) -> list[float]:
    side = maps.shape[2] // size
    rows = maps[b, k].tolist()
    return [
        math.fsum(rows[y * side + i][x * side + j] for i in range(side) for j in range(side))
        / side**2
        for y in range(size)
        for x in range(size)
    ]


def naive(student: Tensor, teacher: Tensor, size: int, normalise: bool, binarise: bool) -> float:
    gaps = []
    for b in range(len(student)):
        for k in range(student.shape[1]):
            mine, other = pooled(student, b, k, size), teacher[b, k]
            if binarise:
                height = math.fsum(abs(v) for v in other.flatten().tolist()) / other.numel()
                marks = [[float(v > height) for v in row] for row in other.tolist()]
                other = torch.tensor(marks, dtype=torch.float64)
            theirs = pooled(other[None, None], 0, 0, size)
            if normalise:
                mine, theirs = (
                    [v / max(math.sqrt(math.fsum(w * w for w in row)), 1e-12) for v in row]
                    for row in (mine, theirs)
                )
            gaps += [(a - c) ** 2 for a, c in zip(mine, theirs, strict=True)]
    return math.fsum(gaps) / len(gaps)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("binarise", [True, False])
def test_class_attention_against_loops(size, normalise, binarise):
    options = {"size": size, "normalise": normalise, "binarise": binarise}
    value = lf.class_attention(STUDENT, TEACHER, **options)
    assert value.item() == pytest.approx(naive(STUDENT, TEACHER, **options), rel=1e-10)


def test_class_attention_has_no_scale_and_is_zero_at_equality():
    value = lf.class_attention(STUDENT, TEACHER)
    torch.testing.assert_close(lf.class_attention(5 * STUDENT, TEACHER / 7), value)
    ours = STUDENT.clone().requires_grad_()
    same = lf.class_attention(ours, STUDENT)
    assert same == 0
    assert not torch.autograd.grad(same, ours)[0].any()
    assert lf.class_attention(STUDENT[:0], TEACHER[:0]) == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="feature has 5 channels, the classifier reads 4"):
        lf.class_activation_maps(STUDENT, draw(3, 4))
    with pytest.raises(ValueError, match=r"maps are of 4 classes \(student\) and 5 \(teacher\)"):
        lf.class_attention(STUDENT[:, :4], TEACHER)
    with pytest.raises(ValueError, match="size is 0; expected a positive number"):
        lf.class_attention(STUDENT, TEACHER, size=0)
