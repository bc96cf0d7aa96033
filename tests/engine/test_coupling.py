"""What a run says of methods that compare samples, where steps are shared; how gradients return."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from five_methods import make_plan, network
from separable_plans import make_separable_plan
from separable_plans import network as plain_network

import limbeck.engine.gathering as gathering
from limbeck.engine.coupling import coupling_text
from limbeck.engine.distributed import World, joined_world
from limbeck.errors import DataError, LimbeckError
from limbeck.methods import as_methods
from limbeck.recipe.summary import describe_plan


def text(*methods, processes=1, accumulate=1, norm=False):
    plan = make_separable_plan("kd", accumulate=accumulate)
    plan = replace(plan, methods=as_methods(list(methods)))
    student = network(4, 8) if norm else plain_network(4, 8)
    return coupling_text(plan, student, processes)


@pytest.mark.parametrize(
    ("methods", "options", "said"),
    [
        (["sp"], {}, None),
        (["kd"], {"processes": 2}, "by 2 processes; the result is that of one, to rounding"),
        (["kd"], {"accumulate": 3}, "by 3 micro-batches; the result is that of one, to rounding"),
        (
            ["kd", "sp"],
            {"processes": 2},
            "by 2 processes; sp compares the samples of a step of all processes",
        ),
        (
            ["sp"],
            {"accumulate": 2},
            "by 2 micro-batches; sp compares the samples of a micro-batch",
        ),
        (
            [{"name": "rkd", "across_ranks": "local"}],
            {"processes": 2, "accumulate": 2},
            "by 2 processes and 2 micro-batches; "
            "rkd compares the samples of a micro-batch within each process",
        ),
        (["crd"], {"processes": 4}, "by 4 processes; crd keeps one bank for all processes"),
        (
            ["crd"],
            {"accumulate": 2},
            "by 2 micro-batches; crd keeps one bank for all samples, brought up to date after "
            "each micro-batch",
        ),
        (
            [{"name": "crd", "negatives": "batch"}],
            {"processes": 2},
            "by 2 processes; crd compares the samples of a step of all processes",
        ),
        (
            ["kd"],
            {"processes": 2, "norm": True},
            "by 2 processes; batch statistics are those of each process's own micro-batch",
        ),
    ],
)
def test_what_is_said(methods, options, said):
    assert text(*methods, **options) == (said and f"each step is shared {said}")


def test_it_stands_in_the_summary_where_it_matters(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    plan = replace(make_plan("kd"), methods=as_methods("sp"))
    assert not any("shared" in line for line in describe_plan(plan))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    lines = describe_plan(plan)
    (line,) = [line for line in lines if "shared" in line]
    assert line.startswith("processes ")
    assert "sp compares the samples of a step of all processes; batch statistics are" in line
    assert any("a process (" in line for line in lines)


def test_the_rows_of_ragged_ranks_are_joined_and_their_gradients_summed(monkeypatch):
    """Three ranks by hand: this one is the second; the collectives are played by a script."""
    others = {0: torch.tensor([[1.0], [2.0]]), 2: torch.tensor([[6.0]])}
    own = torch.tensor([[3.0], [4.0], [5.0]], requires_grad=True)

    def all_gather(into, tensor):
        for rank, place in enumerate(into):
            if tensor.dtype == torch.int64:
                place.fill_(3 if rank == 1 else len(others[rank]))
            elif rank == 1:
                place.copy_(tensor)
            else:
                place.fill_(99.0)
                place[: len(others[rank])] = others[rank]

    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.mul_(3))
    joined = World(rank=1, size=3).gather(own)
    assert joined.flatten().tolist() == [1, 2, 3, 4, 5, 6]
    (joined * torch.arange(6.0)[:, None]).sum().backward()
    assert own.grad.flatten().tolist() == [6, 9, 12]  # 3 x (2, 3, 4)
    assert not World(rank=1, size=3).gather(own.detach()).requires_grad
    with torch.no_grad():
        assert not gathering.gather(own, 1, 3).requires_grad


def test_one_process_has_all_rows():
    rows = torch.ones(2, 3)
    assert World().gather(rows) is rows


def test_an_error_in_what_a_process_alone_works_on_says_so():
    def items():
        yield 1
        raise DataError("spoilt")

    for size in (1, 2):
        with pytest.raises(DataError) as caught:
            list(World(size=size).own(items()))
        assert caught.value.alone == (size == 2)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("[pair.cc:534] Connection closed by peer [::1]:5"), "another process of"),
        (dist.DistBackendError("NCCL"), "another process of this job is gone"),
        (RuntimeError("shape"), None),
    ],
)
def test_a_process_that_is_gone_is_one_line(monkeypatch, error, line):
    monkeypatch.setenv("WORLD_SIZE", "2")
    group = SimpleNamespace(
        is_initialized=lambda: True, get_rank=lambda: 0, get_world_size=lambda: 2
    )
    for name in vars(group):
        monkeypatch.setattr(dist, name, getattr(group, name))
    monkeypatch.setattr("limbeck.engine.distributed.signal.signal", lambda *_: None)
    expected = LimbeckError if line else RuntimeError
    with pytest.raises(expected, match=line or "shape"), joined_world():
        raise error
