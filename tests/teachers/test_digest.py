"""Digests: what they must see, and what they must not."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KDTree
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from limbeck.teachers.digest import digest_of_parts, estimator_digest, module_digest


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
