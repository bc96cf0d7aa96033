"""Methods beside one that changes the student work on what is trained, on either side of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from method_runs import make_cnn, make_plan, run, same_weights, teacher_network
from torch import Tensor, nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import Assembly, assemble, example_batch
from limbeck.errors import MethodError
from limbeck.integrations import Distillation
from limbeck.methods import as_methods
from limbeck.methods.base import Method, Runtime
from limbeck.methods.card import Card
from limbeck.methods.context import Context
from limbeck.taps import head_of, roles_of, tapping
from limbeck.taps.outputs import Outputs
from limbeck.teachers import LiveTeacher

SIMKD = {"name": "simkd"}
LETKD = {"name": "letkd1", "codewords": 4}
ONE = {"name": "one", "branches": 2}
RESIDUAL = {"name": "residual", "student_epochs": 0}


@contextmanager
def assembled(*methods: Any, **changes: Any) -> Iterator[tuple[Assembly, Batch]]:
    plan = dataclasses.replace(make_plan(*methods), **changes)
    parts = assemble(plan, World())
    parts.module.eval()
    try:
        yield parts, example_batch(plan, torch.device("cpu"), 6)
    finally:
        parts.close()


def terms_of(*methods: Any, **changes: Any) -> Mapping[str, Tensor]:
    with assembled(*methods, **changes) as (parts, batch):
        torch.manual_seed(0)
        terms: Mapping[str, Tensor] = parts.module(batch, parts.stages[0])[1]
        return terms


@pytest.mark.parametrize(
    ("beside", "changing"),
    [
        ("catkd", SIMKD),
        ("srrl", SIMKD),
        pytest.param("fitnet", SIMKD, marks=pytest.mark.slow),
        pytest.param("ofa", SIMKD, marks=pytest.mark.slow),
        pytest.param("at", LETKD, marks=pytest.mark.slow),
        pytest.param("catkd", LETKD, marks=pytest.mark.slow),
        ("catkd", ONE),
        ("fitnet", ONE),
        pytest.param("srrl", ONE, marks=pytest.mark.slow),
        ({"name": "gkd", "tap": "stages.0"}, ONE),
        pytest.param("at", RESIDUAL, marks=pytest.mark.slow),
        pytest.param("srrl", RESIDUAL, marks=pytest.mark.slow),
    ],
    ids=lambda one: one if isinstance(one, str) else one["name"],
)
def test_either_side_is_the_same(beside: Any, changing: Any) -> None:
    wide = {}
    if isinstance(beside, dict):  # gradients are compared at layers of one width
        wide["teachers"] = {"teacher": LiveTeacher(teacher_network(channels=(4, 8)))}
    left = terms_of(beside, changing, task_weight=1.0, **wide)
    right = terms_of(changing, beside, task_weight=1.0, **wide)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-5, atol=1e-6)


def test_class_attention_beside_simkd_is_that_of_the_reused_classifier() -> None:
    with assembled("catkd", SIMKD) as (parts, batch):
        _, terms = parts.module(batch, parts.stages[0])
        teacher = teacher_network()
        maps = []
        for network in (parts.student, teacher):
            with tapping(network, "stages.1", roles={}) as store:
                network(batch.inputs)
            maps.append(torch.einsum("bcyx,kc->bkyx", store["stages.1"], network.head.weight))
        torch.testing.assert_close(parts.student.head.weight, teacher.head.weight)
        torch.testing.assert_close(terms["catkd"], functional.class_attention(*maps))


def test_a_mask_holds_the_parameters_that_are_trained() -> None:
    with assembled("mask", RESIDUAL) as (parts, _):
        trained = {id(value) for value in parts.student.parameters()}
        masked = parts.runtimes[0].masked
        assert masked
        assert all(id(value) in trained for value in masked.values())


def test_a_teacher_of_the_student_as_it_was_is_no_teacher_of_the_changed_one() -> None:
    with pytest.raises(MethodError, match="must be the student's network with other weights"):
        terms_of("pvr", ONE)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_what_was_put_on_last_comes_off_first(order: slice, tmp_path: Any) -> None:
    def make_student() -> nn.Module:
        torch.manual_seed(2)
        network = make_cnn(4, 8)
        network.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 10))
        return network

    methods = [{"name": "gkd", "dropout": "off", "tap": "stages.0"}, ONE][order]
    plan = dataclasses.replace(
        make_plan(*methods, epochs=1),
        make_student=make_student,
        teachers={"teacher": LiveTeacher(teacher_network(channels=(4, 8)))},
    )
    student = run(plan, tmp_path / "run").student
    assert student.head[0].p == 0.3
    again = Distillation(
        make_student(),
        teacher_network(channels=(4, 8)),
        as_methods(methods),
        example=(torch.rand(4, 1, 8, 8), torch.arange(4)),
    ).deploy()
    assert again.head[0].p == 0.3
    assert again.state_dict().keys() == student.state_dict().keys()
    assert not same_weights(again, student)


def test_the_first_branch_is_what_the_roles_of_a_branched_student_name() -> None:
    def plain() -> nn.Module:  # a network that declares no roles
        network = make_cnn(4, 8)
        return nn.Sequential(*network.stages, network.pool, network.head)

    with assembled(ONE, "catkd", make_student=plain, **_taught()) as (parts, _):
        roles = roles_of(parts.student)
        assert roles["stages"] == ["network.0", "network.1"]
        assert head_of(parts.student) is parts.student.network[3]
        assert parts.runtimes[1].student_taps() == (".network.1",)


def _taught() -> dict[str, Any]:
    return {"teachers": {"teacher": LiveTeacher(teacher_network())}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silent(Method):
    """Changes the student, and its card does not say so."""

    name: ClassVar[str] = "silent"
    card: ClassVar[Card] = Card(title="silent", equation="0", teacher_access="none")

    def prepare(self, student: nn.Module, *args: Any) -> Runtime:
        return Runtime(self, nn.Sequential(student))

    def losses(
        self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context
    ) -> dict[str, Tensor]:
        return {}


def test_a_change_that_the_card_does_not_tell_is_refused() -> None:
    with pytest.raises(MethodError, match="method silent: changes the student, and its card does"):
        terms_of("kd", Silent())
