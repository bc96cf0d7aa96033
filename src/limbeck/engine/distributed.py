"""One process or several: what the engine asks of ``torch.distributed``."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its defaults name the process group that there is when it is imported: after joining one it would
# hold on to it for good, and the group's threads would outlive the interpreter, which aborts.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from limbeck.engine.gathering import gather
from limbeck.errors import LimbeckError

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """One process among its siblings.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        device: where it computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of ``tensor`` over all processes; the tensor itself is not changed."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, differentiably; see :func:`gathering.gather`."""
        return tensor if self.size == 1 else gather(tensor, self.rank, self.size)

    def own(self, items: Iterable[Result]) -> Iterator[Result]:
        """Yield what this process alone works on: an error on the way is its own, and says so."""
        try:
            yield from items
        except LimbeckError as error:
            error.alone = self.size > 1
            raise

    def lead(self, work: Callable[[], Result]) -> Result:
        """Let rank 0 do ``work``, and wait for it. Every rank must call it.

        Returns:
            rank 0's result, plain data, on every rank.

        Raises:
            LimbeckError: what rank 0 raised, on every rank, so that none waits for the others.
        """
        if self.size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.leads:
            try:
                box[0] = work()
            except LimbeckError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        result: Result = box[0]
        return result

    def share(self, value: Any) -> Any:
        """Return rank 0's plain value on every rank."""
        return self.lead(lambda: value)

    def align(self, module: nn.Module) -> None:
        """Copy rank 0's buffers (batch statistics) to every rank."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wrap(self, module: nn.Module, *, find_unused: bool) -> nn.Module:
        """Return the module with its gradients averaged over all processes.

        Buffers stay each rank's own during an epoch (memory banks differ on purpose) and are
        aligned before evaluation and checkpoints.
        """
        if self.size == 1:
            return module
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DistributedDataParallel(
            module,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            find_unused_parameters=find_unused,
            **{buffers: False},  # type: ignore[arg-type]
        )


def without_sync(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Skip the exchange of gradients for all micro-batches but the last of a step."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


def pick_device() -> torch.device:
    """Return the device of this process: its GPU where there is one, else the CPU.

    Raises:
        LimbeckError: more processes than GPUs were started on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= count:
        error = LimbeckError(
            f"this process has no GPU: of this machine {count} {'is' if count == 1 else 'are'} "
            f"visible; start with --nproc-per-node={count}, or set CUDA_VISIBLE_DEVICES= to train "
            "on the CPU"
        )
        error.alone = True  # the first process has one, and waits
        raise error
    return torch.device("cuda", place)


@contextmanager
def joined_world() -> Iterator[World]:
    """Join the processes that ``torchrun`` started; a world of one without it.

    The process group is left again at the end where it was joined here, and its threads with it.

    Raises:
        LimbeckError: another process ended in the middle.
    """
    device = pick_device()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World(device=device)
        return
    mine = not dist.is_initialized()
    if mine:
        start_group(device)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        if threading.current_thread() is threading.main_thread():
            # torchrun now ends those that are left; it waits for them to have their say.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise LimbeckError(
            "another process of this job is gone (its own line, if it had one, says why); "
            "`limbeck resume` goes on from the last checkpoint"
        ) from error
    finally:
        if mine:
            gc.collect()  # wrappers that sit in reference cycles still hold the group
            dist.destroy_process_group()


def start_group(device: torch.device) -> None:
    """Make the process group: NCCL for what lies on GPUs, gloo for what lies on the CPU."""
    if device.type == "cpu":
        dist.init_process_group("gloo")
        return
    torch.cuda.set_device(device)  # else every process speaks for the first GPU
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)


def _is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because a process is gone; gloo has no type of error for it."""
    text = str(error)
    signs = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "Socket closed",
    )
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)
