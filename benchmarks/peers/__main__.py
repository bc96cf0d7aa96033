"""Limbeck beside its peers: images a second, peak memory, lines.

Every side does the same job (``job.py``) in a process of its own with one thread. They take turns:
one epoch each in every round, evaluation and checkpoints left out, the next round backwards. A
figure is the median of the ratios within rounds, with a 95 % bootstrap interval. Peak memory of the
same side differs by some percent from one start to the next: ``--starts 3`` gives the median of so
many processes, and their range.

The table is made twice: as each side comes, Limbeck with its own settings too; and all sides alike,
in the channels-last layout and with the teacher in bfloat16.

python -m benchmarks.peers --peers FOLDER
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Ratio, add_clock, arguments, begin, load, ratio_of, save
from benchmarks.peers.sides import SIDES, Side, alike
from benchmarks.turns import Absent, Worker, take_turns

TABLES = {"as each comes": SIDES, "channels-last and bfloat16 teacher for all": alike()}
LIVE, CACHED = 1.3, 2.5  # promised, over the best peer


@dataclass(frozen=True)
class Row:
    """What was measured of one side."""

    side: str
    images_per_second: float
    peaks_mib: list[float]
    lines: int
    turns: list[dict[str, float]]


@dataclass(frozen=True)
class Table:
    """What was measured of all sides: rows, and each peer's time over each of Limbeck's."""

    rows: list[Row]
    ratios: list[Ratio]


def measure(name: str, options: argparse.Namespace) -> Table:
    """Start all sides of a table, let them take turns, and compare."""
    wanted = [side for side in TABLES[name] if not options.only or side.script in options.only]
    sides = {side.name: side for side in wanted}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as logs:
        try:
            for number, side in enumerate(wanted):
                try:
                    log = Path(logs) / f"{number}.txt"
                    workers[side.name] = side.start(options.peers, log, options.images)
                except Absent as reason:
                    print(f"left out: {side.name}: {reason}", flush=True)
            take_turns(workers, 1)  # warms up
            turns = take_turns(workers, options.pairs)
            peaks = {side: [worker.memory] for side, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
        for side, found in peaks.items():
            found += [peak_of(sides[side], options, logs) for _ in range(options.starts - 1)]
    seconds = {side: [turn[options.clock] for turn in took] for side, took in turns.items()}
    rows = [
        Row(
            side,
            options.images / statistics.median(t),
            peaks[side],
            sides[side].lines,
            turns[side],
        )
        for side, t in seconds.items()
    ]
    return Table(rows, compared(name, sides, seconds))


def peak_of(side: Side, options: argparse.Namespace, logs: str) -> float:
    """Start a side once more and return its peak memory after as many epochs."""
    worker = side.start(options.peers, Path(logs) / "again.txt", options.images)
    try:
        take_turns({side.name: worker}, 1 + options.pairs)
        return worker.memory
    finally:
        worker.close()


def compared(
    name: str, sides: Mapping[str, Side], seconds: Mapping[str, list[float]]
) -> list[Ratio]:
    """Return each other side's time over Limbeck's, in every round: how many times as fast it is.

    What was promised stands beside the fastest peer that asks its teacher in every epoch.
    """
    others = [side for side in seconds if not sides[side].ours]
    peers = [side for side in others if sides[side].needs != "torchvision"]
    asking = [side for side in peers if not sides[side].keeps]
    best = min(asking, key=lambda side: statistics.median(seconds[side]), default=None)
    found = []
    for ours in (side for side in seconds if sides[side].ours):
        promised = CACHED if sides[ours].keeps else LIVE
        for other in others:
            pair = ((other, seconds[other]), (ours, seconds[ours]))
            found.append(ratio_of(name, *pair, bar=f"≥ {promised}" if other == best else ""))
    return found


def as_markdown(table: Table) -> str:
    """Return the sides, fastest first; and against each other side, how many times as fast."""
    lines = ["| side | images/s | peak MiB | lines |", "|---|---|---|---|"]
    for row in sorted(table.rows, key=lambda row: -row.images_per_second):
        lines.append(
            f"| {row.side} | {row.images_per_second:,.0f} | {spread(row.peaks_mib)} | {row.lines} |"
        )
    ours = list(dict.fromkeys(ratio.other for ratio in table.ratios))
    if not ours:  # one side alone
        return "\n".join(lines)
    over = {(ratio.ours, ratio.other): ratio for ratio in table.ratios}
    lines += ["", f"| times as fast as | {' | '.join(ours)} |", "|---" * (1 + len(ours)) + "|"]
    for other in dict.fromkeys(ratio.ours for ratio in table.ratios):
        cells = [told(over[other, one]) for one in ours]
        lines.append(f"| {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(peaks: list[float]) -> str:
    """Return the median, and the range where there are several."""
    middle = f"{statistics.median(peaks):,.0f}"
    return middle if len(peaks) == 1 else f"{middle} ({min(peaks):,.0f} to {max(peaks):,.0f})"


def told(ratio: Ratio) -> str:
    """Return a ratio with its interval, and what was promised of it."""
    bar = f"; promised {ratio.bar}" if ratio.bar else ""
    return f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]{bar}"


def read() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__ or "", pairs=5, unit="rounds")
    default = os.environ.get("LIMBECK_PEERS")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(default) if default else None,
        help="folder with the peers (default: $LIMBECK_PEERS); see benchmarks/README.md",
    )
    parser.add_argument("--only", nargs="+", default=[], help="sides by script: limbeck timm ...")
    parser.add_argument("--images", type=int, default=384, help="in a turn's epoch (default 384)")
    parser.add_argument("--starts", type=int, default=1, help="processes for memory (default 1)")
    parser.add_argument("--table", choices=TABLES, help="one table instead of both")
    add_clock(parser)
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = read()
    begin(options)
    tables: dict[str, Table] = {}
    texts = []
    for name in [options.table] if options.table else TABLES:
        before = load()
        table = tables[name] = measure(name, options)
        told_load = f"load {before:.0%} to {load():.0%} of the cores"
        head = f"{name}, {options.pairs} rounds, {options.clock} clock, {told_load}"
        texts.append(f"{head}\n\n{as_markdown(table)}\n")
        print(f"\n{texts[-1]}", flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(texts))
    everything: dict[str, Any] = {name: asdict(table) for name, table in tables.items()}
    save(everything, options)


if __name__ == "__main__":
    main()
