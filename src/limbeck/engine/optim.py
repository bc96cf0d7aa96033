"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from limbeck.engine.settings import Optimizer, Schedule
from limbeck.kernels import optimizers


def make_optimizer(settings: Optimizer, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """Build the optimiser over all trainable parameters of ``modules``, each counted once."""
    parameters = {
        id(parameter): parameter
        for module in modules
        for parameter in module.parameters()
        if parameter.requires_grad
    }
    weights = [p for p in parameters.values() if settings.decay_bias_and_norm or p.ndim > 1]
    others = [p for p in parameters.values() if not settings.decay_bias_and_norm and p.ndim <= 1]
    groups: list[dict[str, object]] = [{"params": weights, "weight_decay": settings.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    if settings.name == "sgd":
        return optimizers.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
        )
    cls = optimizers.AdamW if settings.name == "adamw" else optimizers.Adam
    return cls(groups, lr=settings.lr, betas=settings.betas)


def learning_rate(
    settings: Schedule, peak: float, *, progress: float, epochs: int, step: float
) -> float:
    """Return the learning rate of a step.

    Args:
        settings: the schedule.
        peak: the optimiser's ``lr``.
        progress: share of the epochs done before this step, in [0, 1).
        epochs: epochs that the schedule spans.
        step: length of this step in progress, so that a warm-up does not begin with a rate of 0.
    """
    length: float = epochs
    if settings.cycles > 1:  # a training of its own, each
        length, step = epochs / settings.cycles, step * settings.cycles
        done = progress * settings.cycles
        progress = max(0.0, done - math.floor(done + 1e-9))  # the last step's sum may fall short
    warmup = settings.warmup_epochs / length
    if progress < warmup:
        return peak * min(1.0, (progress + step) / warmup)
    if settings.name == "constant":
        return peak
    if settings.name == "multistep":
        shares = [m if m < 1 else m / length for m in settings.milestones]
        return peak * settings.gamma ** sum(progress >= share - 1e-12 for share in shares)
    done = (progress - warmup) / max(1e-12, 1 - warmup)
    curve = 0.5 * (1 + math.cos(math.pi * done)) if settings.name == "cosine" else 1 - done
    return peak * (settings.final + (1 - settings.final) * curve)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
