"""What an export says when it is done: one line of check, one small table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.export.check import CLOSE, TOLERANCE


def summary_lines(facts: Mapping[str, Any], place: Path) -> list[str]:
    """Return the lines that end an export."""
    lines = [check_line(facts), *table(facts)]
    if facts["to"] == "int8":
        lines.append(cost_line(facts["check"]))
    return [*lines, f"written: {place / facts['file']}"]


def check_line(facts: Mapping[str, Any]) -> str:
    """Return how far the export's outputs are from the student's."""
    check = facts["check"]
    allowed = f", at most {TOLERANCE:g} is allowed" if facts["to"] != "int8" else ""
    line = (
        f"checked on {check['samples']:,} {check['part']} samples: outputs differ by at most "
        f"{check['max_difference']:.3g} ({check['relative_difference']:.2g} of the largest output "
        f"{check['scale']:.4g}{allowed})"
    )
    if check["agreement"] is not None:
        line += f"; {100 * check['agreement']:.2f} % of predictions agree"
    return line


def table(facts: Mapping[str, Any]) -> list[str]:
    """Return sizes, the main metric and latencies, before and after."""
    check, latency = facts["check"], facts["latency"]
    metric = [check["metric"]] if check["metric"] else []
    sizes = [f"ms, batch {size}" for size in latency["ms"]]
    rows = [["", *metric, "size", *sizes, "runs in"]]
    for name, label in (("before", "student"), ("after", facts["to"])):
        scores = [f"{check[name]:.4f}"] if metric else []
        times = [f"{each[name]:.3g}" for each in latency["ms"].values()]
        runtime = "torch" if name == "before" else facts["runtime"]
        where = f"{runtime}, {threads(latency)}"
        rows.append([label, *scores, size_of(facts["bytes"][name]), *times, where])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def cost_line(check: Mapping[str, Any]) -> str:
    """Return what 8 bits cost in the main metric, and whether that is more than a point."""
    if not check["metric"]:
        return "int8: the samples have no labels, so what it costs is not known"
    lost = 100 * (check["before"] - check["after"])
    if lost > 100 * CLOSE:
        return (
            f"warning: int8 costs {lost:.2f} points of {check['metric']}, more than "
            f"{100 * CLOSE:g}: try more --calibration samples, or export to onnx in float32"
        )
    if not lost:
        return f"int8 keeps the {check['metric']}"
    word = "costs" if lost > 0 else "gains"
    return f"int8 {word} {abs(lost):.2f} points of {check['metric']}"


def threads(latency: Mapping[str, Any]) -> str:
    """Return how many threads latencies were measured with."""
    return f"{latency['threads']} thread{'s' * (latency['threads'] != 1)}"


def size_of(num_bytes: int) -> str:
    """Return a size for people, in powers of ten.

    >>> size_of(376_280)
    '376 kB'
    """
    if num_bytes < 1_000_000:
        return f"{num_bytes / 1000:.3g} kB"
    return f"{num_bytes / 1e6:.3g} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.3g} GB"
