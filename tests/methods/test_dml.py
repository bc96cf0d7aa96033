"""DML against loops over pairs of networks, and member by member against a step of its own."""

import math

import pytest
import torch
from method_runs import make_plan
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.engine.asking import members_of
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.methods.dml import DML
from limbeck.taps.outputs import Outputs


def naive_dml(logits: list[torch.Tensor], member: int) -> float:
    """Sum over j ≠ i of KL(p_j ‖ p_i), mean over the batch."""
    total = 0.0
    for j, other in enumerate(logits):
        if j == member:
            continue
        for ours, theirs in zip(logits[member].tolist(), other.tolist(), strict=True):
            log_q = [z - math.log(sum(math.exp(x) for x in ours)) for z in ours]
            log_p = [z - math.log(sum(math.exp(x) for x in theirs)) for z in theirs]
            total += sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True))
    return total / len(logits[0])


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("average", [False, True])
def test_value_is_the_sum_over_peers(count, average):
    logits = [torch.randn(5, 7, dtype=torch.float64) for _ in range(count)]
    for member in range(count):
        peers = tuple(Outputs(z) for i, z in enumerate(logits) if i != member)
        heard = Outputs(torch.zeros(5, 7, dtype=torch.float64), members=peers)
        batch = Batch(inputs=logits[0])
        found = DML(average=average).losses(Outputs(logits[member]), heard, batch, Context())
        expected = naive_dml(logits, member) / (count - 1 if average else 1)
        assert float(found["dml"]) == pytest.approx(expected, rel=1e-10)


def cohort_at_work(count: int, **plan):
    plan = make_plan("dml", wide=True, members=count, **plan)
    parts = assemble(plan, World())
    batch = example_batch(plan, torch.device("cpu"), 12)
    parts.module.train()
    return parts, batch


@pytest.mark.parametrize("count", [2, 3])
def test_one_sum_over_the_members_is_each_members_own_step(count):
    parts, batch = cohort_at_work(count)
    students = members_of(parts.student)
    loss, _ = parts.module(batch, parts.stages[0])
    loss.backward()
    together = [[p.grad.clone() for p in student.parameters()] for student in students]
    for member, student in enumerate(students):
        student.zero_grad()
        logits = [s(batch.inputs) for s in students]
        value = functional.cross_entropy(logits[member], batch.targets)
        for j in range(count):
            if j != member:
                q, p = logits[member].log_softmax(1), logits[j].detach().log_softmax(1)
                value = value + (p.exp() * (p - q)).sum(1).mean()
        own = torch.autograd.grad(value, list(student.parameters()))
        for a, b in zip(together[member], own, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)
    parts.close()


def test_the_logged_term_is_the_mean_over_members():
    parts, batch = cohort_at_work(3)
    parts.module.eval()
    _, terms = parts.module(batch, parts.stages[0])
    logits = [s(batch.inputs).detach() for s in members_of(parts.student)]
    expected = sum(naive_dml(logits, member) for member in range(3)) / 3
    assert float(terms["dml"]) == pytest.approx(expected, rel=1e-10)
    parts.close()


def test_one_network_alone_learns_from_the_labels_only():
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    alone = Outputs(logits)
    value = DML().losses(alone, alone, Batch(inputs=logits), Context())["dml"]
    assert float(value.detach()) == 0
    (slope,) = torch.autograd.grad(value, logits)
    assert not slope.any()


def test_a_cohort_of_one_is_told_so_before_anything_is_trained():
    with pytest.raises(MethodError, match=r"dml: needs at least two students .* got 1"):
        assemble(make_plan("dml", members=1), World())


def test_networks_that_agree_have_nothing_to_learn():
    logits = torch.randn(4, 6)
    peers = Outputs(logits, members=(Outputs(logits.clone()), Outputs(logits.clone())))
    value = DML().losses(Outputs(logits), peers, Batch(inputs=logits), Context())["dml"]
    assert float(value) == 0


def test_peers_are_fixed_for_each_other():
    parts, batch = cohort_at_work(2, task_weight=0.0)
    first, second = members_of(parts.student)
    nn.init.zeros_(second.head.weight)  # the second says the same of everything ...
    nn.init.zeros_(second.head.bias)
    second.requires_grad_(False)
    loss, _ = parts.module(batch, parts.stages[0])
    loss.backward()
    assert all(p.grad is None for p in second.parameters())  # ... and does not learn here,
    assert any(p.grad.abs().max() > 0 for p in first.parameters())  # while the first does
    parts.close()
