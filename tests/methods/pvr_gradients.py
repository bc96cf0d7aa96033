"""Gradients written out in float64, and small networks to take them of."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import DataBundle, bundle_from


def linear(seed: int, *widths: int) -> nn.Module:
    """A float64 network on 6 inputs with 4 outputs; linear without widths."""
    torch.manual_seed(seed)
    sizes = [6, *widths, 4]
    layers: list[nn.Module] = []
    for position, (before, after) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Tanh()] if position else []
        layers.append(nn.Linear(before, after))
    made = nn.Sequential(*layers).double()
    with torch.no_grad():  # as outspoken as a trained network
        for value in made.parameters():
            value.mul_(3)
    return made


def samples(kind: str = "classification", count: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    if kind == "classification":
        return inputs, torch.randint(4, (count,), generator=generator)
    targets = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    return inputs, targets.round() if kind == "multilabel" else targets


def gradients(method: lb.PVR, student: nn.Module, teacher: Any, batch: Any, **more: Any) -> Tensor:
    """The gradient that a loop of one's own sees, flat."""
    distillation = lb.Distillation(student, teacher, method, example=batch, **more)
    student.zero_grad()
    distillation(batch).backward()
    distillation.before_step()
    found = torch.cat([value.grad.flatten() for value in student.parameters()])
    distillation.deploy()
    return found


def as_a_loss(
    kind: str, student: nn.Module, teacher: nn.Module, batch: Any, lam: float, tau: float = 1.0
) -> Tensor:
    """The gradient of (1 - λ) task + λ τ² KL, written out."""
    inputs, targets = batch
    ours, theirs = student(inputs), teacher(inputs).detach()
    if kind == "classification":
        log_p = ours - ours.exp().sum(1, keepdim=True).log()
        task = -log_p[torch.arange(len(targets)), targets].mean()
        p, soft = theirs / tau, ours / tau
        p = p.exp() / p.exp().sum(1, keepdim=True)
        kl = (p * (p.log() - soft + soft.exp().sum(1, keepdim=True).log())).sum(1).mean()
    elif kind == "multilabel":
        p, q = 1 / (1 + (-ours).exp()), 1 / (1 + (-theirs).exp())
        task = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(1).mean()
        kl = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum(1).mean()
    else:
        task = ((ours - targets) ** 2).sum(1).mean()
        kl = ((ours - theirs) ** 2).sum(1).mean()
    loss = (1 - lam) * task + lam * tau**2 * kl
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(student.parameters()))])


def bundle(kind: str = "classification", count: int = 23) -> DataBundle:
    part = samples(kind, count)
    return bundle_from(part, part, part, task=kind, num_classes=4)
