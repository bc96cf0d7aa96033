"""Rectified, partial and virtual teachers, and temperatures by sample: the cards' own checks."""

import math

import pytest
import torch
from functional_references import naive_softmax

from limbeck import functional as lf


@pytest.fixture
def answers():
    logits = 2 * torch.randn(200, 5, dtype=torch.float64)
    return logits, torch.randint(5, (200,))


def test_swap_puts_the_label_first_and_keeps_the_values(answers):
    logits, labels = answers
    before = logits.clone()
    swapped = lf.swap_with_label(logits, labels)
    assert torch.equal(swapped.argmax(-1), labels)
    assert torch.equal(swapped.sort(-1).values, logits.sort(-1).values)
    assert torch.equal(lf.swap_with_label(swapped, labels), swapped)
    assert torch.equal(logits, before)
    right = logits.argmax(-1) == labels
    assert torch.equal(swapped[right], logits[right])


def test_swap_commutes_with_softmax_at_any_temperature(answers):
    logits, labels = answers
    for temperature in (0.5, 1.0, 6.0):
        soft = (logits / temperature).softmax(-1)
        after = (lf.swap_with_label(logits, labels) / temperature).softmax(-1)
        torch.testing.assert_close(after, lf.swap_with_label(soft, labels))


def test_swap_leaves_samples_without_a_label(answers):
    logits, _ = answers
    assert torch.equal(lf.swap_with_label(logits, torch.full((200,), -100)), logits)
    assert not lf.is_wrong(logits, torch.full((200,), -100)).any()


def test_swap_settles_ties_by_the_first_largest():
    tied = torch.tensor([[1.0, 1.0, 0.0]])
    assert lf.swap_with_label(tied, torch.tensor([1])).tolist() == [[1.0, 1.0, 0.0]]


def test_smoothed_label_takes_the_place_of_wrong_answers(answers):
    logits, labels = answers
    probs = logits.softmax(-1)
    replaced = lf.replace_by_smoothed_label(probs, labels, epsilon=0.2)
    for before, after, y in zip(probs, replaced, labels.tolist(), strict=True):
        if before.argmax() == y:
            assert torch.equal(before, after)
        else:
            assert after.tolist() == pytest.approx([0.04 + 0.8 * (k == y) for k in range(5)])


def test_pairwise_is_the_closed_form_of_the_card():
    p = torch.tensor([[0.01, 0.50, 0.45, 0.04]], dtype=torch.float64)
    found = lf.rectify(p, torch.tensor([0])).squeeze().tolist()
    assert found == pytest.approx([0.341, 0.169, 0.45, 0.04], abs=5e-4)


def test_pairwise_keeps_the_sum_and_the_others_and_puts_the_label_above(answers):
    logits, labels = answers
    probs = logits.softmax(-1)
    found = lf.rectify(probs, labels)
    torch.testing.assert_close(found.sum(-1), probs.sum(-1))
    for before, after, y in zip(probs.tolist(), found.tolist(), labels.tolist(), strict=True):
        w = before.index(max(before))
        if w == y:
            assert after == before
            continue
        a, b = (before[y] + 1) / 2, before[w] / 2
        scale = (before[y] + before[w]) / (a + b)
        assert after[y] == pytest.approx(a * scale, rel=1e-12)
        assert after[w] == pytest.approx(b * scale, rel=1e-12)
        assert after[y] >= after[w]
        assert all(after[k] == before[k] for k in range(5) if k not in (y, w))


def test_average_with_the_label_is_a_distribution_that_is_right(answers):
    logits, labels = answers
    found = lf.rectify(logits.softmax(-1), labels, mode="one_hot_average")
    torch.testing.assert_close(found.sum(-1), torch.ones(200, dtype=torch.float64))
    assert torch.equal(found.argmax(-1), labels)


def test_an_unknown_rule_is_refused(answers):
    with pytest.raises(ValueError, match="expected one of swap, one_hot_average, pairwise"):
        lf.rectify(*answers, mode="mean")


# Partial teachers


def test_top_k_of_all_is_the_distribution_and_sums_to_one(answers):
    probs = answers[0].softmax(-1)
    assert torch.equal(lf.keep_top_k(probs, 5), probs)
    for k in range(1, 5):
        kept = lf.keep_top_k(probs, k)
        torch.testing.assert_close(kept.sum(-1), torch.ones(200, dtype=torch.float64))
        for before, after in zip(probs.tolist(), kept.tolist(), strict=True):
            order = sorted(range(5), key=lambda i: -before[i])
            assert [after[i] for i in order[:k]] == [before[i] for i in order[:k]]
            rest = (1 - sum(before[i] for i in order[:k])) / (5 - k)
            assert [after[i] for i in order[k:]] == pytest.approx([rest] * (5 - k), rel=1e-9)


@pytest.mark.parametrize("k", [0, 6])
def test_top_k_out_of_range_is_refused(answers, k):
    with pytest.raises(ValueError, match=f"k is {k}; expected a whole number from 1 to 5"):
        lf.keep_top_k(answers[0].softmax(-1), k)


def test_confidence_alone(answers):
    logits, labels = answers
    probs = logits.softmax(-1)
    kept = lf.keep_confidence(probs, labels)
    torch.testing.assert_close(kept.sum(-1), torch.ones(200, dtype=torch.float64))
    right = probs.gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(kept.gather(1, labels[:, None]).squeeze(1), right)
    assert torch.equal(kept.argmax(-1) == labels, right > 1 / 5)


def test_constant_confidence_is_label_smoothing():
    labels = torch.tensor([2, 0])
    probs = torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.15, 0.05]])
    kept = lf.keep_confidence(probs, labels)
    smooth = lf.label_smoothing_targets(labels, 3, 0.2, convention="off_label")
    torch.testing.assert_close(kept.double(), smooth.double())


def test_class_similarity():
    weight = torch.randn(4, 3, dtype=torch.float64)
    table = lf.class_similarity(weight, power=1.5, temperature=0.2)
    rows = weight.tolist()
    length = [math.sqrt(sum(x * x for x in row)) for row in rows]
    for t in range(4):
        cosines = [
            sum(a * b for a, b in zip(rows[t], rows[i], strict=True)) / length[t] / length[i]
            for i in range(4)
        ]
        sharpened = [math.copysign(abs(s) ** 1.5, s) / 0.2 for s in cosines]
        assert table[t].tolist() == pytest.approx(naive_softmax(sharpened), rel=1e-9)
        assert lf.class_cosines(weight)[t].tolist() == pytest.approx(cosines, rel=1e-9)
    assert not bool(lf.class_cosines(torch.zeros(2, 3)).any())
    even = lf.class_similarity(torch.ones(3, 2))
    torch.testing.assert_close(even, torch.full((3, 3), 1 / 3, dtype=torch.float64))


def test_class_hierarchy():
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    table = lf.class_hierarchy(groups, own=0.8, within=0.5)
    torch.testing.assert_close(table.sum(1), torch.ones(6, dtype=torch.float64))
    assert table[0].tolist() == pytest.approx([0.8, 0.05, 0.05, 0.1 / 3, 0.1 / 3, 0.1 / 3])
    assert table[5].tolist() == pytest.approx([0.04] * 5 + [0.8])  # alone in its superclass
    even = lf.class_hierarchy(torch.zeros(4, dtype=torch.int64), own=0.7)
    assert even[1].tolist() == pytest.approx([0.1, 0.7, 0.1, 0.1])


# The virtual teacher


@pytest.mark.parametrize(
    ("soften", "classes", "expected"),
    [("probs", 10, (0.1045, 0.0995)), ("power", 10, (0.135, 0.096)), ("probs", 100, (0.01050,))],
)
def test_virtual_teacher_gives_the_figures_of_the_card(soften, classes, expected):
    logits = lf.virtual_logits(torch.tensor([3]), classes, soften=soften)
    p = logits.softmax(-1).squeeze(0)
    assert float(p[3]) == pytest.approx(expected[0], abs=5e-4 if soften == "power" else 5e-5)
    if len(expected) > 1:
        assert float(p[0]) == pytest.approx(expected[1], abs=5e-4 if soften == "power" else 5e-5)


def test_virtual_teacher_loss():
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 2, 1, 1])
    total = 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        p = naive_softmax([(0.97 if k == y else 0.01) / 2.0 for k in range(4)])
        q = naive_softmax(row)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    value = lf.virtual_teacher_loss(logits, labels, correct=0.97, temperature=2.0)
    assert float(value) == pytest.approx(total / 5 / 4, rel=1e-10)
    whole = lf.virtual_teacher_loss(
        logits, labels, correct=0.97, temperature=2.0, reduction="batchmean"
    )
    assert float(whole) == pytest.approx(total / 5, rel=1e-10)


def test_even_virtual_teacher_is_the_uniform_one():
    logits = torch.randn(3, 5, dtype=torch.float64)
    value = lf.virtual_teacher_loss(logits, torch.tensor([0, 1, 2]), correct=1 / 5)
    uniform = lf.kl_divergence(logits, torch.zeros_like(logits), reduction="elementwise")
    torch.testing.assert_close(value, uniform)


# Temperatures by sample


@pytest.mark.parametrize("weighting", ["flsw", "cwsm"])
def test_confusion_by_its_definition(answers, weighting):
    student, teacher = answers[0], answers[0].roll(1, 0)
    found = lf.confusion(student, teacher, weighting=weighting, gamma=1.5).tolist()
    for s, t, omega in zip(student.tolist(), teacher.tolist(), found, strict=True):
        if weighting == "cwsm":
            assert omega == pytest.approx(1 / max(naive_softmax(s)))
        else:
            dot = sum(a * b for a, b in zip(s, t, strict=True))
            cosine = dot / math.hypot(*s) / math.hypot(*t)
            assert omega == pytest.approx((1 - cosine) ** 1.5, rel=1e-8)


def test_confusion_has_its_limits():
    z = torch.randn(3, 4, dtype=torch.float64)
    assert lf.confusion(z, 2 * z).tolist() == pytest.approx([0.0] * 3, abs=1e-15)
    assert lf.confusion(z, -z, gamma=3.0).tolist() == pytest.approx([8.0] * 3)
    even = torch.zeros(1, 4)
    assert float(lf.confusion(even, even, weighting="cwsm")) == pytest.approx(4.0)
    sure = torch.tensor([[1e3, 0.0]])
    assert float(lf.confusion(sure, sure, weighting="cwsm")) == pytest.approx(1.0)


def test_temperatures_average_to_the_base_and_fall_with_confusion():
    omega = torch.rand(64, dtype=torch.float64)
    tau = lf.sample_temperatures(omega, base=4.0, bias=2.0, minimum=0.01)
    assert float(tau.mean()) == pytest.approx(4.0)
    assert torch.equal(tau.argsort(), omega.argsort(descending=True))
    assert lf.sample_temperatures(omega, bias=40.0, minimum=0.5).min() == 0.5


def test_kd_by_sample(answers):
    student, teacher = answers[0], answers[0].roll(1, 0)
    tau = 1 + 3 * torch.rand(200, dtype=torch.float64)
    rows = lf.kd_per_sample(student, teacher, tau, reduction="none")
    for number in (0, 7, 199):
        one = slice(number, number + 1)
        alone = lf.kd(student[one], teacher[one], temperature=float(tau[number]))
        assert float(rows[number]) == pytest.approx(float(alone), rel=1e-12)
    same = lf.kd_per_sample(student, teacher, torch.full((200,), 4.0))
    torch.testing.assert_close(same, lf.kd(student, teacher, temperature=4.0))


def test_kd_by_sample_wants_a_temperature_each(answers):
    with pytest.raises(ValueError, match="expected one for each sample"):
        lf.kd_per_sample(answers[0], answers[0], torch.ones(3))
