"""The inside of an epoch: nothing per sample in Python, no number read from a device."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.data import bundle_from
from limbeck.engine.distiller import Distiller
from limbeck.engine.distributed import World
from limbeck.engine.logbook import Console
from limbeck.engine.measuring import Judge
from limbeck.engine.plan import Plan
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.settings import Schedule, Train
from limbeck.engine.setup import assemble
from limbeck.methods import as_methods
from limbeck.models import build_model
from limbeck.teachers import CachedTeacher, LiveTeacher

STEPS = 4
AUGMENT = [{"crop": {"padding": 2}}, "flip"]


class Reads(TorchDispatchMode):
    """Counts how often a tensor is turned into a Python number."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@contextmanager
def epoch_of(folder: Path, batch: int, cached: bool = False) -> Iterator[Callable[[], None]]:
    """Give an epoch of ``STEPS`` steps, warm: what is set up once is set up."""
    images = torch.randint(0, 256, (STEPS * batch, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(len(images)) % 10
    few = (images[:20], labels[:20])
    data = bundle_from((images, labels), few, few, num_classes=10, augment=AUGMENT)
    teacher: Any = LiveTeacher(build_model("cnn", num_classes=10, input_shape=(1, 8, 8)))
    if cached:
        teacher = CachedTeacher(teacher, folder / "cache")
    plan = Plan(
        name="epoch",
        data=data,
        make_student=lambda: build_model("mlp", num_classes=10, input_shape=(1, 8, 8)),
        methods=as_methods("kd"),
        teachers={"teacher": teacher},
        train=Train(
            epochs=100,
            batch_size=batch,
            views=1,
            log_every=1000,
            schedule=Schedule(name="constant"),
        ),
    )
    world = World()
    parts = assemble(plan, world)
    run_folder = RunFolder(folder / f"run-{batch}")
    run_folder.create({}, "epoch")
    run = Distiller(
        plan, run_folder, world, Console(1, quiet=True), parts, Judge(plan, parts, world)
    )
    run.enter_stage()

    def epoch() -> None:
        run._train_epoch()
        run.position.epoch += 1
        run.position.step_in_epoch = 0

    try:
        epoch()
        yield epoch
    finally:
        run.close()


def python_calls(work: Callable[[], None]) -> int:
    """Count the calls of functions, Python's and C's, that the work makes.

    The least of three: a collection of earlier tests' garbage may fall into any of them.
    """
    return min(_calls_of(work) for _ in range(3))


def _calls_of(work: Callable[[], None]) -> int:
    count = 0

    def see(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("cached", [False, True])
def test_python_does_as_much_for_a_large_batch_as_for_a_small_one(
    tmp_path: Path, cached: bool
) -> None:
    counts = []
    for batch in (8, 128):
        with epoch_of(tmp_path / str(batch), batch, cached) as epoch:
            counts.append(python_calls(epoch))
    assert abs(counts[1] - counts[0]) < 2 * STEPS, "a call more a sample would be hundreds a step"


def test_on_a_gpu_no_step_between_two_lines_of_the_log_would_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_KERNELS", "plain")  # the direct form looks at numbers on a CPU only
    with epoch_of(tmp_path / "cpu", 16) as epoch, Reads() as reads:
        epoch()
    assert reads.count == STEPS  # on a CPU each loss is looked at: it costs nothing there
    monkeypatch.setattr(Distiller, "_refuse_useless", lambda *_: None)  # a GPU's: see its docstring
    with epoch_of(tmp_path / "gpu", 16) as epoch, Reads() as reads:
        epoch()
    assert reads.count == 0
