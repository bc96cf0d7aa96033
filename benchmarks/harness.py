"""The protocol of every benchmark here: two sides in turn, ratios of pairs, the load told.

Both sides run A B, B A, A B … in one process, after a warm-up. The figure is the median of the
ratios of pairs with a 95 % bootstrap interval over pairs. A machine that is busy with other work
is refused, unless ``--despite-load`` is given; the load is printed either way.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

BUSY = 0.5  # a load average above this share of the cores is somebody else's work


@dataclass(frozen=True)
class Ratio:
    """The outcome of one comparison.

    Attributes:
        name: what was compared.
        ours: the side in the numerator.
        other: the side in the denominator.
        pairs: how many pairs.
        ratio: median of ours / other.
        low: lower end of the 95 % bootstrap interval.
        high: upper end.
        ours_ms: median milliseconds of one run of ours.
        other_ms: median milliseconds of one run of the other.
        bar: what was promised, or "".
    """

    name: str
    ours: str
    other: str
    pairs: int
    ratio: float
    low: float
    high: float
    ours_ms: float
    other_ms: float
    bar: str = ""


def load() -> float:
    """Return the load average of the last minute as a share of the cores."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def compare(
    name: str,
    ours: tuple[str, Callable[[], object]],
    other: tuple[str, Callable[[], object]],
    *,
    pairs: int = 30,
    warmup: int = 3,
    bar: str = "",
    clock: str = "wall",
) -> Ratio:
    """Time both sides in turn, by the "wall" or the "cpu" clock; return ours over the other."""
    for _ in range(warmup):
        ours[1]()
        other[1]()
    times: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            second = timed(other[1], clock)
            first = timed(ours[1], clock)
        else:
            first = timed(ours[1], clock)
            second = timed(other[1], clock)
        times.append((first, second))
    ours_seconds, other_seconds = ([pair[side] for pair in times] for side in (0, 1))
    return ratio_of(name, (ours[0], ours_seconds), (other[0], other_seconds), bar=bar)


def ratio_of(
    name: str, ours: tuple[str, list[float]], other: tuple[str, list[float]], *, bar: str = ""
) -> Ratio:
    """Return the ratio of ours to the other from the seconds of both in the same rounds."""
    ratios = [a / b for a, b in zip(ours[1], other[1], strict=True)]
    low, high = bootstrap(ratios)
    return Ratio(
        name,
        ours[0],
        other[0],
        len(ratios),
        statistics.median(ratios),
        low,
        high,
        1000 * statistics.median(ours[1]),
        1000 * statistics.median(other[1]),
        bar,
    )


def timed(function: Callable[[], object], clock: str = "wall") -> float:
    """Return the seconds that one call takes; by the "cpu" clock, those of this process."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    wait_for_gpu()
    began = now()
    function()
    wait_for_gpu()
    return now() - began


def wait_for_gpu() -> None:
    """Wait for what the GPU was given to do, where this process uses one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def bootstrap(values: list[float], draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def arguments(description: str, *, pairs: int = 30, unit: str = "pairs") -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        f"--{unit}", dest="pairs", type=int, default=pairs, help=f"{unit} of runs (default {pairs})"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--despite-load", action="store_true", help="measure on a busy machine, and say so"
    )
    return parser


def add_clock(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the clock, for sides of one thread."""
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="the wall's clock, or the processor's time for the process, of a machine with other "
        "work (default wall)",
    )


def begin(options: argparse.Namespace) -> None:
    """Print the machine and its load; leave if it is busy."""
    share = load()
    print(f"{platform.machine()}, {os.cpu_count()} cores{_gpu()}, load {share:.0%} of them")
    if share > BUSY and not options.despite_load:
        sys.exit("the machine is busy with other work: wait, or say --despite-load")


def _gpu() -> str:
    """Name the GPU that is used, where there is one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return f", {torch.cuda.get_device_name()}"


def finish(results: list[Ratio], options: argparse.Namespace) -> None:
    """Print the figures, and write them where asked."""
    for r in results:
        bar = f"   promised {r.bar}" if r.bar else ""
        print(
            f"{r.name}: {r.ours} / {r.other} = {r.ratio:.3f} "
            f"[{r.low:.3f}, {r.high:.3f}], {r.pairs} pairs; "
            f"{r.ours_ms:.2f} ms against {r.other_ms:.2f} ms{bar}"
        )
    print(f"load at the end {load():.0%}")
    save([asdict(r) for r in results], options)


def save(figures: object, options: argparse.Namespace) -> None:
    """Write figures where ``--json`` says, if it does."""
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
