"""The optimisers that nobody compiles: torch's numbers, states and hooks, without its wrappers."""

import functools

import pytest
import torch
from torch import Tensor, nn, optim

from limbeck.kernels import optimizers

CASES = {
    "sgd": (optimizers.SGD, optim.SGD, {"lr": 0.1}),
    "nesterov": (
        optimizers.SGD,
        optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    ),
    "adam": (optimizers.Adam, optim.Adam, {"lr": 0.01, "weight_decay": 1e-2}),
    "adamw": (optimizers.AdamW, optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.95)}),
}


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def _train(network: nn.Module, optimizer: optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 6, generator=generator)
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()


def _equal(ours: nn.Module, theirs: nn.Module) -> bool:
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_as_torchs(case: str) -> None:
    plain, torchs, options = CASES[case]
    ours, theirs = _network(), _network()
    _train(ours, plain(ours.parameters(), **options), 0, 6)
    _train(theirs, torchs(theirs.parameters(), **options), 0, 6)
    assert _equal(ours, theirs)
    assert not _equal(ours, _network())  # it did learn


@pytest.mark.parametrize("case", CASES)
def test_a_state_moves_from_either_to_the_other(case: str) -> None:
    plain, torchs, options = CASES[case]
    whole = _network()
    _train(whole, torchs(whole.parameters(), **options), 0, 6)
    for first, then in ((plain, torchs), (torchs, plain), (plain, plain)):
        network = _network()
        begun = first(network.parameters(), **options)
        _train(network, begun, 0, 3)
        resumed = then(network.parameters(), **{**options, "lr": 9.0})  # the state brings its own
        resumed.load_state_dict(begun.state_dict())
        _train(network, resumed, 3, 6)
        assert _equal(network, whole)


def test_hooks_see_every_step_once() -> None:
    network = _network()
    optimizer = optimizers.SGD(network.parameters(), lr=0.1)
    optim.SGD(_network().parameters(), lr=0.1)  # torch puts its hooks around its own class, too
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    _train(network, optimizer, 0, 2)
    assert seen == ["before", "after"] * 2


def test_a_step_takes_a_closure_and_leaves_no_graph() -> None:
    network = _network()
    optimizer = optimizers.AdamW(network.parameters(), lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = network(torch.ones(4, 6)).square().mean()
        loss.backward()
        return loss

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first
    assert all(p.is_leaf and p.requires_grad for p in network.parameters())
    assert torch.is_grad_enabled()


def test_a_group_that_comes_later_is_stepped_too() -> None:
    network, late = _network(), nn.Parameter(torch.ones(2))
    optimizer = optimizers.SGD(network.parameters(), lr=0.5)
    optimizer.add_param_group({"params": [late], "lr": 0.25})
    late.grad = torch.ones(2)
    optimizer.step()
    assert late.tolist() == [0.75, 0.75]
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        optimizer.add_param_group({"params": [late]})


def test_what_others_put_around_torchs_step_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], optim.SGD.step

    @functools.wraps(real)
    def watched(*args: object) -> object:
        seen.append("step")
        return real(*args)

    monkeypatch.setattr(optim.SGD, "step", watched)
    network = _network()
    _train(network, optimizers.SGD(network.parameters(), lr=0.1), 0, 2)
    assert seen == ["step"] * 2


@pytest.mark.parametrize("kind", [optimizers.SGD, optim.SGD])
def test_a_differentiable_step_keeps_its_graph(kind: type[optim.Optimizer]) -> None:
    rate = torch.tensor(0.5, requires_grad=True)
    weight = torch.ones(2).requires_grad_().clone()
    weight.grad = torch.ones(2) * rate
    kind([weight], lr=0.5, differentiable=True).step()
    weight.sum().backward()
    assert rate.grad == -1.0  # two weights less 0.5 of it


def test_a_scaled_step_is_left_out_where_a_gradient_is_not_finite() -> None:
    network = _network()
    optimizer = optimizers.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.clone() for p in network.parameters()]
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(network(torch.ones(4, 6)).square().mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        same = [torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
        assert all(same) == (factor != 1.0)
