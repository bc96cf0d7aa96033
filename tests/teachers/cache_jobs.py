"""Processes that capture a cache and are killed, and processes that read beside the writer."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from cache_worlds import cached, capture_all, digits, epoch, network, small_shards, visits
from children import let_children_import

from limbeck.teachers import LiveTeacher
from limbeck.teachers.cache import read_manifest
from limbeck.teachers.cache.reader import open_part
from limbeck.teachers.cache.shards import read_header

digits()
LOOK = visits(views=3)


def capture(folder: Path, kill: dict[str, float] | None = None, slow: float = 0.0) -> None:
    """Child process: capture three views, killed after seconds or inside a file operation."""
    torch.set_num_threads(1)
    small_shards()
    if kill and "seconds" in kill:
        timer = threading.Timer(kill["seconds"], os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    if kill and "sync" in kill:
        die_at(int(kill["sync"]))
    capture_all(cached(folder, Slow(network(), slow), look=LOOK))


class Slow(LiveTeacher):
    """Takes its time, so that readers meet the writer at work."""

    def __init__(self, module: torch.nn.Module, seconds: float) -> None:
        super().__init__(module)
        self._seconds = seconds

    def ask(self, batch: Any, **options: Any) -> Any:
        time.sleep(self._seconds)
        return super().ask(batch, **options)


def die_at(number: int) -> None:
    """Die before, within or after the n-th sync or rename, in turn."""
    real_sync, real_replace, done = os.fsync, Path.replace, [0]

    def count() -> None:
        done[0] += 1
        if done[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        count()
        real_sync(descriptor)

    def replace(self: Path, target: Any) -> Path:
        moved = real_replace(self, target)
        count()
        return moved

    os.fsync, Path.replace = fsync, replace  # type: ignore[assignment,method-assign]


def read(folder: Path, finished: Any, result: Any) -> None:
    """Child process: look at whatever is there until the writer is done; report what was wrong."""
    torch.set_num_threads(1)
    live = LiveTeacher(network())
    batches = {view: epoch(digits(), view, views=3)[:2] for view in range(3)}
    answers = {view: [live.ask(batch).logits for batch in found] for view, found in batches.items()}
    places = torch.unique(digits().splits["train"].indices)
    wrong: list[str] = []
    seen: set[int] = set()
    beside = False  # a look at some views while others were still being written
    while True:
        last = finished.is_set()
        for path in folder.glob("view-*/*"):
            hidden = path.name.startswith(".")  # being written
            if not hidden and read_header(path) is None:
                wrong.append(f"{path.name} is not whole")
        if (folder / "manifest.json").exists():
            manifest = read_manifest(folder)
            beside |= 0 < len(manifest.views) < 3
            for view in map(int, manifest.views):
                part = open_part(folder, manifest, view, cached(None).codec)
                for batch, expected in zip(batches[view], answers[view], strict=True):
                    rows = torch.searchsorted(places, batch.index)
                    if not torch.equal(part.gather(rows).logits, expected):
                        wrong.append(f"view {view} differs")
                seen.add(view)
        if last:
            break
    result.put(json.dumps({"wrong": wrong[:3], "seen": sorted(seen), "beside": beside}))


def context() -> Any:
    let_children_import(Path(__file__).parent)
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["cache_jobs"])
    return made


def spawn(folder: Path, kill: dict[str, float] | None = None) -> int:
    """Capture in a process of its own; return its exit code (-9: it was killed)."""
    process = context().Process(target=capture, args=(folder, kill))
    process.start()
    process.join(timeout=120)
    assert process.exitcode is not None, "the capture hangs"
    return process.exitcode
