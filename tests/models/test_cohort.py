"""Several networks in one module."""

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models import Cohort


def test_forward_asks_every_member():
    first, second = nn.Linear(2, 3), nn.Linear(2, 3)
    cohort = Cohort([first, second])
    inputs = torch.randn(4, 2)
    answers = cohort(inputs)
    assert torch.equal(answers[0], first(inputs))
    assert torch.equal(answers[1], second(inputs))
    assert cohort.is_cohort
    assert set(cohort.state_dict()) == {
        f"members.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")
    }


def test_keywords_and_a_users_forward():
    cohort = Cohort([nn.Linear(2, 3), nn.Linear(2, 3)])
    inputs = torch.randn(4, 2)
    assert torch.equal(cohort(input=inputs)[1], cohort(inputs)[1])
    doubled = cohort({"x": inputs}, each=lambda member, batch: 2 * member(batch["x"]))
    assert torch.equal(doubled[0], 2 * cohort(inputs)[0])


def test_refusals():
    with pytest.raises(ModelError, match="at least one member"):
        Cohort([])
    one = nn.Linear(1, 1)
    with pytest.raises(ModelError, match="given twice"):
        Cohort([one, one])
