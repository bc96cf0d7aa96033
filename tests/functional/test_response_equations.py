"""Response losses against the equations in plain loops, and the limiting cases of their cards."""

import math

import pytest
import torch
from functional_references import naive_kl, naive_softmax

from limbeck import functional as lf


@pytest.fixture
def pair():
    return 3 * torch.randn(7, 6, dtype=torch.float64), 3 * torch.randn(7, 6, dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3, 4, 5, 2])


def kl(p, q):
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def mean_slope(loss, student):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student), student)[0]


# DKD


def naive_dkd(student, teacher, labels, alpha, beta, temperature):
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        p, q = naive_softmax(t, temperature), naive_softmax(s, temperature)
        tckd = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        others = [k for k in range(len(p)) if k != y]
        rest_p = [p[k] / (1 - p[y]) for k in others]
        rest_q = [q[k] / (1 - q[y]) for k in others]
        total += alpha * tckd + beta * kl(rest_p, rest_q)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1, 8, 4), (0.5, 2, 1), (0, 1, 2)])
def test_dkd(pair, labels, alpha, beta, temperature):
    value = lf.dkd(*pair, labels, alpha=alpha, beta=beta, temperature=temperature)
    assert float(value) == pytest.approx(
        naive_dkd(*pair, labels, alpha, beta, temperature), rel=1e-10
    )


def test_dkd_with_the_teachers_doubt_as_weight_is_kd(pair, labels):
    label, others = lf.decoupled_kl(*pair, labels, temperature=3.0)
    doubt = 1 - (pair[1] / 3).softmax(-1).gather(1, labels[:, None]).squeeze(1)
    rows = lf.kd(*pair, temperature=3.0, reduction="none") / 9
    torch.testing.assert_close(label + doubt * others, rows, rtol=1e-12, atol=0)


def test_dkd_skips_samples_without_a_label(pair, labels):
    some = labels.clone()
    some[4:] = -100
    whole = lf.dkd(*pair, labels, reduction="none")
    part = lf.dkd(*pair, some, reduction="none")
    torch.testing.assert_close(part[:4], whole[:4])
    assert part[4:].tolist() == [0, 0, 0]
    assert float(lf.dkd(*pair, some)) == pytest.approx(float(whole[:4].sum()) / 7)


def test_dkd_is_exact_where_the_label_takes_everything():
    student = torch.tensor([[50.0, 0.0, -30.0]], requires_grad=True)
    teacher = torch.tensor([[60.0, -40.0, 0.0]])
    value = lf.dkd(student, teacher, torch.tensor([0]), temperature=1.0, beta=1.0)
    value.backward()
    # 1 - p of the label has vanished; what remains among the others has not
    p, q = naive_softmax([-40.0, 0.0]), naive_softmax([0.0, -30.0])
    assert value.item() == pytest.approx(kl(p, q), rel=1e-6)
    assert torch.isfinite(student.grad).all()


def test_dkd_of_two_classes_has_nothing_among_the_others():
    student, teacher = torch.randn(4, 2), torch.randn(4, 2)
    _, others = lf.decoupled_kl(student, teacher, torch.tensor([0, 1, 1, 0]))
    assert others.tolist() == [0.0] * 4


# DIST


def naive_pearson(a, b):
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    top = math.fsum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(
        math.fsum((x - ma) ** 2 for x in a) * math.fsum((y - mb) ** 2 for y in b)
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist(pair, temperature):
    q = [naive_softmax(row, temperature) for row in pair[0].tolist()]
    p = [naive_softmax(row, temperature) for row in pair[1].tolist()]
    inter = sum(1 - naive_pearson(a, b) for a, b in zip(q, p, strict=True)) / len(q)
    columns = zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)
    intra = sum(1 - naive_pearson(a, b) for a, b in columns) / len(q[0])
    value = lf.dist(*pair, beta=2.0, gamma=0.5, temperature=temperature)
    assert float(value) == pytest.approx(temperature**2 * (2 * inter + 0.5 * intra), rel=1e-10)


def test_correlation_sees_neither_scale_nor_shift(pair):
    moved = pair[0] * torch.rand(7, 1).double() * 5 + torch.randn(7, 1).double()
    torch.testing.assert_close(
        lf.pearson_distance(moved, pair[1]), lf.pearson_distance(*pair), rtol=1e-12, atol=1e-14
    )


def test_dist_of_one_sample_has_a_constant_part_over_samples():
    student = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    only = lf.dist(student, torch.randn(1, 5), beta=0.0)
    assert float(only.detach()) == pytest.approx(1.0)
    assert torch.autograd.grad(only, student)[0].abs().max() == 0


def test_dist_keeps_columns_that_are_tiny_everywhere():
    student, teacher = torch.zeros(4, 3), torch.zeros(4, 3)
    student[:, 2] = torch.tensor([-400.0, -401.0, -402.0, -403.0])
    teacher[:, 2] = student[:, 2]
    student[:, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert float(lf.dist(student, teacher, beta=0.0)) < 2.1 / 3  # two of three columns at most 1


# Standardised logits


def naive_standardised(row, eps=1e-7):
    mean = sum(row) / len(row)
    std = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
    return [(z - mean) / (eps + std) for z in row]


def test_standardised_kd(pair):
    ours, theirs = (
        torch.tensor([naive_standardised(r) for r in x.tolist()], dtype=torch.float64) for x in pair
    )
    expected = sum(naive_kl(ours, theirs, 2.0)) / 7
    assert float(lf.kd_standardised(*pair)) == pytest.approx(expected, rel=1e-10)


def test_standardised_kd_sees_neither_scale_nor_shift(pair):
    student, teacher = pair
    moved = lf.kd_standardised(0.01 * student - 40, 7 * teacher + 3)
    assert float(moved) == pytest.approx(float(lf.kd_standardised(student, teacher)), rel=2e-5)


@pytest.mark.parametrize("loss", [lf.kd_standardised, lf.normkd])
def test_equal_logits_have_a_finite_gradient(loss):
    student = torch.full((2, 4), 3.0, requires_grad=True)
    loss(student, torch.randn(2, 4)).backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("loss", [lf.kd_standardised, lf.normkd, lf.dist])
def test_one_class_is_refused(loss):
    with pytest.raises(ValueError, match="1 classes; expected at least 2"):
        loss(torch.zeros(3, 1), torch.zeros(3, 1))


def test_normkd(pair):
    total = 0.0
    for s, t in zip(*(x.tolist() for x in pair), strict=True):
        ours, theirs = (2.0 * math.sqrt(sum((z - sum(r) / 6) ** 2 for z in r) / 5) for r in (s, t))
        p, q = naive_softmax(t, theirs), naive_softmax(s, ours)
        total += theirs**2 * kl(p, q)
    assert float(lf.normkd(*pair)) == pytest.approx(total / 7, rel=1e-10)


def test_normkd_of_equal_spreads_is_kd_at_that_temperature(pair):
    even = [x * 1.5 / x.std(dim=1, keepdim=True) for x in pair]
    expected = lf.kd(*even, temperature=3.0)
    torch.testing.assert_close(lf.normkd(*even, scale=2.0), expected, rtol=1e-12, atol=0)


# Transformed teacher matching


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.1, 0.7, 2.0])
def test_ttm(pair, gamma, weighted):
    total = 0.0
    for s, t in zip(*(x.tolist() for x in pair), strict=True):
        powers = [a**gamma for a in naive_softmax(t)]
        mass = sum(powers)
        total += (mass if weighted else 1) * kl([a / mass for a in powers], naive_softmax(s))
    value = lf.ttm(*pair, gamma=gamma, weighted=weighted)
    assert float(value) == pytest.approx(total / 7, rel=1e-10)


def test_ttm_with_power_one_is_kd_at_temperature_one(pair):
    torch.testing.assert_close(lf.ttm(*pair, gamma=1.0), lf.kd(*pair, temperature=1.0))
    assert lf.power_sum(pair[1], gamma=1.0).tolist() == pytest.approx([1.0] * 7)


# WSLD


@pytest.mark.parametrize("entropy", [True, False])
def test_wsld(pair, labels, entropy):
    total = 0.0
    for s, t, y in zip(*(x.tolist() for x in pair), labels.tolist(), strict=True):
        ours, theirs = -math.log(naive_softmax(s)[y]), -math.log(naive_softmax(t)[y])
        weight = 1 - math.exp(-ours / (theirs + 1e-7))
        p, q = naive_softmax(t, 2.0), naive_softmax(s, 2.0)
        soft = kl(p, q) - (kl(p, [1.0] * 6) if entropy else 0.0)
        total += 4 * weight * soft
    value = lf.wsld(*pair, labels, entropy=entropy)
    assert float(value) == pytest.approx(total / 7, rel=1e-10)


def test_wsld_weighs_fixed(pair, labels):
    weight = lf.wsld_weight(*pair, labels)[:, None]
    q, p = ((x / 2).softmax(-1) for x in pair)
    slope = mean_slope(lambda s: lf.wsld(s, pair[1], labels), pair[0])
    torch.testing.assert_close(slope, 2 * weight * (q - p) / 7, rtol=1e-12, atol=1e-15)


def test_wsld_without_labels_weighs_everything_fully(pair):
    none = torch.full((7,), -100)
    expected = lf.kd(*pair, temperature=2.0)
    torch.testing.assert_close(lf.wsld(*pair, none, entropy=False), expected)


# Jensen-Shannon


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon(pair, beta):
    total = 0.0
    for s, t in zip(*(x.tolist() for x in pair), strict=True):
        p, q = naive_softmax(t, 2.0), naive_softmax(s, 2.0)
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        total += 4 * (beta * kl(p, m) + (1 - beta) * kl(q, m))
    value = lf.jensen_shannon(*pair, beta=beta, temperature=2.0)
    assert float(value) == pytest.approx(total / 7, rel=1e-10)


def test_jensen_shannon_is_symmetric_bounded_and_has_its_limits(pair):
    student, teacher = pair
    there, back = lf.jensen_shannon(student, teacher), lf.jensen_shannon(teacher, student)
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)
    far = lf.jensen_shannon(torch.tensor([[1e3, 0.0]]), torch.tensor([[0.0, 1e3]]))
    assert float(far) == pytest.approx(math.log(2))
    little = lf.jensen_shannon(student, teacher, beta=1e-6) / 1e-6
    forward = lf.kl_divergence(student, teacher)
    assert float(little) == pytest.approx(float(forward), rel=1e-3)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_jensen_shannon_has_no_ends(pair, beta):
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\) \(kl_divergence for 0"):
        lf.jensen_shannon(*pair, beta=beta)
