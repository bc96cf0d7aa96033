"""Methods add up; a number scales what they teach; what cannot stand together is refused."""

import pytest
import torch
from method_runs import make_plan

from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError
from limbeck.methods import all_methods, as_methods, default_task_weight, make_method
from limbeck.methods.base import Method
from limbeck.methods.card import Card
from limbeck.methods.compose import MethodSum
from limbeck.methods.dml import DML
from limbeck.methods.e2kd import E2KD
from limbeck.methods.fitnet import FitNet
from limbeck.methods.kcd import KCD
from limbeck.methods.kd import KD
from limbeck.methods.label_smoothing import LabelSmoothing
from limbeck.methods.plain import Plain
from limbeck.methods.registry import register_method


def test_a_number_scales_the_weight_from_both_sides():
    assert 2 * KD() == KD() * 2 == KD(weight=1.8)
    assert 0.5 * (2 * KD()) == KD()
    assert 3 * KD(temperature=2, teacher="big") == KD(weight=2.7, temperature=2, teacher="big")


def test_methods_are_values():
    assert len({KD(), KD(), KD(temperature=2.0)}) == 2
    with pytest.raises(AttributeError):
        KD().temperature = 3.0


def test_sums_keep_their_order_and_are_flat():
    total = KD() + KCD() + FitNet()
    assert [m.name for m in total] == ["kd", "kcd", "fitnet"]
    assert KD() + (KCD() + FitNet()) == total
    assert len(total) == 3
    assert (KD() + KCD()) + FitNet() == MethodSum((KD(), KCD(), FitNet()))


def test_a_number_scales_every_method_of_a_sum():
    assert 2 * (KD() + FitNet()) == 2 * KD() + 2 * FitNet() == (KD() + FitNet()) * 2


def test_the_leftmost_decides_the_task_weight():
    def weight(*methods: Method) -> float:
        return default_task_weight(methods)

    assert weight(KD(), FitNet()) == 0.1
    assert weight(FitNet(), KD()) == 1.0
    assert weight(E2KD(), KD()) == 0.0
    assert weight(Plain()) == weight(DML()) == weight(LabelSmoothing()) == 1.0
    assert weight() == 1.0


def test_the_task_weight_of_a_run_is_that_or_what_is_said():
    for methods, said, expected in (
        (["kd", "fitnet"], None, 0.1), (["fitnet", "kd"], None, 1.0), (["kd"], 0.7, 0.7),
    ):  # fmt: skip
        parts = assemble(make_plan(*methods, task_weight=said), World())
        assert parts.task_weight == expected
        parts.close()


def test_the_loss_of_a_sum_is_the_weighted_sum_and_one_task_term():
    plan = make_plan(KD(weight=0.3), FitNet(weight=7.0), wide=True, task_weight=0.5)
    parts = assemble(plan, World())
    parts.module.double().eval()
    loss, terms = parts.module(example_batch(plan, torch.device("cpu"), 16), parts.stages[0])
    assert set(terms) - {"loss"} == {"task", "kd", "fitnet"}
    expected = 0.5 * terms["task"] + 0.3 * terms["kd"] + 7 * terms["fitnet"]
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-12)
    parts.close()


def test_doubling_a_method_doubles_its_gradient_and_not_the_tasks():
    def slope(method: Method, weight: float) -> torch.Tensor:
        plan = make_plan(method, wide=True, task_weight=weight)
        parts = assemble(plan, World())
        parts.module.eval()
        loss, _ = parts.module(example_batch(plan, torch.device("cpu"), 16), parts.stages[0])
        (found,) = torch.autograd.grad(loss, parts.student.head.weight)
        parts.close()
        return found

    task = slope(KD(weight=0.0), 1.0)
    torch.testing.assert_close(slope(2 * KD(), 1.0) - task, 2 * (slope(KD(), 1.0) - task))


class OtherSupervision(LabelSmoothing):
    """A second method that redefines supervision."""

    name = "other_supervision"


def test_two_owners_of_the_task_term_are_refused():
    with pytest.raises(MethodError, match="label_smoothing and other_supervision both redefine"):
        LabelSmoothing() + OtherSupervision()


def test_the_same_method_twice_needs_two_teachers():
    with pytest.raises(MethodError, match="'kd' stands twice with the same teacher"):
        KD() + KD(temperature=1.0)
    assert len(KD(teacher="a") + KD(teacher="b")) == 2


def test_whatever_names_a_method_is_read():
    assert as_methods("kd") == (KD(),)
    assert as_methods({"name": "kd", "temperature": 2.0}) == (KD(temperature=2.0),)
    assert as_methods(["kd", KCD()]) == as_methods(KD() + KCD()) == (KD(), KCD())
    assert as_methods([]) == ()
    with pytest.raises(MethodError, match="expected a method, a name or a list of these, got int"):
        as_methods(3)
    with pytest.raises(MethodError, match="got float"):
        KD() + 1.5


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(MethodError, match=r"unknown method 'fitnets'.*fitnet"):
        make_method("fitnets")
    with pytest.raises(MethodError, match=r"unknown parameter of kd 'temprature'.*temperature"):
        make_method("kd", temprature=3)


def test_a_name_belongs_to_one_method_and_needs_a_card():
    with pytest.raises(MethodError, match="a method called 'kd' exists already"):
        register_method("kd")(type("Impostor", (KD,), {}))
    with pytest.raises(MethodError, match=r"'bare' \(Bare\) has no card"):
        register_method("bare")(type("Bare", (Method,), {}))


def test_every_method_describes_itself_as_it_would_be_written():
    for cls in all_methods().values():
        method = cls()
        written = eval(method.describe(), dict(all_methods()))
        assert written == method
        assert isinstance(cls.card, Card)
