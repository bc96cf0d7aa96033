"""Where the time of an epoch goes: loader, augmentation, student, teacher, loss, the rest.

Every part of the Distiller's own loop is clocked, its inner parts taken out, over some epochs of KD
with the teacher live and from a warm cache: wall time, and how much of it the processor worked.
Evaluation and checkpoints are left out. ``--operators`` adds torch's own profile.

python -m benchmarks.profile
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cached import VIEWS, Pair, pairs, plan_of
from benchmarks.harness import add_clock, arguments, begin, load, save
from benchmarks.loop import begun, epochs_of
from limbeck.data.augment import Augment
from limbeck.engine.distiller import Distiller
from limbeck.teachers import CachedTeacher, LiveTeacher, Teacher

PARTS = (
    "loader",
    "augmentation",
    "student forward",
    "teacher",
    "loss",
    "backward",
    "optimiser",
    "checks",
    "logging",
    "seeds",
    "the rest",
)


@dataclass
class Spent:
    """Seconds by part, each without what its inner parts took: by the wall, and of the CPU."""

    wall: dict[str, float]
    cpu: dict[str, float]


class Clock:
    """Adds up what each part takes; parts may lie within each other."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.spent = Spent(defaultdict(float), defaultdict(float))
        self._open = ["the rest"]
        self._since = (time.perf_counter(), time.process_time())

    def switch(self) -> None:
        """Give what went by since the last switch to the part that is open."""
        now = (time.perf_counter(), time.process_time())
        self.spent.wall[self._open[-1]] += now[0] - self._since[0]
        self.spent.cpu[self._open[-1]] += now[1] - self._since[1]
        self._since = now

    def clocked(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time given to a part."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self._open.pop()

        return run

    def put(self, owner: Any, name: str, part: str) -> None:
        """Clock a method of an object or class."""
        setattr(owner, name, self.clocked(part, getattr(owner, name)))


def clock_loop(clock: Clock, run: Distiller) -> None:
    """Put the clock on every part of a run's loop."""
    step = run.parts.module
    clock.put(run, "_seed", "seeds")
    clock.put(run, "_refuse_useless", "checks")
    clock.put(run.console, "step", "logging")
    for name in ("add", "flush", "write_timing"):
        clock.put(run.logbook, name, "logging")
    for name in ("step", "zero_grad"):
        clock.put(run.optimizer, name, "optimiser")
    for teacher in run.parts.teachers.values():
        clock.put(teacher, "ask", "teacher")
    clock.put(step, "_voice", "student forward")
    clock.put(run, "wrapped", "loss")  # what is left of it: both models are clocked within
    found = run._batches

    def batches() -> Iterator[Any]:
        source = found()
        following = clock.clocked("loader", lambda: next(source, None))
        while (batch := following()) is not None:
            yield batch

    run._batches = batches  # type: ignore[method-assign]


@dataclass(frozen=True)
class Profile:
    """What an epoch of one training is made of.

    Attributes:
        name: the training.
        steps: steps measured.
        step_ms: milliseconds of a step, all parts together.
        shares: of each part, in the order of ``PARTS``.
        working: share of each part's time in which the processor worked for this process.
        waits: times a step that the host reads a number of a tensor's.
    """

    name: str
    steps: int
    step_ms: float
    shares: dict[str, float]
    working: dict[str, float]
    waits: float


def profile(
    clock: Clock,
    name: str,
    pair: Pair,
    teacher: Teacher | None,
    epochs: int,
    by: str = "wall",
    **train: Any,
) -> Profile:
    """Train some epochs after as many as there are views, and return where their time went."""
    run = begun(plan_of(pair, "plain" if teacher is None else "kd", teacher, **train))
    once = epochs_of(run)
    for _ in range(VIEWS):
        once()
    waits = host_reads(once) / (run.position.step / run.position.epoch)
    clock_loop(clock, run)
    before = run.position.step
    clock.reset()
    for _ in range(epochs):
        once()
    clock.switch()
    steps, wall, cpu = run.position.step - before, clock.spent.wall, clock.spent.cpu
    run.close()
    spent = cpu if by == "cpu" else wall
    total = sum(spent.values())
    return Profile(
        name,
        steps,
        1000 * total / steps,
        {part: spent[part] / total for part in PARTS if spent[part]},
        {part: min(1.0, cpu[part] / wall[part]) for part in PARTS if wall[part]},
        waits,
    )


def host_reads(work: Callable[[], object]) -> float:
    """Count how often the host asks for a number that a device may still be computing."""
    with Reads() as reads:
        work()
    return reads.count


class Reads(TorchDispatchMode):
    """Counts ``item()`` and whatever else turns a tensor into a Python number."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def as_markdown(profiles: list[Profile]) -> str:
    """Return a table: a column for each training, a row for each part."""
    head = ["part", *(found.name for found in profiles)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for part in PARTS:
        shares = [found.shares.get(part) for found in profiles]
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        lines.append(f"| {' | '.join([part, *cells])} |")
    for label, cells in (
        ("ms a step", [f"{found.step_ms:.1f}" for found in profiles]),
        ("numbers read a step", [f"{found.waits:.1f}" for found in profiles]),
    ):
        lines.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(lines)


def operators(pair: Pair, teacher: Teacher) -> str:
    """Return torch's own profile of an epoch, by the operators' own time."""
    once = epochs_of(begun(plan_of(pair, "kd", teacher)))
    once()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        once()
    return str(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "", pairs=5, unit="epochs")
    parser.add_argument("--channels-last", action="store_true", help="in that layout")
    add_clock(parser)
    parser.add_argument("--operators", action="store_true", help="also torch's own profile")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    begin(options)
    torch.set_num_threads(1)
    clock = Clock()
    clock.put(Augment, "__call__", "augmentation")
    clock.put(torch.Tensor, "backward", "backward")
    profiles = []
    layout = {"channels_last": options.channels_last}
    with tempfile.TemporaryDirectory() as folder:
        for number, pair in enumerate(pairs()):
            teachers = {
                "none": None,
                "live": LiveTeacher(pair.network(pair.teacher), **layout),
                "cached": CachedTeacher(
                    LiveTeacher(pair.network(pair.teacher), **layout), Path(folder) / str(number)
                ),
            }
            for kind, teacher in teachers.items():
                name = f"{pair.name}: {kind}"
                told = (clock, name, pair, teacher, options.pairs, options.clock)
                profiles.append(profile(*told, **layout))
            if options.operators:
                print(operators(pair, LiveTeacher(pair.network(pair.teacher), **layout)))
    table = as_markdown(profiles)
    print(f"{table}\n\nload at the end {load():.0%}")
    if options.markdown:
        options.markdown.write_text(table + "\n")
    save([asdict(found) for found in profiles], options)


if __name__ == "__main__":
    main()
