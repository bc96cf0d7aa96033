"""Digests: what they must see, and what they must not."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KDTree
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from limbeck.teachers.digest import (
    digest_of_parts,
    estimator_digest,
    module_digest,
    rule_digest,
)


class Holder:
    """Stands for an estimator with one attribute."""

    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first):
        self.first = first


def read(value):
    return estimator_digest(Holder(value))[0]


def opaque(value):
    return estimator_digest(Holder(value))[1]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.arange(3), np.arange(3.0)),
        (np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2)),
        (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=object)),
        ([1, [2]], [1, 2]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({1, 2}, {1, 3}),
        (1, True),
        (1.0, 1),
        (1.0, np.nextafter(1.0, 2.0)),
        ("1", 1),
        (np.float32(1), np.float64(1)),
        (Slotted(1), Slotted(2)),
        (Holder(np.zeros(2)), Holder(np.ones(2))),
        (np.tanh.__class__, np.ndarray),
        (torch.zeros(2), torch.ones(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_different_values_have_different_digests(first, second):
    assert read(first) != read(second)
    assert read(first) == read(copy.deepcopy(first))
    assert not opaque(first)


def test_padding_between_fields_does_not_count():
    kind = np.dtype([("a", np.uint8), ("b", np.float64)], align=True)
    first = np.frombuffer(bytes(range(16)) * 2, dtype=kind)
    second = np.zeros(2, dtype=kind)
    second["a"], second["b"] = first["a"], first["b"]
    assert first.tobytes() != second.tobytes()
    assert read(first) == read(second)


def test_sharing_of_equal_parts_does_not_count_and_cycles_end():
    part = [1, 2]
    assert read([part, part]) == read([[1, 2], [1, 2]])
    one, two = Holder(None), Holder(None)
    one.value, two.value = one, two
    assert read(one) == read(two) != read(Holder(None))


def test_what_cannot_be_read_is_named():
    assert opaque(KDTree(np.random.default_rng(0).normal(size=(9, 2)))) == ("KDTree",)
    assert opaque(lambda x: x) == ("function",)
    assert opaque(partial(max, 1)) == ("partial", "builtin_function_or_method") or opaque(
        partial(max, 1)
    )
    assert opaque(FunctionTransformer(lambda x: x)) == ("function",)
    assert not opaque(np.linalg.norm.__class__)
    assert not opaque(np.random.default_rng(0))


def test_threads_and_talk_do_not_count():
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)

    def fitted(**options):
        return RandomForestClassifier(3, random_state=0, **options).fit(inputs, targets)

    assert estimator_digest(fitted()) == estimator_digest(fitted(n_jobs=2))
    assert estimator_digest(fitted()) != estimator_digest(fitted(max_depth=1))


def test_modules_with_a_lambda_have_one_digest_in_every_process():
    def net():
        layer = nn.Linear(2, 2)
        with torch.no_grad():
            layer.weight.fill_(1)
            layer.bias.fill_(0)
        layer.extra_repr = lambda: repr(lambda: None)  # contains an address
        return layer

    assert module_digest(net()) == module_digest(net())


def test_module_tensors_of_every_kind():
    net = nn.Linear(2, 2).bfloat16()
    net.register_buffer("count", torch.tensor(3))
    net.register_buffer("empty", torch.zeros(0))
    net.register_buffer("strided", torch.arange(6.0).reshape(2, 3).t())
    before = module_digest(net)
    net.strided = net.strided.contiguous()
    assert module_digest(net) == before
    net.count.add_(1)
    assert module_digest(net) != before


def test_parts_keep_their_boundaries():
    assert digest_of_parts("ab", "c") != digest_of_parts("a", "bc")
    assert digest_of_parts("a") != digest_of_parts("a", "")


class _Softened(nn.Module):
    def __init__(self, by: int, how: str = "mean", device: str = "cpu") -> None:
        super().__init__()
        self.read, self.by, self.how, self.device = nn.Linear(3, 2), by, how, device
        self.calls, self.seconds, self.seen, self.last = 0, 0.0, [], None
        nn.init.ones_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    @torch.no_grad()
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seconds += 0.5
        self.seen.append(len(rows))
        self.last = "asked"
        return self._finish(self.read(rows))

    def _finish(self, said: torch.Tensor) -> torch.Tensor:
        return said / self.by


def _edited(name: str, method: Callable[..., Any]) -> type[nn.Module]:
    """The same class with another text of a method."""
    kind = type("_Softened", (_Softened,), {name: method, "__module__": __name__})
    kind.__qualname__ = _Softened.__qualname__
    return kind


def test_settings_that_are_not_printed_count_and_what_moves_with_use_does_not() -> None:
    first = module_digest(_Softened(1))
    assert first != module_digest(_Softened(2))
    assert first != module_digest(_Softened(1, "max"))
    assert first == module_digest(_Softened(1, device="cuda"))
    asked = _Softened(1)
    asked(torch.ones(1, 3))
    assert module_digest(asked) == first


def test_the_code_of_forward_and_of_what_it_calls_counts() -> None:
    first = module_digest(_Softened(1))
    assert module_digest(_edited("unused", lambda self: 1)(1)) == first
    decorated = torch.no_grad()(lambda self, rows: self._finish(-self.read(rows)))
    for name, method in {
        "forward": decorated,
        "_finish": lambda self, said: said * self.by,
    }.items():
        assert module_digest(_edited(name, method)(1)) != first, name


def _rule(above: float, name: str = "x", client: object = None) -> Callable[..., Any]:
    calls = 0

    def rule(rows: Any, scale: float = 1.0) -> Any:
        nonlocal calls
        calls += 1
        return (rows > above, name, client, scale)

    return rule


def _around(inner: Callable[..., Any]) -> Callable[..., Any]:
    def rule(rows: Any) -> Any:
        return inner(rows)

    return rule


class _Rule:
    def __init__(self, above: float) -> None:
        self.above, self.calls = above, 0

    def __call__(self, rows: Any) -> Any:
        self.calls += 1
        return rows > self.above


def test_rules_that_hold_other_values_have_other_digests() -> None:
    assert rule_digest(_rule(1.0)) == rule_digest(_rule(1.0))
    assert rule_digest(_rule(1.0)) != rule_digest(_rule(2.0))
    assert rule_digest(_rule(1.0, client=object())) == rule_digest(_rule(1.0, client=object()))
    assert rule_digest(lambda rows: rows) != rule_digest(lambda rows: -rows)
    assert rule_digest(_around(_rule(1.0))) == rule_digest(_around(_rule(1.0)))
    assert rule_digest(_around(_rule(1.0))) != rule_digest(_around(_rule(2.0)))
    part = partial(_rule(1.0), scale=2.0)
    assert rule_digest(part) != rule_digest(partial(_rule(1.0), scale=3.0))


def test_a_rule_has_the_same_digest_after_it_was_used() -> None:
    for make in (lambda: _rule(1.0), lambda: _Rule(1.0), lambda: _Rule(1.0).__call__):
        used = make()
        before = rule_digest(used)
        used(0)
        assert rule_digest(used) == before == rule_digest(make())
    assert rule_digest(_Rule(1.0)) != rule_digest(_Rule(2.0))
    assert rule_digest(_Rule(1.0).__call__) != rule_digest(_Rule(2.0).__call__)


def test_rules_without_code_or_with_an_empty_cell_have_a_digest() -> None:
    def early() -> Any:
        return late

    assert rule_digest(early)
    late = 1
    for rule in (len, np.tanh, torch.relu, nn.Linear, partial(partial(len))):
        assert rule_digest(rule)
