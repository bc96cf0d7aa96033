"""Statistics of seeded runs: intervals, paired differences, Holm's correction, verdicts.

Everything here is a pure function of numbers, so that a table can be recomputed from run folders
alone. The rules are those that a study writes down beforehand: the same seeds for every arm,
differences paired by seed, a t-interval on the mean difference, Holm's correction within the
study, and a verdict against the smallest effect that would matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

_MOST_IN_A_LABEL = 3

Verdict = Literal["holds", "does not hold", "cannot be told"]
Direction = Literal["better", "not worse"]
"""What is claimed of an arm: better than the baseline, or worse by less than what matters."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: arithmetic mean; NaN of nothing.
        deviation: sample standard deviation (divisor n - 1); NaN below two values.
        num: how many values.
        low: lower end of the interval; NaN below two values.
        high: upper end of the interval; NaN below two values.
        confidence: coverage of the interval, in (0, 1).
    """

    mean: float
    deviation: float
    num: int
    low: float
    high: float
    confidence: float = 0.95

    @property
    def half_width(self) -> float:
        """Half the interval's length (what stands after the ± sign); NaN where there is none."""
        return (self.high - self.low) / 2

    @property
    def has_interval(self) -> bool:
        """Whether there were enough values for an interval."""
        return not math.isnan(self.low)

    def contains(self, value: float) -> bool:
        """Whether the closed interval contains ``value``; False where there is no interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline, paired by seed.

    Attributes:
        difference: estimate of (arm - baseline) over the common seeds, in the metric's own unit.
        seeds: the seeds that both arms have, in order.
        p_value: two-sided p-value of the paired t-test; NaN below two common seeds.
        p_holm: the same after Holm's correction over all arms of the study.
        verdict: None where no smallest effect was written down.
    """

    difference: Estimate
    seeds: tuple[int, ...]
    p_value: float
    p_holm: float
    verdict: Verdict | None = None


def estimate(values: Iterable[float], confidence: float = 0.95) -> Estimate:
    """Return mean, standard deviation and Student's t-interval of ``values``.

    The interval is ``mean ± t(n - 1, (1 + confidence) / 2) * deviation / sqrt(n)``. Values without
    any spread give an interval of no width: the formula's answer, not a proof of certainty.

    Args:
        values: finite numbers, at least one for a mean and two for an interval.
        confidence: coverage in (0, 1); default 0.95.

    Raises:
        ValueError: ``confidence`` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}: expected a number between 0 and 1")
    numbers = [float(value) for value in values]
    num, nan = len(numbers), math.nan
    if num == 0:
        return Estimate(nan, nan, 0, nan, nan, confidence)
    mean = math.fsum(numbers) / num
    if num == 1:
        return Estimate(mean, nan, 1, nan, nan, confidence)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (num - 1))
    half = _t_quantile(num - 1, confidence) * deviation / math.sqrt(num)
    return Estimate(mean, deviation, num, mean - half, mean + half, confidence)


def paired_p_value(difference: Estimate, against: float = 0.0) -> float:
    """Return the two-sided p-value of Student's paired t-test for a mean difference.

    Args:
        difference: estimate of the paired differences.
        against: the mean difference that is tested; default 0.
    """
    from scipy.stats import t

    if difference.num < 2:
        return math.nan
    distance = difference.mean - against
    if difference.deviation == 0:
        return 1.0 if distance == 0 else 0.0
    statistic = distance / (difference.deviation / math.sqrt(difference.num))
    return float(2 * t.sf(abs(statistic), difference.num - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given.

    With the p-values sorted upwards, the i-th (from 0) is multiplied by (m - i), capped at 1 and
    never below the one before it. NaN (no test was possible) stays NaN and is not counted.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[i] = running
    return adjusted


def verdict(
    difference: Estimate,
    smallest_effect: float,
    *,
    p_value: float | None = None,
    higher_is_better: bool = True,
    direction: Direction = "better",
) -> Verdict:
    """Return the verdict on "the arm is better by an amount that matters", or "is not worse".

    Of "better":

    - ``does not hold``: the interval excludes every improvement as large as ``smallest_effect``.
    - ``holds``: the interval lies above zero, (Holm's) ``p_value`` agrees, and an improvement as
      large as ``smallest_effect`` is within it or below it.
    - ``cannot be told``: otherwise; so always where the interval holds both 0 and the effect.

    Of "not worse", where a loss as large as ``smallest_effect`` is the margin:

    - ``does not hold``: the whole interval is a larger loss than the margin.
    - ``holds``: the whole interval is better than that loss, and (Holm's) ``p_value`` agrees.
    - ``cannot be told``: the margin is within the interval.

    Args:
        difference: estimate of (arm - baseline).
        smallest_effect: smallest improvement that matters, > 0, in the metric's unit, written down
            before the runs.
        p_value: Holm's p-value of the difference (for "not worse": of its distance from the
            margin); None: the interval alone decides.
        higher_is_better: False for losses and errors, where an improvement is a negative number.
        direction: what is claimed.

    Raises:
        ValueError: ``smallest_effect`` is not a positive number.
    """
    if not smallest_effect > 0:
        raise ValueError(f"smallest_effect is {smallest_effect!r}: expected a number above 0")
    if not difference.has_interval:
        return "cannot be told"
    low, high = difference.low, difference.high
    if not higher_is_better:
        low, high = -high, -low
    below, above = (smallest_effect, 0.0) if direction == "better" else (-smallest_effect,) * 2
    if high < below:
        return "does not hold"
    significant = p_value is None or p_value < 1 - difference.confidence
    return "holds" if low > above and significant else "cannot be told"


def compare(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    *,
    smallest_effect: float | None = None,
    higher_is_better: bool = True,
    confidence: float = 0.95,
) -> dict[str, Comparison]:
    """Compare every arm with ``baseline``, paired by seed, Holm-corrected over the arms.

    Args:
        values: arm -> seed -> value of one metric.
        baseline: the arm that the others are compared with.
        smallest_effect: see :func:`verdict`; None: no verdicts.
        higher_is_better: see :func:`verdict`.
        confidence: coverage of the intervals; default 0.95.

    Returns:
        One comparison for every arm but the baseline, in the order of ``values``.

    Raises:
        ValueError: ``baseline`` is not an arm, or an argument is out of range.
    """
    if baseline not in values:
        raise ValueError(f"baseline is {baseline!r}: expected one of {', '.join(sorted(values))}")
    pairs = [
        Pair(
            values[arm],
            values[baseline],
            smallest_effect=smallest_effect,
            higher_is_better=higher_is_better,
        )
        for arm in values
        if arm != baseline
    ]
    others = (arm for arm in values if arm != baseline)
    return dict(zip(others, compare_pairs(pairs, confidence), strict=True))


@dataclass(frozen=True)
class Pair:
    """Two arms that are to be compared.

    Attributes:
        arm: seed -> value of one metric.
        baseline: seed -> value of the same metric.
        smallest_effect: see :func:`verdict`; None: no verdict.
        higher_is_better: see :func:`verdict`.
        direction: see :func:`verdict`.
    """

    arm: Mapping[int, float]
    baseline: Mapping[int, float]
    smallest_effect: float | None = None
    higher_is_better: bool = True
    direction: Direction = "better"

    @property
    def null(self) -> float:
        """The mean difference that the claim must tell apart from: 0, or the margin."""
        if self.direction == "better" or self.smallest_effect is None:
            return 0.0
        return -self.smallest_effect if self.higher_is_better else self.smallest_effect


def compare_pairs(pairs: Sequence[Pair], confidence: float = 0.95) -> list[Comparison]:
    """Compare arms pair by pair, paired by seed, Holm-corrected over all pairs.

    Args:
        pairs: all that one study compares, or none.
        confidence: coverage of the intervals; default 0.95.

    Raises:
        ValueError: an argument is out of range.
    """
    seeds = [common_seeds(pair.arm, pair.baseline) for pair in pairs]
    differences = [
        estimate((pair.arm[s] - pair.baseline[s] for s in shared), confidence)
        for pair, shared in zip(pairs, seeds, strict=True)
    ]
    p_values = [
        paired_p_value(difference, pair.null)
        for pair, difference in zip(pairs, differences, strict=True)
    ]
    result = []
    for pair, shared, difference, p, p_holm in zip(
        pairs, seeds, differences, p_values, holm(p_values), strict=True
    ):
        decision = None
        if pair.smallest_effect is not None:
            decision = verdict(
                difference,
                pair.smallest_effect,
                p_value=p_holm,
                higher_is_better=pair.higher_is_better,
                direction=pair.direction,
            )
        result.append(Comparison(difference, shared, p, p_holm, decision))
    return result


def common_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[int, ...]:
    """Return the seeds for which both arms have a finite value, in order."""
    both = first.keys() & second.keys()
    return tuple(sorted(s for s in both if math.isfinite(first[s]) and math.isfinite(second[s])))


def proportion_interval(num_right: int, num: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion: the sampling error of a finite test set.

    It says how far an accuracy may be from that on new data of the same kind; it knows nothing of
    the spread over seeds.

    Args:
        num_right: successes, in [0, num].
        num: trials, >= 1.
        confidence: coverage in (0, 1); default 0.95.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Raises:
        ValueError: the counts make no proportion.
    """
    from scipy.stats import norm

    if num < 1 or not 0 <= num_right <= num:
        raise ValueError(f"{num_right} of {num} is not a proportion")
    z, share = float(norm.ppf((1 + confidence) / 2)), num_right / num
    scale = 1 + z * z / num
    centre = (share + z * z / (2 * num)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)


class SeededRun(Protocol):
    """What grouping needs of a run: its name, and its settings without the seed."""

    @property
    def name(self) -> str:
        """Label of the arm."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Flat (dotted) settings of the recipe, seeds and output folders left out."""


R = TypeVar("R", bound=SeededRun)


def group_by_arm(runs: Iterable[R]) -> dict[str, list[R]]:
    """Group runs that differ in their seed only; the label of an arm is the runs' name.

    Runs of one name but different settings are different arms: what differs is added to the label
    (``kd (temperature=2)``), so that nothing is averaged silently. Where more than three
    settings differ, the label has as few as tell the arms apart, and an ellipsis.

    Args:
        runs: run records, in the order in which arms should appear.
    """
    by_name: dict[str, dict[str, list[R]]] = {}
    for run in runs:
        key = repr(sorted((name, repr(value)) for name, value in run.settings.items()))
        by_name.setdefault(run.name, {}).setdefault(key, []).append(run)
    arms: dict[str, list[R]] = {}
    for name, variants in by_name.items():
        groups = list(variants.values())
        if len(groups) == 1:
            arms[name] = groups[0]
            continue
        for group, difference in zip(groups, _differences(groups), strict=True):
            label = f"{name} ({difference})"
            arms[label if label not in arms else f"{label} #{len(arms) + 1}"] = group
    return arms


def _differences(groups: Sequence[Sequence[SeededRun]]) -> list[str]:
    """Return for each group the settings in which it differs from some other group, at most 3.

    Where there are more, those that tell most groups apart stand for all: a label is a name.
    """
    settings = [group[0].settings for group in groups]
    keys = sorted(
        key
        for key in set().union(*settings)
        if len({repr(one.get(key, "absent")) for one in settings}) > 1
    )
    shown = keys if len(keys) <= _MOST_IN_A_LABEL else _telling(settings, keys)
    more = ", …" if len(shown) < len(keys) else ""
    short = {key: key.rpartition(".")[2] for key in shown}
    if len(set(short.values())) < len(shown) or any(name.isdecimal() for name in short.values()):
        short = {key: key for key in shown}
    return [
        ", ".join(f"{short[key]}={one.get(key, 'absent')}" for key in shown) + more
        for one in settings
    ]


def _telling(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Return few keys that tell all settings apart: greedily, those that all have first."""

    def worth(key: str) -> tuple[int, bool, int]:
        found = {tuple(repr(one.get(k, "absent")) for k in (*chosen, key)) for one in settings}
        return len(found), all(one.get(key) is not None for one in settings), -len(key)

    chosen: list[str] = []
    while not chosen or worth(chosen[-1])[0] < len(settings):
        chosen.append(max((key for key in keys if key not in chosen), key=worth))
    return chosen


def _t_quantile(freedom: int, confidence: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, freedom))
