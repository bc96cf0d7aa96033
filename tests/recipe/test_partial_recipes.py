"""Partial teachers by recipe: cut, trained together once, found again, refused where senseless."""

from typing import Any

import pytest
import torch
from torch import nn

from limbeck.data.normalize import Normalize
from limbeck.errors import LimbeckError, RecipeError
from limbeck.recipe import build_plan, load_recipe, recipe_digest, resolved
from limbeck.recipe.running import run_recipe
from limbeck.teachers import PartialTeacher

CNN = {"model": "cnn", "channels": [6, 8]}
TEACHER = {"student": CNN, "method": "plain", "train": {"epochs": 2, "batch_size": 64}}
SMALL = {"model": "cnn", "channels": [3, 4]}
FEW = {"name": "digits", "num_train": 200}
PARTS = {"partial": {"train": TEACHER}, "shares": [0.5, 1.0], "epochs": 1}


def document(teacher: Any, **more: Any) -> dict[str, Any]:
    train = {"epochs": 2, "batch_size": 64}
    return {
        "data": FEW,
        "teacher": teacher,
        "student": SMALL,
        "method": "kd",
        "train": train,
    } | more


def build(teacher: Any, folder: Any, said: list[str], **more: Any) -> Any:
    recipe = load_recipe(document(teacher, **more))
    return build_plan(recipe, store=folder, quiet=True, say=said.append)


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_one_share_that_is_not_trained_is_distillation_from_the_teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    whole = {"partial": {"train": TEACHER}, "shares": [1.0], "epochs": 0}
    for method in ("kd", "simkd"):  # outputs; the teacher's own classifier
        one, plain = (
            run_recipe(
                document(teacher, method=method), output=tmp_path / f"{method}{number}", quiet=True
            )
            for number, teacher in enumerate([whole, {"train": TEACHER}])
        )
        assert same(one.student, plain.student)
        assert one.summary["metrics"] == plain.summary["metrics"]


def test_parts_are_trained_together_once(tmp_path):
    said: list[str] = []
    plan = build(PARTS, tmp_path, said)
    teacher = plan.teachers["teacher"]
    assert isinstance(teacher, PartialTeacher)
    small, whole = (member.module for member in teacher.members)
    assert [m.stages[0].conv1.out_channels for m in (small, whole)] == [3, 6]
    assert torch.equal(small.stages[1].conv1.weight, whole.stages[1].conv1.weight[:4, :3])
    assert sum("teacher.partial: is trained first" in line for line in said) == 1
    again = build(PARTS, tmp_path, said).teachers["teacher"]
    assert sum("is trained first" in line for line in said) == 2  # the teacher, and its parts
    assert sum("teacher.partial: found again, trained already" in line for line in said) == 1
    assert all(
        same(a.module, b.module) for a, b in zip(teacher.members, again.members, strict=True)
    )
    cut = build({**PARTS, "epochs": 0}, tmp_path, said).teachers["teacher"]
    assert not same(cut.members[1].module, whole)
    for change in ({"seed": 1}, {"epochs": 2}, {"lr": 0.01}, {"shares": [0.3, 1.0]}):
        other = build({**PARTS, **change}, tmp_path, said).teachers["teacher"]
        assert not same(other.members[1].module, whole)


def test_parts_go_on_to_the_same_bits(tmp_path, monkeypatch):
    from limbeck.engine.keeping import Keeper
    from limbeck.engine.signals import Interrupted

    longer = {**PARTS, "epochs": 2}
    whole = build(longer, tmp_path / "one", []).teachers["teacher"]
    save = Keeper.save

    def stop(self):
        save(self)
        if self._run.plan.name == "parts" and self._run.position.epoch == 1:
            raise Interrupted("here")

    monkeypatch.setattr(Keeper, "save", stop)
    with pytest.raises(Interrupted):
        build(longer, tmp_path / "two", [])
    monkeypatch.setattr(Keeper, "save", save)
    said: list[str] = []
    again = build(longer, tmp_path / "two", said).teachers["teacher"]
    assert any("teacher.partial: is trained further" in line for line in said)
    for first, second in zip(whole.members, again.members, strict=True):
        assert same(first.module, second.module)


@pytest.mark.parametrize("method", ["kd", "fitnet"])
def test_a_run_goes_on_to_the_same_bits(method, tmp_path, monkeypatch):
    from limbeck.engine.keeping import Keeper
    from limbeck.engine.signals import Interrupted

    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    recipe = document(PARTS, method=method, checkpoints={"every_steps": 1})
    whole = run_recipe(recipe, output=tmp_path / "whole", quiet=True)
    what = whole.summary["teachers"]["teacher"]["what"]
    assert "2 parts of one network, from the start, 0.5 on: (CNN," in what
    save = Keeper.save

    def stop(self):
        save(self)
        if self._run.position.step == 6:  # of 8: the whole speaks
            assert self._run.parts.teachers["teacher"].current == 1
            raise Interrupted("here")

    monkeypatch.setattr(Keeper, "save", stop)
    with pytest.raises(Interrupted):
        run_recipe(recipe, output=tmp_path / "cut", quiet=True)
    monkeypatch.setattr(Keeper, "save", save)
    again = run_recipe(recipe, output=tmp_path / "cut", resume=True, quiet=True)
    assert same(whole.student, again.student)
    assert whole.summary["metrics"] == again.summary["metrics"]


def test_parts_learn_and_speak_under_the_statistics_of_their_teacher(tmp_path):
    run_recipe({**TEACHER, "name": "first", "data": FEW}, output=tmp_path / "run", quiet=True)
    told = []
    for stats in ({"mean": [0.5], "std": [0.1]}, "data"):
        weights = str(tmp_path / "run" / "student" / "model.safetensors")
        partial = {**CNN, "weights": weights, "normalize": stats}
        plan = build({**PARTS, "partial": partial}, tmp_path / "store", [])
        told.append(plan.teachers["teacher"].members)
    assert [one.normalization for one in told[0]] == [Normalize((0.5,), (0.1,))] * 2
    assert [one.normalization for one in told[1]] == [None] * 2
    means = [one[1].module.stages[0].norm1.running_mean for one in told]
    assert not torch.allclose(*means, rtol=0.1)  # inputs of another size
    run = build({**PARTS, "partial": {"run": str(tmp_path / "run")}}, tmp_path / "store", [])
    assert same(run.teachers["teacher"].members[1].module, told[1][1].module)


def test_only_looking_trains_nothing(tmp_path):
    said: list[str] = []
    recipe = load_recipe(document(PARTS))
    plan = build_plan(recipe, store=tmp_path, train_teachers=False, say=said.append)
    assert len(plan.teachers["teacher"].members) == 2
    assert any("teacher.partial: will be trained first" in line for line in said)
    assert not list(tmp_path.iterdir())


VIT = {"model": "vit", "patch": 2}


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        ({**PARTS, "shares": [0.5]}, r"teacher.shares: expected rising numbers above 0, the last"),
        ({**PARTS, "epochs": -1}, r"teacher.epochs: expected a number of at least 0, got -1"),
        ({**PARTS, "lr": 0}, r"teacher.lr: expected a number above 0, got 0"),
        ({**PARTS, "seed": -1}, r"teacher.seed: expected a whole number from 0"),
        ({**PARTS, "at": [0, 0]}, r"teacher.at: expected rising numbers that begin with 0"),
        ({**PARTS, "at": [0]}, r"teacher.at: expected 2 numbers, one for each teacher"),
        ({**PARTS, "at": [0, 2]}, r"take over after 2 epochs, but the training has 2"),
        ({**PARTS, "share": [1.0]}, r"unknown key 'share': did you mean 'shares'"),
        (
            {**PARTS, "partial": {"virtual": {}}},
            r"teacher.partial: sub-networks are cut out of one network: expected \{model",
        ),
        (
            {"cache": PARTS},
            r"teacher.cache: this teacher changes during the run",
        ),
        (
            {"route": [PARTS, {"train": TEACHER}]},
            r"teacher.route.0: a teacher on a route must not change",
        ),
        (
            {
                "crossfit": {
                    "train": TEACHER
                    | {"method": "kd", "teacher": {"partial": {**CNN, "weights": "random"}}}
                }
            },
            r"teacher.crossfit.train: its own teacher 'teacher' has learned from the samples",
        ),
        (
            {"crossfit": PARTS},
            r"teacher.crossfit: expected a teacher that is fitted here",
        ),
        (
            {**PARTS, "partial": {"train": {**TEACHER, "student": VIT}}},
            r"teacher.partial: ViT has no sub-networks of fewer channels: ",
        ),
        (
            {**PARTS, "partial": {**VIT, "weights": "random"}},
            r"teacher.partial: ViT has no sub-networks of fewer channels: ",
        ),
    ],
)
def test_refusals(teacher, line, tmp_path):
    with pytest.raises(LimbeckError, match=line):
        build_plan(load_recipe(document(teacher)), store=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())  # before anything is trained


def test_its_classifier_cannot_be_asked_for(tmp_path):
    with pytest.raises(LimbeckError, match="simkd asks for head of teacher 'teacher', which gives"):
        build(PARTS, tmp_path, [], method="simkd")


def test_cycles_in_a_recipe():
    train = {"epochs": 2, "schedule": {"cycles": 2}}
    plain, cyclic = (
        load_recipe(document({"train": TEACHER}, train=one)) for one in ({"epochs": 2}, train)
    )
    older = resolved(plain)
    assert older["train"]["schedule"].pop("cycles") == 1
    assert recipe_digest(older) == recipe_digest(resolved(plain))
    assert recipe_digest(resolved(cyclic)) != recipe_digest(resolved(plain))
    for wrong, line in (
        (0, "train.schedule.cycles: expected a whole number of at least 1, got 0"),
        (3, "train.schedule: expected at most 2 cycles, one for each of train.epochs, got 3"),
    ):
        train = {"epochs": 2, "schedule": {"cycles": wrong}}
        with pytest.raises(RecipeError, match=line):
            load_recipe(document({"train": TEACHER}, train=train))
