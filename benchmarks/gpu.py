"""On a GPU: divergences over many classes, and whether the host runs ahead of the device.

Value and gradient of each divergence beside the peers' form (see ``benchmarks.losses``), by the
GPU's own clock, median of 15; and the memory that either makes beside logits and gradient, in
tensors of the logits' size. Then two epochs of KD (ResNet-20 from ResNet-56, 3x96x96, batch 256)
with batches in pinned memory, as the engine has them, and in pageable memory. The other benchmarks
of whole steps (``step``, ``cached``, ``profile``) use the GPU by themselves where there is one.

python -m benchmarks.gpu
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

import limbeck.data.batch
from benchmarks.harness import arguments, begin
from benchmarks.loop import begun, epochs_of
from benchmarks.losses import KEPT, Loss, hot, kl_div, reverse, trl
from benchmarks.step import network
from limbeck import functional as lf
from limbeck.data import TensorSamples, bundle_from
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Schedule, Train
from limbeck.methods import as_methods
from limbeck.teachers import LiveTeacher

SIZES = (
    ((1024, 32_000), torch.bfloat16),
    ((4096, 32_000), torch.float32),
    ((4096, 151_936), torch.bfloat16),
)


def milliseconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Return the median time of a call by the GPU's clock."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
    return sorted(times)[repeats // 2]


def peak(work: Callable[[], object]) -> int:
    """Return the bytes of the GPU's memory that a call takes beyond what was taken."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def kept_sides(teacher: Tensor) -> tuple[Loss, Loss]:
    """Return our divergence from the teacher's largest classes, and the usual one."""
    with torch.no_grad():
        log_p = torch.cat([rows.float().log_softmax(-1) for rows in teacher.split(256)])
        values, ids = log_p.topk(KEPT, -1)
        tail = torch.log1p(-values.double().exp().sum(-1)).float()

    def ours(student: Tensor, _: Tensor) -> Tensor:
        return lf.kl_sparse(student, ids, values, tail)

    def gathered(student: Tensor, _: Tensor) -> Tensor:
        log_q = torch.log_softmax(student.float(), -1).gather(-1, ids)
        rest = torch.log1p(-log_q.exp().sum(-1).clamp(max=1 - 1e-6))
        kept = (values.exp() * (values - log_q)).sum(-1)
        return (kept + tail.exp() * (tail - rest)).mean()

    return ours, gathered


def divergences(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Print the table of one size."""
    draw = torch.Generator(device="cuda").manual_seed(0)
    student, teacher = (
        (3 * torch.randn(shape, device="cuda", generator=draw)).to(dtype) for _ in range(2)
    )
    student.requires_grad_()
    ours, gathered = kept_sides(teacher)
    sides: list[tuple[str, Loss, Loss]] = [
        ("KL", lf.kl_divergence, kl_div),
        ("KL, T = 4", hot, kl_div),
        ("reverse KL", lf.reverse_kl, reverse),
        ("JSD", lf.jensen_shannon, trl),
        (f"sparse KL, {KEPT} kept", ours, gathered),
    ]
    print(f"{list(shape)} {str(dtype).removeprefix('torch.')}")
    for name, mine, other in sides:
        told = []
        for loss in (mine, other):

            def step(loss: Loss = loss) -> None:
                student.grad = None
                (0.5 * loss(student, teacher)).backward()  # type: ignore[no-untyped-call]

            spent = milliseconds(step)  # its gradient is there when memory is looked at
            told.append((spent, peak(step) / student.untyped_storage().nbytes()))
        (ms, room), (peer_ms, peer_room) = told
        print(
            f"  {name}: {ms:.2f} ms and {room:.2f} tensors, "
            f"the usual form {peer_ms:.2f} ms and {peer_room:.2f}",
            flush=True,
        )
    with torch.no_grad():
        spent = milliseconds(lambda: lf.kl_divergence(student, teacher))
    print(f"  KL without a gradient: {spent:.2f} ms")


def ahead(rounds: int = 4) -> None:
    """Print two epochs with batches in pinned and in pageable memory, in turn."""
    shape = (3, 96, 96)
    images = torch.randint(0, 256, (2048, *shape), dtype=torch.uint8)
    samples = TensorSamples(images, torch.arange(len(images)) % 100)
    augment = [{"crop": {"padding": 8}}, "flip"]
    plan = Plan(
        name="ahead",
        data=bundle_from(samples, num_classes=100, augment=augment),
        make_student=lambda: network("resnet20"),
        methods=as_methods("kd"),
        teachers={"teacher": LiveTeacher(network("resnet56"))},
        train=Train(epochs=10_000, batch_size=256, schedule=Schedule(name="constant")),
    )
    once, pinned = epochs_of(begun(plan)), limbeck.data.batch._pinned
    for _ in range(rounds):
        for name, place in (("pinned", pinned), ("pageable", lambda value, device: value)):
            limbeck.data.batch._pinned = place
            once()
            torch.cuda.synchronize()
            began = time.perf_counter()
            once()
            once()
            host = time.perf_counter() - began
            torch.cuda.synchronize()
            whole = time.perf_counter() - began
            print(f"two epochs, {name}: the host {host:.3f} s, all {whole:.3f} s", flush=True)
    limbeck.data.batch._pinned = pinned


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    begin(options)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    for shape, dtype in SIZES:
        divergences(shape, dtype)
    ahead()


if __name__ == "__main__":
    main()
