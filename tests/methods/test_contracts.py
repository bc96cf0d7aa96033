"""Every registered method keeps the loss contracts: a new one falls under this by its name."""

import pytest

from limbeck.methods import all_methods
from limbeck.methods.crd import CRD
from limbeck.methods.e2kd import E2KD
from limbeck.methods.fitnet import FitNet
from limbeck.methods.kd import KD
from limbeck.methods.ked import KED
from limbeck.methods.rkd import RKD
from limbeck.methods.sp import SP
from limbeck.testing import check_method

NAMES = list(all_methods())
# Said here, so that a method does not pass by doing nothing.
WITHOUT_TERMS = {"plain", "kcd", "backward", "mask", "superfeatures", "chimeric"}


@pytest.mark.parametrize("name", NAMES)
def test_contracts(name):
    report = check_method(name)
    assert bool(report.terms) == (name not in WITHOUT_TERMS)
    assert all(reason for reason in report.exempt.values())
    assert "unwritten" in report.held


@pytest.mark.parametrize(
    "method",
    [
        KD(temperature=1.0, reduction="elementwise"),
        FitNet(normaliser="half_sum", projector="conv1x1"),
        FitNet(pairs=(("stages.0", "stages.0"), ("stages.1", "stages.1"))),
        FitNet(pairs="penultimate", projector="linear"),
        RKD(pairs="stages", angle=0.0),
        SP(pairs="stages"),
        CRD(negatives="batch", dim=8),
        CRD(same_class="keep", num_negatives=5, temperature=0.01),
        KED(mu=0.2, temperature=1.0, tau=2.0),
        E2KD(lam=0.0),
        E2KD(lam=5.0, temperature=5.0),
        E2KD(tap="stages.0", teacher_tap="stages[-1]"),
    ],
    ids=lambda method: method.describe(),
)
def test_contracts_hold_for_other_parameters(method):
    check_method(method)


@pytest.mark.parametrize("name", NAMES)
def test_cards_are_complete(name):
    card = all_methods()[name].card
    assert card.title
    assert card.equation
    assert card.needs_teacher == (card.cost.teacher_forwards > 0 or card.students == "cohort")
    assert card.paper is not None or name == "plain"
    if card.double_backward:
        assert all_methods()[name].teacher_gradients


def test_fitnet_is_zero_at_equality_where_nothing_learned_stands_between():
    from limbeck.testing.contracts import zero_at_equality
    from limbeck.testing.scene import make_scene

    zero_at_equality(lambda **more: make_scene(FitNet(projector="identity"), **more))
