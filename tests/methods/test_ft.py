"""FT: the fitted paraphraser, what it is for, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from feature_runs import prepare, runtimes_of
from method_runs import log_of, make_cnn, make_plan, run
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of

from limbeck.errors import ShapeError
from limbeck.methods import make_method

__all__ = ["images"]  # a fixture


LAST = [("resnet", "resnet"), ("resnet", "vgg"), ("shufflenetv2", "resnet"), ("odd", "odd")]


@pytest.mark.parametrize("pair", LAST, ids="-".join)
def test_the_last_maps_of_any_two_networks_have_factors(pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    take_two_steps(plan_of(student, teacher, make_method("ft"), images))


def test_maps_of_one_position_say_nothing_of_where(images):
    def plan(**parameters: Any) -> Any:
        method = make_method("ft", **parameters)
        return plan_of(FAMILIES["resnet"], FAMILIES["timm_cnn"], method, images)

    with pytest.raises(ShapeError, match=r"one position.*set form: flat, or name larger layers"):
        take_two_steps(plan())
    take_two_steps(plan(form="flat"))


def test_tokens_have_no_factors(images):
    plan = plan_of(FAMILIES["vit"], FAMILIES["vit"], make_method("ft"), images)
    with pytest.raises(ShapeError, match="compares maps of both; name layers that fit"):
        take_two_steps(plan)


def test_the_paraphraser_learns_to_rebuild_and_stays_fixed_then(tmp_path, monkeypatch):
    seen = runtimes_of(monkeypatch)
    outcome = run(make_plan("ft"), tmp_path / "run")
    short = run(make_plan({"name": "ft", "fit_epochs": 1}), tmp_path / "short")
    errors = [
        {record["ft/reconstruction"] for record in log_of(one.folder.path, "epoch")}
        for one in (outcome, short)
    ]
    assert all(len(one) == 1 for one in errors)
    assert min(errors[0]) < min(errors[1])
    runtime, fitted = seen[0]
    end = runtime.state_dict()
    for name, value in fitted.items():
        if "num_batches" not in name:
            fixed = torch.equal(value, end[name])
            assert fixed == (not name.startswith("translators")), name
    assert not any(value.requires_grad for value in runtime.paraphrasers.parameters())


def test_the_factor_is_half_as_wide_as_the_teachers_map():
    runtime = prepare(make_method("ft"), make_cnn(4, 8), make_cnn(4, 12), 8)
    feature = torch.rand(2, 12, 4, 4)
    (paraphraser,) = runtime.paraphrasers
    assert paraphraser(feature).shape == (2, 6, 4, 4)
    assert paraphraser.reconstruct(feature).shape == feature.shape
