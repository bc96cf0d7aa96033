"""RKD: its published weights, and each of its two terms alone."""

import pytest
import torch

from limbeck import functional
from limbeck.errors import MethodError
from limbeck.methods.rkd import RKD


def test_defaults():
    method = RKD()
    assert (method.weight, method.distance, method.angle) == (1.0, 25.0, 50.0)
    assert (RKD.card.task_weight, method.pairs) == (1.0, "penultimate")


def test_each_term_has_its_weight_and_is_left_out_without_one():
    student, teacher = torch.randn(6, 4), torch.randn(6, 5)
    both = RKD(distance=3.0, angle=2.0).relate(student, teacher)
    assert both["rkd_distance"] == 3 * functional.rkd_distance(student, teacher)
    assert both["rkd_angle"] == 2 * functional.rkd_angle(student, teacher)
    assert RKD(angle=0.0).relate(student, teacher).keys() == {"rkd_distance"}
    assert RKD(distance=0.0).relate(student, teacher).keys() == {"rkd_angle"}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("distance", {"distance": -1.0}),
        ("angle", {"angle": -1.0}),
        ("angle", {"distance": 0.0, "angle": 0.0}),
    ],
)
def test_weights_without_a_meaning_are_refused(key, values):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected a number of at least 0"):
        RKD(**values)
