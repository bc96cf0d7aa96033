"""Teachers of an epoch, and routes of them: kept, found again, repeated where not kept."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import limbeck as lb
from limbeck.errors import LimbeckError, RecipeError, TeacherError
from limbeck.models import load_model
from limbeck.recipe import build_plan, load_recipe, recipe_digest, resolved
from limbeck.recipe.running import run_recipe

TINY = {"model": "mlp", "widths": [8]}
TEACHER = {"student": TINY, "method": "plain", "train": {"epochs": 4, "batch_size": 256}}
FEW = {"name": "digits", "num_train": 300}


def document(teacher: Any, **more: Any) -> dict[str, Any]:
    train = {"epochs": 2, "batch_size": 128}
    return {
        "data": FEW,
        "teacher": teacher,
        "student": TINY,
        "method": "kd",
        "train": train,
        **more,
    }


def weights_of(teacher: Any) -> dict[str, torch.Tensor]:
    return teacher.module.state_dict()


def same(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_run_keeps_the_epochs_that_it_is_asked_for(tmp_path):
    train = {**TEACHER["train"], "deploy": "last"}
    recipe = {**TEACHER, "data": FEW, "checkpoints": {"keep_epochs": [1, 4]}, "train": train}
    folder = tmp_path / "run"
    run_recipe(recipe, output=folder, quiet=True)
    assert sorted(p.name for p in (folder / "epochs").iterdir()) == [
        "epoch-00001.safetensors",
        "epoch-00004.safetensors",
    ]
    last = load_file(folder / "epochs" / "epoch-00004.safetensors")
    assert same(last, load_model(folder / "student").state_dict())
    assert not same(last, load_file(folder / "epochs" / "epoch-00001.safetensors"))


CNN = {"model": "cnn", "channels": [4, 8]}
ABOVE = {"model": "cnn", "channels": [6, 12], "weights": "random"}
CHANGING = {
    "branch": {"method": {"name": "one", "branches": 2}},
    "ensemble": {"method": {"name": "one", "branches": 2, "deploy": "ensemble"}},
    "simkd": {"method": "simkd", "teacher": ABOVE},
    "letkd1": {"method": {"name": "letkd1", "codewords": 4}, "teacher": ABOVE},
    "residual": {"method": {"name": "residual"}, "teacher": ABOVE},
    "beside": {"method": ["kd", {"name": "one", "branches": 2}], "teacher": ABOVE},
    "list": {"method": "pskd", "student": [CNN]},  # a list with one
}
QUICK = ("branch", "simkd")


def inner_recipe(what, **train):
    train = {"epochs": 2, "batch_size": 64, "deploy": "last", **train}
    return {"student": CNN, "data": {**FEW, "num_train": 64}, "train": train, **what}


@pytest.mark.parametrize(
    "what",
    [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in CHANGING],
)
def test_an_epoch_is_what_would_be_deployed_then(what, tmp_path):
    inner = {**inner_recipe(CHANGING[what]), "checkpoints": {"keep_epochs": [2]}}
    outer = document({"train": inner, "epoch": 1}, data=inner["data"])
    plan = build_plan(load_recipe(outer), store=tmp_path, quiet=True)
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    early, late = (load_file(run / f"epochs/epoch-0000{epoch}.safetensors") for epoch in (1, 2))
    deployed = load_model(run / "student").state_dict()
    assert same(deployed, late)
    assert not same(early, late)
    assert same(early, weights_of(plan.teachers["teacher"]))
    assert plan.teachers["teacher"].module(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_keeping_an_epoch_changes_nothing_and_keeps_the_average(tmp_path):
    inner = inner_recipe(CHANGING["branch"], deploy="ema", ema=0.5)
    kept = {**inner, "checkpoints": {"keep_epochs": [1, 2]}}
    plain, keeping = (
        run_recipe(recipe, output=tmp_path / name, quiet=True)
        for name, recipe in (("plain", inner), ("kept", kept))
    )
    assert same(plain.student.state_dict(), keeping.student.state_dict())
    best = f"epochs/epoch-0000{keeping.summary['best_epoch'] + 1}.safetensors"
    assert same(keeping.student.state_dict(), load_file(tmp_path / "kept" / best))


def test_of_a_cohort_no_epoch_is_kept(tmp_path):
    recipe = {**TEACHER, "data": FEW, "student": [TINY, TINY], "method": "dml"}
    recipe["checkpoints"] = {"keep_epochs": [1]}
    line = r"^checkpoints\.keep_epochs: of a cohort no epoch is kept"
    with pytest.raises(RecipeError, match=line):
        run_recipe(recipe, output=tmp_path / "run", quiet=True)
    options = {"output": tmp_path / "run", "epochs": 1, "quiet": True}
    keep = lb.Checkpoints(keep_epochs=(1,))
    with pytest.raises(RecipeError, match=line):
        lb.distill(None, ["mlp", "mlp"], "digits", "dml", checkpoints=keep, **options)
    assert not (tmp_path / "run").exists()


def test_several_epochs_of_one_run_are_trained_once(tmp_path):
    said: list[str] = []
    route = {
        "route": [{"train": TEACHER, "epoch": 1}, {"train": TEACHER, "epoch": 3}],
        "at": [0, 1],
    }
    teachers = {"late": {"train": TEACHER}, "route": route}
    recipe = load_recipe(
        {
            **document(None, teachers=teachers),
            "teacher": None,
            "method": [{"name": "kd", "teacher": "late"}, {"name": "kd", "teacher": "route"}],
        }
    )
    plan = build_plan(recipe, store=tmp_path, quiet=True, say=said.append)
    assert sum("is trained first" in line for line in said) == 1
    assert sum("found again" in line for line in said) == 2
    stored = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(stored) == 1
    for member, epoch in zip(plan.teachers["route"].members, (1, 3), strict=True):
        kept = load_file(stored[0] / "epochs" / f"epoch-{epoch:05d}.safetensors")
        assert same(kept, weights_of(member))
    assert same(weights_of(plan.teachers["late"]), load_model(stored[0] / "student").state_dict())


def test_an_epoch_that_was_not_kept_is_trained_again_to_the_same_bits(tmp_path):
    said: list[str] = []

    def build(teacher: Any) -> Any:
        return build_plan(
            load_recipe(document(teacher)), store=tmp_path, quiet=True, say=said.append
        )

    plain = build({"train": TEACHER})
    early = build({"train": TEACHER, "epoch": 2})
    assert any("was trained without keeping epoch 2: again, for 2" in line for line in said)
    again = build({"train": TEACHER, "epoch": 2})
    assert same(weights_of(early.teachers["teacher"]), weights_of(again.teachers["teacher"]))
    runs = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(runs) == 2
    first, second = (load_model(run / "student").state_dict() for run in runs)
    assert same(first, second)
    assert same(first, weights_of(plain.teachers["teacher"]))


def test_a_run_that_was_begun_before_the_epoch_was_asked_for(tmp_path, monkeypatch):
    from limbeck.engine.keeping import Keeper
    from limbeck.engine.signals import Interrupted

    save = Keeper.save

    def stop(self):
        save(self)
        if self._run.position.epoch == 3:
            raise Interrupted("here")

    def build(teacher: Any) -> Any:
        return build_plan(load_recipe(document(teacher)), store=tmp_path, quiet=True)

    monkeypatch.setattr(Keeper, "save", stop)
    with pytest.raises(Interrupted):
        build({"train": TEACHER})
    monkeypatch.setattr(Keeper, "save", save)
    early = build({"train": TEACHER, "epoch": 2})
    runs = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(runs) == 2  # the one that was finished, and the one that kept the epoch
    kept = next(run for run in runs if (run / "epochs").is_dir())
    file = kept / "epochs" / "epoch-00002.safetensors"
    assert same(load_file(file), weights_of(early.teachers["teacher"]))


def test_a_route_in_a_run_and_after_resuming(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    route = {"route": [{"train": TEACHER, "epoch": 1}, {"train": TEACHER}], "at": [0, 1]}
    outcome = run_recipe(document(route), output=tmp_path / "run", quiet=True)
    assert "a route of 2 teachers" in outcome.summary["teachers"]["teacher"]["what"]
    last = build_plan(
        load_recipe(document({"train": TEACHER})), store=tmp_path / "home/teachers", quiet=True
    )
    test = last.data.splits["test"]
    raw = test.fetch(torch.arange(len(test)))
    with torch.no_grad():
        said = last.teachers["teacher"].module(last.data.augment_eval(raw.inputs))
    kept = load_file(tmp_path / "run" / "predictions.safetensors")["teacher_logits"]
    assert torch.allclose(kept, said, atol=1e-5)  # at the end the last teacher speaks
    again = run_recipe(document(route), output=tmp_path / "run", resume=True, quiet=True)
    assert again.summary["metrics"] == outcome.summary["metrics"]


def test_a_route_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    from limbeck.engine.keeping import Keeper
    from limbeck.engine.signals import Interrupted

    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    route = {"route": [{"train": TEACHER, "epoch": 1}, {"train": TEACHER}], "at": [0, 0.5]}
    recipe = document(route, checkpoints={"every_steps": 1})
    whole = run_recipe(recipe, output=tmp_path / "whole", quiet=True)
    save = Keeper.save

    def stop(self):
        save(self)
        if self._run.position.step == 5:  # of 6: the second teacher speaks
            assert self._run.parts.teachers["teacher"].current == 1
            raise Interrupted("here")

    monkeypatch.setattr(Keeper, "save", stop)
    with pytest.raises(Interrupted):
        run_recipe(recipe, output=tmp_path / "cut", quiet=True)
    monkeypatch.setattr(Keeper, "save", save)
    again = run_recipe(recipe, output=tmp_path / "cut", resume=True, quiet=True)
    assert same(whole.student.state_dict(), again.student.state_dict())
    assert whole.summary["metrics"] == again.summary["metrics"]


def test_a_teacher_that_was_stored_before_is_found_again():
    recipe = load_recipe(document({"train": TEACHER}))
    plain = resolved(recipe)
    assert plain["teacher"]["epoch"] is None
    older = {**plain, "teacher": {"train": plain["teacher"]["train"]}}
    older["data"] = {k: v for k, v in plain["data"].items() if k != "leave_out"}
    assert recipe_digest(older) == recipe_digest(plain)
    other = load_recipe(document({"train": TEACHER, "epoch": 2}))
    assert recipe_digest(resolved(other)) != recipe_digest(plain)


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        ({"train": TEACHER, "epoch": 5}, "teacher.epoch: expected at most 4, the epochs of its"),
        ({"train": TEACHER, "epoch": 0}, "teacher.epoch: expected a number of at least 1, got 0"),
        ({"train": TEACHER, "epochs": 2}, "unknown key 'epochs': did you mean"),
        ({"route": [{"train": TEACHER}]}, "teacher.route: expected at least two entries"),
        (
            {"route": [{"train": TEACHER}, {"train": TEACHER}], "at": [0, 0]},
            "teacher.at: expected rising numbers that begin with 0, got ",
        ),
        (
            {"route": [{"train": TEACHER}, {"train": TEACHER}], "at": [0]},
            "teacher.at: expected 2 numbers, one for each teacher",
        ),
        (
            {"route": [{"train": TEACHER}, {"snapshot": {}}]},
            r"teacher.route.1: a teacher on a route must not change",
        ),
        (
            {"cache": {"route": [{"train": TEACHER}, {"train": TEACHER}]}},
            "teacher.cache: this teacher changes during the run",
        ),
        (
            {"train": {**TEACHER, "student": [TINY, TINY], "method": "dml"}, "epoch": 1},
            "teacher.epoch: of a cohort no epoch is kept",
        ),
    ],
)
def test_refusals(teacher, line):
    with pytest.raises(LimbeckError, match=line):
        build_plan(load_recipe(document(teacher)), train_teachers=False)


def test_the_last_teacher_must_come_before_the_end():
    route = {"route": [{"train": TEACHER}, {"train": TEACHER, "epoch": 1}], "at": [0, 2]}
    with pytest.raises(LimbeckError, match="take over after 2 epochs, but the training has 2"):
        build_plan(load_recipe(document(route)), train_teachers=False)


def test_settings_refuse_epoch_zero():
    with pytest.raises(RecipeError, match="keep_epochs: expected epochs of at least 1"):
        load_recipe({**document({"train": TEACHER}), "checkpoints": {"keep_epochs": [0]}})
    assert issubclass(TeacherError, LimbeckError)
