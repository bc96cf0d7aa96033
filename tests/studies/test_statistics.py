"""Statistics against closed forms, simulation and worked examples."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from limbeck.studies.statistics import (
    Estimate,
    common_seeds,
    compare,
    estimate,
    group_by_arm,
    holm,
    paired_p_value,
    proportion_interval,
    verdict,
)


@dataclass
class Run:
    name: str
    settings: dict[str, Any] = field(default_factory=dict)


def test_two_values_have_the_cauchy_interval() -> None:
    # One degree of freedom is the Cauchy distribution: t(0.975) = tan(0.475 pi); the standard
    # error of two values is half their distance.
    result = estimate([3.0, 5.0])
    assert result.mean == 4.0
    assert result.deviation == pytest.approx(math.sqrt(2))
    assert result.half_width == pytest.approx(math.tan(0.475 * math.pi), rel=1e-10)


def test_three_values_have_the_closed_form_for_two_degrees_of_freedom() -> None:
    # t_2(p) = (2p - 1) / sqrt(2 p (1 - p)).
    p = 0.975
    quantile = (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    result = estimate([1.0, 2.0, 6.0])
    spread = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2)
    assert result.half_width == pytest.approx(quantile * spread / math.sqrt(3), rel=1e-10)


@pytest.mark.parametrize(("num", "factor"), [(5, 1.24), (10, 0.72), (30, 0.37)])
def test_half_width_factors_for_common_numbers_of_seeds(num: int, factor: float) -> None:
    values = np.random.default_rng(0).normal(size=num)
    result = estimate(values)
    assert result.half_width / float(np.std(values, ddof=1)) == pytest.approx(factor, abs=0.005)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    trials = 2000
    hits = sum(estimate(rng.normal(0.7, 0.2, size=5)).contains(0.7) for _ in range(trials))
    # Four standard errors of a binomial with p = 0.95.
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_too_few_values_have_no_interval() -> None:
    assert math.isnan(estimate([]).mean)
    one = estimate([2.0])
    assert one.mean == 2.0
    assert not one.has_interval
    assert not one.contains(2.0)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_must_be_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        estimate([1.0, 2.0], confidence)


def test_p_value_has_the_closed_form_for_one_degree_of_freedom() -> None:
    difference = estimate([1.0, 2.0])  # t statistic: 1.5 / 0.5 = 3
    assert paired_p_value(difference) == pytest.approx(1 - 2 * math.atan(3.0) / math.pi, rel=1e-10)


def test_p_value_is_below_the_level_just_where_the_interval_excludes_zero() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        difference = estimate(rng.normal(0.5, 0.5, size=4))
        assert (paired_p_value(difference) < 0.05) == (not difference.contains(0.0))


def test_p_value_without_spread() -> None:
    assert paired_p_value(estimate([0.0, 0.0])) == 1.0
    assert paired_p_value(estimate([0.5, 0.5])) == 0.0
    assert math.isnan(paired_p_value(estimate([0.5])))


def test_holm_by_hand() -> None:
    # Sorted: 0.005 x4, 0.01 x3, 0.03 x2, 0.04 x1 -> 0.02, 0.03, 0.06, then not below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_leaves_out_what_could_not_be_tested() -> None:
    result = holm([math.nan, 0.02, 0.04])
    assert math.isnan(result[0])
    assert result[1:] == pytest.approx([0.04, 0.04])


def test_holm_keeps_the_familywise_error() -> None:
    rng = np.random.default_rng(3)
    draws = rng.uniform(size=(4000, 5))  # five true null hypotheses
    wrong = sum(min(holm(list(row))) < 0.05 for row in draws)
    expected = 1 - 0.99**5  # Holm's first step is Bonferroni's at 0.05 / 5
    assert abs(wrong / 4000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def interval(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, 1.0, 5, low, high)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.2, 1.4, "holds"),
        (1.2, 1.4, "holds"),
        (-0.2, 1.4, "cannot be told"),  # both 0 and the effect
        (-0.2, 0.6, "does not hold"),
        (0.1, 0.6, "does not hold"),  # real, but too small to matter
        (-1.4, -0.2, "does not hold"),
    ],
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert verdict(interval(low, high), 1.0) == expected
    assert verdict(interval(-high, -low), 1.0, higher_is_better=False) == expected


def test_verdict_heeds_the_corrected_p_value() -> None:
    assert verdict(interval(0.1, 2.0), 1.0, p_value=0.04) == "holds"
    assert verdict(interval(0.1, 2.0), 1.0, p_value=0.08) == "cannot be told"


def test_verdict_needs_an_effect_and_an_interval() -> None:
    assert verdict(estimate([3.0]), 1.0) == "cannot be told"
    for effect in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="smallest_effect"):
            verdict(interval(0, 1), effect)


def test_compare_pairs_by_seed() -> None:
    values = {
        "plain": {0: 0.90, 1: 0.80, 2: 0.70},
        "kd": {2: 0.72, 1: 0.81, 0: 0.93, 7: 0.1},  # seed 7 has no partner
        "dkd": {0: 0.91},
    }
    result = compare(values, "plain", smallest_effect=0.01)
    assert list(result) == ["kd", "dkd"]
    assert result["kd"].seeds == (0, 1, 2)
    assert result["kd"].difference.mean == pytest.approx(0.02)
    assert result["kd"].difference.deviation == pytest.approx(0.01)
    assert result["kd"].p_holm == pytest.approx(result["kd"].p_value)  # the only one testable
    assert result["kd"].verdict == "cannot be told"
    assert result["dkd"].verdict == "cannot be told"
    assert not result["dkd"].difference.has_interval


def test_pairing_removes_what_seeds_share() -> None:
    rng = np.random.default_rng(4)
    shared = rng.normal(0.8, 0.1, size=8)
    plain = dict(enumerate(shared))
    kd = dict(enumerate(shared + 0.01 + rng.normal(0, 0.001, size=8)))
    found = compare({"plain": plain, "kd": kd}, "plain")["kd"].difference
    assert found.half_width < 0.002 < estimate(plain.values()).half_width
    assert found.contains(0.01)


def test_compare_refuses_an_unknown_baseline() -> None:
    with pytest.raises(ValueError, match="'ce': expected one of kd, plain"):
        compare({"plain": {}, "kd": {}}, "ce")


def test_common_seeds_skip_what_is_not_finite() -> None:
    assert common_seeds({0: 1.0, 1: math.nan, 2: 3.0}, {0: 1.0, 1: 1.0, 3: 1.0}) == (0,)


def test_wilson_interval_solves_its_equation() -> None:
    # Its ends are where |share - p| = z sqrt(p (1 - p) / n).
    low, high = proportion_interval(450, 500)
    for end in (low, high):
        deviation = abs(0.9 - end) / math.sqrt(end * (1 - end) / 500)
        assert deviation == pytest.approx(1.959963984540054, rel=1e-9)
    assert proportion_interval(0, 10)[0] == 0.0
    assert proportion_interval(10, 10)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(("right", "num"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(right: int, num: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        proportion_interval(right, num)


def test_runs_group_by_name_and_settings() -> None:
    runs = [
        Run("plain", {"train.epochs": 3}),
        Run("kd", {"method.temperature": 2, "train.epochs": 3}),
        Run("plain", {"train.epochs": 3}),
        Run("kd", {"method.temperature": 4, "train.epochs": 3}),
        Run("kd", {"train.epochs": 3}),
    ]
    arms = group_by_arm(runs)
    assert {label: len(group) for label, group in arms.items()} == {
        "plain": 2,
        "kd (temperature=2)": 1,
        "kd (temperature=4)": 1,
        "kd (temperature=absent)": 1,
    }


def test_a_label_is_short_and_tells_the_arms_apart() -> None:
    def settings(epochs: int, **more: int) -> dict[str, Any]:
        return {"train.epochs": epochs, **{f"teacher.part{i}": i for i in range(40)}, **more}

    runs = [Run("kd", settings(3)), Run("kd", settings(5)), Run("kd", {"train.epochs": 9})]
    assert list(group_by_arm(runs)) == ["kd (epochs=3, …)", "kd (epochs=5, …)", "kd (epochs=9, …)"]
    twins = [Run("kd", {"a.lr": 1, "b.lr": 2}), Run("kd", {"a.lr": 2, "b.lr": 1})]
    assert list(group_by_arm(twins)) == ["kd (a.lr=1, b.lr=2)", "kd (a.lr=2, b.lr=1)"]


def test_labels_that_read_alike_lose_no_run() -> None:
    arms = group_by_arm([Run("kd", {"x": 4}), Run("kd", {"x": "4"})])
    assert [len(group) for group in arms.values()] == [1, 1]
