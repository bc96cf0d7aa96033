"""Limbeck beside its peers: images a second, peak memory, lines.

Every side does the same job (``job.py``) in a process of its own with one thread. They take turns:
one epoch each in every round, evaluation and checkpoints left out, the next round backwards. A
figure is the median of the ratios within rounds, with a 95 % bootstrap interval.

The table is made twice: as each side comes, and with the channels-last layout for all.

python -m benchmarks.peers --peers FOLDER
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Ratio, arguments, begin, load, ratio_of, save
from benchmarks.peers.sides import SIDES, Side
from benchmarks.turns import Absent, Worker, take_turns

IMAGES = 512  # a turn: one epoch of these
LAYOUTS = {"default layout": False, "channels-last for all": True}
LIVE, CACHED = 1.3, 2.5  # promised, over the best peer


@dataclass(frozen=True)
class Row:
    """What was measured of one side."""

    side: str
    layout: str
    images_per_second: float
    peak_mib: float
    lines: int
    seconds: list[float]


@dataclass(frozen=True)
class Table:
    """One layout: rows, and Limbeck's times over each other side's."""

    rows: list[Row]
    ratios: list[Ratio]


def measure(layout: str, names: list[str], folder: Path | None, rounds: int) -> Table:
    """Start all sides, let them take turns, and compare."""
    workers: dict[str, Worker] = {}
    sides = {side.name: side for side in SIDES if not names or side.script in names}
    with tempfile.TemporaryDirectory() as logs:
        try:
            for number, side in enumerate(sides.values()):
                try:
                    log = Path(logs) / f"{number}.txt"
                    workers[side.name] = side.start(folder, LAYOUTS[layout], log)
                except Absent as reason:
                    print(f"left out: {side.name}: {reason}")
            take_turns(workers, 1)  # warms up
            seconds = take_turns(workers, rounds)
            memory = {name: worker.memory for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    rows = [
        Row(name, layout, IMAGES / statistics.median(t), memory[name], sides[name].lines, t)
        for name, t in seconds.items()
    ]
    return Table(rows, compared(layout, sides, seconds))


def compared(layout: str, sides: dict[str, Side], seconds: dict[str, list[float]]) -> list[Ratio]:
    """Return each peer's time over Limbeck's, in every round: how many times as fast we are."""
    peers = [name for name in seconds if not sides[name].ours and sides[name].script != "plain"]
    asking = [name for name in peers if not sides[name].keeps]
    best = min(asking, key=lambda name: statistics.median(seconds[name]), default=None)
    found = []
    for ours in (name for name in seconds if sides[name].ours):
        promised = CACHED if sides[ours].keeps else LIVE
        for other in (name for name in seconds if not sides[name].ours):
            bar = f"≥ {promised}" if other == best else ""
            pair = ((other, seconds[other]), (ours, seconds[ours]))
            found.append(ratio_of(layout, *pair, bar=bar))
    return found


def as_markdown(table: Table, best_of: str = "") -> str:
    """Return the table of a layout: the ratio is Limbeck's images a second over the side's."""
    over: dict[tuple[str, str], Ratio] = {(r.ours, r.other): r for r in table.ratios}
    ours = list(dict.fromkeys(r.other for r in table.ratios))
    head = ["side", "images/s", *(f"{name}: times as fast" for name in ours), "peak MiB", "lines"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in sorted(table.rows, key=lambda row: -row.images_per_second):
        cells = [told(over.get((row.side, name))) for name in ours]
        figures = [f"{row.images_per_second:,.0f}", *cells, f"{row.peak_mib:,.0f}", str(row.lines)]
        lines.append(f"| {' | '.join([row.side, *figures])} |")
    return "\n".join(lines)


def told(ratio: Ratio | None) -> str:
    """Return a ratio with its interval, and what was promised of it."""
    if ratio is None:
        return ""
    bar = f" (bar {ratio.bar})" if ratio.bar else ""
    return f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]{bar}"


def read() -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__ or "", pairs=7, unit="rounds")
    default = os.environ.get("LIMBECK_PEERS")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(default) if default else None,
        help="folder with the peers (default: $LIMBECK_PEERS); see benchmarks/README.md",
    )
    parser.add_argument("--only", nargs="+", default=[], help="sides by script: limbeck timm ...")
    parser.add_argument("--layout", choices=LAYOUTS, help="one layout instead of both")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = read()
    begin(options)
    tables: dict[str, Table] = {}
    texts = []
    for layout in [options.layout] if options.layout else LAYOUTS:
        before = load()
        table = tables[layout] = measure(layout, options.only, options.peers, options.pairs)
        told_load = f"load {before:.0%} to {load():.0%} of the cores"
        texts.append(f"{layout}, {options.pairs} rounds, {told_load}\n\n{as_markdown(table)}\n")
        print(f"\n{texts[-1]}")
    if options.markdown:
        options.markdown.write_text("\n".join(texts))
    everything: dict[str, Any] = {layout: asdict(table) for layout, table in tables.items()}
    save(everything, options)


if __name__ == "__main__":
    main()
