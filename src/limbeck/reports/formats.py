"""How each metric is called, which direction is better, and how its numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

MINUS = "\u2212"


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        key: its name in summaries and logs.
        label: its name in tables.
        higher_is_better: its direction; None where neither is better.
        unit: ``percent`` (kept as a share in [0, 1]), ``count``, ``flops`` or ``plain``.
        suffix: unit shown beside the label.
    """

    key: str
    label: str
    higher_is_better: bool | None
    unit: Literal["percent", "count", "flops", "plain"] = "plain"
    suffix: str = ""

    @property
    def scale(self) -> float:
        """Factor from the kept value to the shown number."""
        return 100.0 if self.unit == "percent" else 1.0

    @property
    def arrow(self) -> str:
        """``↑`` or ``↓``: where better is; empty where neither is."""
        if self.higher_is_better is None:
            return ""
        return "↑" if self.higher_is_better else "↓"

    @property
    def heading(self) -> str:
        """Label with unit and arrow, for a table's head."""
        unit = f", {self.suffix}" if self.suffix else ""
        return f"{self.label}{unit} {self.arrow}".rstrip()

    @property
    def phrase(self) -> str:
        """The label as it stands inside a sentence: abbreviations keep their capitals."""
        return self.label.lower() if self.label[1:2].islower() else self.label


_KNOWN = (
    Metric("accuracy", "Accuracy", True, "percent", "%"),
    Metric("top5", "Top-5 accuracy", True, "percent", "%"),
    Metric("worst_group_accuracy", "Worst group", True, "percent", "%"),
    Metric("map", "Mean average precision", True, "percent", "%"),
    Metric("f1", "F1", True, "percent", "%"),
    Metric("r2", "R²", True),
    Metric("mse", "Squared error", False),
    Metric("mae", "Absolute error", False),
    Metric("nll", "NLL", False),
    Metric("train_nll", "Training loss", False),
    Metric("train_gradient_cosine", "Cosine of gradients", True),
    Metric("train_gradient_cosine_gain", "Cosine that the teacher adds", True),
    Metric("brier", "Brier", False),
    Metric("ece", "ECE", False, "percent", "%"),
    Metric("ace", "ACE", False),  # over all classes: far below a percent where these are many
    Metric("overconfidence", "Overconfident part of ECE", False, "percent", "%"),
    Metric("confidence", "Mean confidence", None, "percent", "%"),
    Metric("member_accuracy", "Members’ mean accuracy", True, "percent", "%"),
    Metric("disagreement", "Two members differ", None, "percent", "%"),
    Metric("agreement", "Agreement", True, "percent", "%"),
    Metric("label_loyalty", "Label loyalty", True, "percent", "%"),
    Metric("probability_loyalty", "Probability loyalty", True, "percent", "%"),
    Metric("saliency_loyalty", "Saliency loyalty", True),
    Metric("kl_to_teacher", "KL to teacher", False),
    Metric("mse_to_teacher", "Squared distance to teacher", False),
)
_COSTS = (
    Metric("parameters", "Parameters", False, "count"),
    Metric("flops", "FLOPs", False, "flops"),
    Metric("latency_ms", "Latency", False, "plain", "ms"),
)
METRICS: dict[str, Metric] = {metric.key: metric for metric in _KNOWN}
"""Quality metrics, in the order in which tables show them."""
COSTS: dict[str, Metric] = {metric.key: metric for metric in _COSTS}
"""What a student costs."""
PRIMARY = ("accuracy", "map", "f1", "r2", "mse", "mae", "nll")
"""The metric a report is about is the first of these that was measured."""


def metric_of(key: str) -> Metric:
    """Return how ``key`` is shown; an unknown metric is shown as it is, without a direction."""
    return METRICS.get(key) or COSTS.get(key) or Metric(key, key.replace("_", " "), None)


def number(value: float, decimals: int) -> str:
    """Return a number with a real minus sign, or ``–`` where there is none.

    >>> number(-0.04, 1), number(float("nan"), 1)
    ('0.0', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def decimals_for(metric: Metric, value: float, half_width: float = math.nan) -> int:
    """Return how many decimals to show: what the metric asks, and enough for its interval."""
    if metric.unit in ("count", "flops"):
        return 0
    if metric.unit == "percent":
        return 2 if 0 < half_width * metric.scale < 0.05 else 1
    size = max(abs(value), half_width) if math.isfinite(half_width) else abs(value)
    if not math.isfinite(size) or size == 0:
        return 3
    return max(0, min(4, 2 - math.floor(math.log10(size)))) if size >= 0.1 else 4


def show(metric: Metric, value: float | None, half_width: float = math.nan) -> str:
    """Return a value (in its kept unit) as text, ``± half width`` behind it where there is one.

    >>> show(METRICS["accuracy"], 0.9481, 0.0081), show(COSTS["parameters"], 8970)
    ('94.8 ± 0.8', '8,970')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if metric.unit == "flops":
        return short_count(value)
    places = decimals_for(metric, value, half_width)
    text = number(value * metric.scale, places)
    if math.isfinite(half_width):
        text += f" ± {number(half_width * metric.scale, places)}"
    return text


def show_difference(metric: Metric, value: float, half_width: float = math.nan) -> str:
    """Return a difference with its sign and interval.

    >>> show_difference(METRICS["accuracy"], 0.036, 0.008)
    '+3.6 ± 0.8'
    """
    if not math.isfinite(value):
        return "–"
    text = show(metric, value, half_width)
    return text if text.startswith((MINUS, "–")) or value == 0 else f"+{text}"


def short_count(value: float) -> str:
    """Return a large count with a letter.

    >>> short_count(888), short_count(41_320_000)
    ('888', '41.3 M')
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{value:,.0f}"


def ratio(part: float, whole: float) -> str:
    """Return how many times smaller ``part`` is, in words.

    >>> ratio(460, 8970), ratio(9000, 8970), ratio(700, 1000)
    ('1/20', '1.0 times', '70 %')
    """
    if part > whole:
        return f"{part / whole:.1f} times"
    if part * 2 > whole:
        return f"{100 * part / whole:.0f} %"
    times = whole / part
    return f"1/{times:.1f}" if times < 3 else f"1/{times:,.0f}"


def join_words(words: list[str], last: str = "and") -> str:
    """Return words as an enumeration.

    >>> join_words(["a", "b", "c"])
    'a, b and c'
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def count_of(num: int, word: str) -> str:
    """Return ``1 seed``, ``5 seeds``."""
    return f"{num:,} {word}" if num == 1 else f"{num:,} {word}s"
