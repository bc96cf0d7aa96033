"""A masked student: which weights live, and that the others stay dead whatever happens."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from method_runs import log_of, make_plan, run
from torch import nn

import limbeck as lb
from limbeck.data import load_data
from limbeck.engine.settings import Optimizer
from limbeck.errors import MethodError
from limbeck.models import build_model


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4)).double()


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(9, 6, generator=generator).double(), torch.arange(9) % 4


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9, 1.0])
def test_the_largest_weights_of_each_layer_live(keep):
    student = network()
    before = copy.deepcopy(student)
    lb.Distillation(student, None, lb.Mask(keep=keep), example=samples())
    for name in ("0.weight", "3.weight"):
        old, new = before.get_parameter(name), student.get_parameter(name)
        sizes = sorted((abs(float(value)) for value in old.detach().flatten()), reverse=True)
        count = -int(-keep * len(sizes) // 1)
        least = sizes[count - 1]
        wanted = torch.where(old.abs() >= least, old, 0.0)
        assert torch.equal(new, wanted)
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        assert torch.equal(before.get_parameter(name), student.get_parameter(name))


def test_bernoulli_keeps_a_share_and_is_drawn_from_the_seed():
    def alive(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        wide = nn.Linear(200, 50)
        example = (torch.randn(2, 200), torch.tensor([0, 1]))
        method = lb.Mask(keep=0.3, choose="bernoulli")
        lb.Distillation(wide, None, method, example=example, seed=seed)
        return wide.weight != 0

    assert alive(1).double().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(alive(1), alive(1))
    assert not torch.equal(alive(1), alive(2))


def test_the_step_is_the_compressed_one_of_the_paper():
    """x <- m ⊙ (x - γ g), written out."""
    student = network()
    batch = samples()
    distillation = lb.Distillation(student, None, lb.Mask(keep=0.4), example=batch)
    reference = copy.deepcopy(student)
    masks = {n: (p != 0) | (p.dim() == 1) for n, p in reference.named_parameters()}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        distillation(batch).backward()
        distillation.before_step()
        optimizer.step()
        distillation.after_step()
        loss = nn.functional.cross_entropy(reference(batch[0]), batch[1])
        slopes = torch.autograd.grad(loss, list(reference.parameters()))
        with torch.no_grad():
            for (name, value), slope in zip(reference.named_parameters(), slopes, strict=True):
                value.copy_(masks[name] * (value - 0.5 * slope))
    for ours, theirs in zip(student.parameters(), reference.parameters(), strict=True):
        assert (ours - theirs).abs().max() <= 1e-12


@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(lr=0.05, momentum=0.9, weight_decay=0.01),
        Optimizer(name="adamw", lr=0.01, weight_decay=0.1),
    ],
    ids=["momentum", "adamw"],
)
def test_dead_weights_stay_dead_in_a_whole_run(optimizer, tmp_path):
    def network() -> nn.Module:
        return build_model("mlp", num_classes=10, input_shape=(1, 8, 8), widths=[12])

    plan = make_plan(
        "plain",
        lb.Mask(keep=0.25),
        data=load_data("digits", num_train=96),
        optimizer=optimizer,
        accumulate=2,
        clip_norm=0.5,
        ema=0.9,
        deploy="ema",
    )
    done = run(dataclasses.replace(plan, make_student=network), tmp_path / "run")
    for name, value in done.student.named_parameters():
        if value.dim() > 1:
            alive = (value != 0).double().mean().item()
            assert alive == pytest.approx(0.25, abs=0.01), name
    assert log_of(tmp_path / "run", "epoch")[-1]["mask/alive"] == pytest.approx(0.25, abs=0.01)


def test_it_holds_beside_the_control_variate():
    student = network()
    distillation = lb.Distillation(
        student, network(1), lb.PVR(weight=0.5) + lb.Mask(keep=0.4), example=samples()
    )
    distillation(samples()).backward()
    distillation.before_step()
    dead = student.get_parameter("0.weight") == 0
    assert dead.sum() == 18
    assert bool((student.get_parameter("0.weight").grad[dead] == 0).all())


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"keep": 0.0}, r"method.keep: expected a share in \(0, 1\], got 0.0 \(mask\)"),
        ({"keep": 1.5}, r"method.keep: expected a share"),
        ({"choose": "random"}, r"method.choose: expected magnitude or bernoulli, got 'random'"),
        ({"weight": 0.5}, r"method.weight: expected 1, as there is nothing to weigh, got 0.5"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], line: str):
    with pytest.raises(MethodError, match=line):
        lb.Mask(**values)
