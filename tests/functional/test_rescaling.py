"""How a teacher rescales gradients, against autograd."""

import pytest
import torch
from torch.nn import functional as F

from limbeck.functional import gradient_ratio, gradient_rescaling


def sample(batch=20, classes=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(batch, classes, generator=rng, dtype=torch.float64) * 2 for _ in range(2)
    )
    return student, teacher, torch.randint(classes, (batch,), generator=rng)


def gradients(student, teacher, targets, share, temperature):
    """Of the paper's loss (no T²) and of cross-entropy, sample by sample, by autograd."""
    found = []
    for z, v, t in zip(student, teacher, targets, strict=True):
        z = z.clone().requires_grad_()
        plain = F.cross_entropy(z, t)
        soft = -((v / temperature).softmax(0) * (z / temperature).log_softmax(0)).sum()
        kd = (1 - share) * F.cross_entropy(z, t) + share * soft
        found.append([torch.autograd.grad(loss, z)[0] for loss in (kd, plain)])
    return found


@pytest.mark.parametrize(("share", "temperature"), [(0.0, 1.0), (0.5, 1.0), (0.9, 4.0), (1.0, 2.0)])
def test_they_are_the_ratios_of_gradients(share, temperature):
    student, teacher, targets = sample()
    options = {"share": share, "temperature": temperature}
    one = gradient_rescaling(student, teacher, targets, **options)
    whole = gradient_ratio(student, teacher, targets, **options)
    for i, (kd, plain) in enumerate(gradients(student, teacher, targets, share, temperature)):
        t = int(targets[i])
        assert float(one[i]) == pytest.approx(float(kd[t] / plain[t]), rel=1e-9)
        assert float(whole[i]) == pytest.approx(float(kd.abs().sum() / plain.abs().sum()), rel=1e-9)


def test_limits():
    student, teacher, targets = sample()
    equal = gradient_rescaling(student, student.clone(), targets, share=1.0)
    assert equal.abs().max() == 0
    sure = torch.full_like(teacher, -1e4).scatter(1, targets[:, None], 1e4)
    ones = gradient_rescaling(student, sure, targets, share=1.0)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    # as sure of the label, otherwise different
    rolled = student.scatter(1, targets[:, None], -torch.inf)
    rest = rolled.sort(dim=1, descending=True).values[:, :-1].flip(1)
    others = torch.ones_like(student, dtype=torch.bool).scatter(1, targets[:, None], False)
    mixed = student.clone()
    mixed[others] = rest.reshape(-1)
    weights = gradient_rescaling(student, mixed, targets, share=0.3)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.7))


def test_whole_gradients_agree_for_kd_pt_where_no_other_class_changes_sign():
    student, _, targets = sample(batch=200, classes=3)
    probs = student.softmax(1)
    label = probs.gather(1, targets[:, None])
    higher = label + 0.9 * (1 - label)
    even = (1 - higher) / 2
    others = torch.ones_like(probs, dtype=torch.bool).scatter(1, targets[:, None], False)
    fits = (even <= probs.masked_select(others).view(-1, 2)).all(1)
    assert 20 < int(fits.sum()) < 200
    teacher = even.expand_as(probs).scatter(1, targets[:, None], higher).log()
    probes = (gradient_rescaling, gradient_ratio)
    one, whole = (probe(student, teacher, targets, share=1.0) for probe in probes)
    torch.testing.assert_close(one[fits], whole[fits])
    assert bool((whole[~fits] > one[~fits]).all())


def test_a_student_that_is_sure_and_samples_without_a_label():
    student = torch.tensor([[1e3, 0.0, -5.0], [0.0, 0.0, 0.0]])
    teacher = torch.tensor([[1e3 - 1, 0.0, -5.0], [1.0, 0.0, 0.0]])
    for temperature in (1.0, 4.0):
        options = {"share": 1.0, "temperature": temperature}
        found = gradient_rescaling(student, teacher, torch.tensor([0, -100]), **options)
        assert found.isnan().tolist() == [False, True]
    value = float(gradient_rescaling(student, teacher, torch.tensor([0, -100]), share=1.0)[0])
    assert value == pytest.approx(1 - torch.e, rel=1e-6)
    sure = torch.tensor([[30.0, 0.0]])
    less = torch.tensor([[29.0, 0.0]])
    value = float(gradient_rescaling(sure, less, torch.tensor([0]), share=1.0))
    assert value == pytest.approx(1 - torch.e, rel=1e-6)  # 1 - q is e^-30, 1 - p is e^-29


def test_errors():
    student, teacher, targets = sample()
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        gradient_rescaling(student, teacher, targets, share=1.5)
    with pytest.raises(ValueError, match="temperature"):
        gradient_ratio(student, teacher, targets, temperature=0)
    with pytest.raises(ValueError, match="at least 2"):
        gradient_ratio(student[:, :1], teacher[:, :1], targets * 0)
