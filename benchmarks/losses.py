"""Divergences over many classes: the fused forms beside peers' forms, our plain ones, the floor.

Value and gradient (forward and backward) of each, in turn in one process. Peers' forms are their
equations in their operations, written here (none of the packages is imported): mdistiller's
``kd_loss``, torchdistill's ``KDLoss`` without its label term, TRL's ``generalized_jsd_loss``.
Memory is what the process has at its peak beyond what it had before, in units of one tensor of
logits. The floor is what no form can do without: the exponentials of both sides, in cache, plus
both inputs read and a new gradient written, in memory. Peers' tensors are given large pages, as
our gradient is, by ``THP_MEM_ALLOC_ENABLE=1`` in the environment: run it both ways.

python -m benchmarks.losses
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Ratio, arguments, begin, compare, finish
from limbeck import functional as lf
from limbeck.kernels.choice import VARIABLE
from limbeck.kernels.pages import empty_like

LARGE, SMALL = (1024, 32_000), (128, 100)
KEPT = 64
Loss = Callable[[Tensor, Tensor], Tensor]


def kl_div(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, p, reduction="batchmean")


def mdistiller(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    log_q = F.log_softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, p, reduction="none").sum(1).mean() * temperature**2


def torchdistill(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    return kl_div(student, teacher, temperature) * temperature**2


def reverse(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(q ‖ p) with ``kl_div``, as TRL has it for beta = 1."""
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum() / len(student)


def trl(student: Tensor, teacher: Tensor, beta: float = 0.5) -> Tensor:
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    sides = torch.stack([log_q + math.log1p(-beta), log_p + math.log(beta)])
    log_m = torch.logsumexp(sides, dim=0)
    to_teacher = F.kl_div(log_m, log_p, reduction="none", log_target=True)
    to_student = F.kl_div(log_m, log_q, reduction="none", log_target=True)
    return (beta * to_teacher + (1 - beta) * to_student).sum() / len(student)


class Kept:
    """The teacher's largest classes and the mass of the rest, kept once."""

    def __init__(self, teacher: Tensor) -> None:
        log_p = torch.cat([rows.log_softmax(-1) for rows in teacher.split(64)])
        self.log_p, self.ids = log_p.topk(KEPT, dim=-1)
        self.tail = torch.log1p(-self.log_p.double().exp().sum(-1)).float()

    def ours(self, student: Tensor, teacher: Tensor) -> Tensor:
        return lf.kl_sparse(student, self.ids, self.log_p, self.tail)

    def gathered(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The same outcomes from a whole row of log-probabilities, as is usual."""
        log_q = F.log_softmax(student, dim=-1).gather(-1, self.ids)
        rest = torch.log1p(-log_q.exp().sum(-1).clamp(max=1 - 1e-6))
        kept = (self.log_p.exp() * (self.log_p - log_q)).sum(-1)
        return (kept + self.tail.exp() * (self.tail - rest)).mean()


def hot(student: Tensor, teacher: Tensor) -> Tensor:
    return lf.kl_divergence(student, teacher, temperature=4.0)


def plain(loss: Loss) -> Loss:
    """Return the loss with the fused forms off."""

    def wrapped(student: Tensor, teacher: Tensor) -> Tensor:
        os.environ[VARIABLE] = "plain"
        try:
            return loss(student, teacher)
        finally:
            del os.environ[VARIABLE]

    return wrapped


def step(loss: Loss, shape: tuple[int, int], weight: float = 1.0) -> Callable[[], object]:
    """Return a call of value and gradient on fixed logits."""
    rng = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(shape, generator=rng) for _ in range(2))
    student.requires_grad_()

    def run() -> object:
        student.grad = None
        value = loss(student, teacher)
        (value if weight == 1 else weight * value).backward()
        return student.grad

    return run


def floor(shape: tuple[int, int], exponentials: int) -> Callable[[], object]:
    """Return the exponentials, in cache, and the bytes, in memory, of one call."""
    student, teacher = torch.randn(shape), torch.randn(shape)
    source, raised = torch.randn(4, shape[1]), torch.empty(4, shape[1])

    def run() -> object:
        for _ in range(exponentials * shape[0] // 4):
            torch.exp(source, out=raised)
        gradient = empty_like(student, student.dtype)
        torch.add(student, teacher if exponentials > 1 else 1, out=gradient)
        return gradient

    return run


def memory(loss: Loss) -> float:
    """Return the bytes at the peak of value and gradient beyond those before (Linux)."""
    run = step(loss, LARGE)  # its own logits, without a gradient from before
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _kilobytes("VmRSS")
    run()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status says nothing of {name}")


def sides() -> list[tuple[str, Loss, str, Loss, str]]:
    """What is held against what: name, our form, the other's name, its form, the bar."""
    kept = Kept(3 * torch.randn(LARGE, generator=torch.Generator().manual_seed(1)))
    kl, jsd, back = lf.kl_divergence, lf.jensen_shannon, lf.reverse_kl
    return [
        ("KL", kl, "kl_div(log_softmax, softmax)", kl_div, "≤ 0.33"),
        ("KL, T = 4", hot, "mdistiller kd_loss", mdistiller, "≤ 0.33"),
        ("KL, T = 4", hot, "torchdistill KDLoss", torchdistill, "≤ 0.33"),
        ("reverse KL", back, "TRL, beta 1", reverse, "≤ 0.33"),
        ("JSD", jsd, "TRL, beta 0.5", trl, "≤ 0.33"),
        ("sparse KL", kept.ours, "log_softmax and gather", kept.gathered, "≤ 0.33"),
        ("KL", kl, "plain, float64", plain(kl), ""),
    ]


def large(pairs: int) -> list[Ratio]:
    """Time and weigh the large logits."""
    results = []
    size = 4 * LARGE[0] * LARGE[1]
    for name, ours, other, theirs, bar in sides():
        left, right = step(ours, LARGE), step(theirs, LARGE)
        # the plain form takes seconds: fewer pairs of it
        number = pairs if "plain" not in other else max(3, pairs // 6)
        title = f"{name} {list(LARGE)}"
        results.append(
            compare(title, ("fused", left), (other, right), pairs=number, warmup=2, bar=bar)
        )
        print(
            f"{title}: memory beyond the logits, in tensors of their size: "
            f"fused {memory(ours) / size:.2f}, {other} {memory(theirs) / size:.2f}",
            flush=True,
        )
    for name, loss, exponentials in (("KL", lf.kl_divergence, 2), ("one-sided", None, 1)):
        least = floor(LARGE, exponentials)
        if loss is not None:
            mine = ("fused", step(loss, LARGE))
            weighted = ("weight 1", step(loss, LARGE))
            results.append(compare(f"{name} {list(LARGE)}", mine, ("floor", least), pairs=pairs))
            scaled = ("weight 0.3", step(loss, LARGE, weight=0.3))
            results.append(compare(f"{name} {list(LARGE)}", scaled, weighted, pairs=pairs))
        else:
            kept = Kept(torch.randn(LARGE))
            mine = ("fused", step(kept.ours, LARGE))
            results.append(compare(f"sparse KL {list(LARGE)}", mine, ("floor", least), pairs=pairs))
    return results


def small(pairs: int) -> list[Ratio]:
    """Hold what is chosen at a small size against the plain form, which it should be."""

    def often(run: Callable[[], object]) -> Callable[[], object]:
        return lambda: [run() for _ in range(50)]

    chosen, eager = step(lf.kl_divergence, SMALL), step(plain(lf.kl_divergence), SMALL)
    sides = ("chosen", often(chosen)), ("plain", often(eager))
    return [compare(f"50 × KL {list(SMALL)}", *sides, pairs=pairs, bar="≤ 1.05")]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    begin(options)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    results = small(options.pairs) + large(options.pairs)
    finish(results, options)


if __name__ == "__main__":
    main()
