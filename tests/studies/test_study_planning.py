"""What recipes a study makes, in which order changes apply, and what makes a run a new one."""

import copy
from pathlib import Path

import pytest
import yaml
from tiny_study import TINY, tiny

from limbeck.errors import RecipeError
from limbeck.studies.folder import StudyFolder
from limbeck.studies.loading import load_study
from limbeck.studies.planning import StudyPlan, plan_study

AXES = {"size": {"few": {"data.num_train": 100}, "more": {"data.num_train": 150}}}


def _plan(overrides: tuple[str, ...] = (), **changes: object) -> StudyPlan:
    return plan_study(load_study(tiny(**changes)), overrides)


def test_every_arm_stands_at_every_place_of_the_grid() -> None:
    plan = _plan(axes=AXES)
    assert [arm.label for arm in plan.arms] == [
        "plain @ few",
        "kd @ few",
        "plain @ more",
        "kd @ more",
    ]
    sizes = [arm.trials[0].recipe.data.arguments["num_train"] for arm in plan.arms]
    assert sizes == [100, 100, 150, 150]
    assert plan.most_runs == 4 * 2 + 4 * 2


def test_later_changes_win_over_earlier_ones() -> None:
    # recipe < command line < scale < axis < arm < trial
    changes = {
        "recipe__train": {"epochs": 1, "batch_size": 1},
        "scales": {"s": {"set": {"train.epochs": 3, "train.log_every": 3}}},
        "axes": {"a": {"o": {"train.log_every": 4, "train.accumulate": 4}}},
        "arms__kd__set": {"method": "plain", "train.accumulate": 5, "train.evaluate_every": 5},
        "arms__kd__trials": [{"train.evaluate_every": 6}, {"train.evaluate_every": 7}],
    }
    plan = plan_study(load_study(tiny(**changes), "s"), ["train.batch_size=2", "train.epochs=2"])
    train = plan.arms[1].trials[0].recipe.train
    found = (train.batch_size, train.epochs, train.log_every, train.accumulate)
    assert (*found, train.evaluate_every) == (2, 3, 4, 5, 6)


def test_no_setting_leaks_into_another_trial_or_arm() -> None:
    teacher = copy.deepcopy(TINY["arms"]["kd"]["set"]["teacher"])
    shared = {"method": "kd", "teacher": teacher}
    arms = {
        "a": {"set": shared, "trials": [{"train.epochs": 9}, {"teacher.train.train.epochs": 8}]},
        "b": {"set": shared, "trials": [{"method.temperature": 2}, {"method.temperature": 3}]},
    }
    plan = _plan(arms=arms, compare=[], claims={}, scales={})
    epochs = [
        [(t.recipe.train.epochs, t.recipe.teacher.train.train.epochs) for t in arm.trials]
        for arm in plan.arms
    ]
    assert epochs == [[(9, 2), (2, 8)], [(2, 2), (2, 2)]]
    assert [t.recipe.methods[0].temperature for t in plan.arms[0].trials] == [4.0, 4.0]


def test_the_same_content_is_the_same_run_whatever_it_is_called() -> None:
    run = _plan().arms[0].trials[0].run(0)
    arms = {"renamed": TINY["arms"]["plain"], "kd": TINY["arms"]["kd"]}
    renamed = _plan(arms=arms, compare=[], claims={}, scales={})
    assert renamed.arms[0].trials[0].run(0).digest == run.digest
    assert renamed.arms[0].trials[0].run(1).digest != run.digest
    changed = _plan(("train.epochs=3",)).arms[0].trials[0].run(0)
    assert changed.digest != run.digest


def test_arms_that_an_axis_does_not_touch_share_their_runs() -> None:
    axes = {"teacher": {"weak": {}, "strong": {"teacher.train.train.epochs": 3}}}
    base = {**TINY["recipe"], "teacher": TINY["arms"]["kd"]["set"]["teacher"]}
    plan = _plan(
        recipe=base,
        axes=axes,
        arms__plain__set={"teacher": None},
        arms__kd__set={"method": "kd"},
    )
    digests = {arm.label: arm.trials[0].run(0).digest for arm in plan.arms}
    assert digests["plain @ weak"] == digests["plain @ strong"]
    assert digests["kd @ weak"] != digests["kd @ strong"]
    assert plan.most_runs == (2 + 2) + 2 * (2 + 2)


def test_a_renamed_arm_finds_its_folder_again(tmp_path: Path) -> None:
    folder, run = StudyFolder(tmp_path), _plan().arms[0].trials[0].run(0)
    assert folder.place(run).name == f"plain-seed0-{run.digest}"
    (tmp_path / "runs" / f"before-seed0-{run.digest}").mkdir(parents=True)
    assert folder.place(run).name.startswith("before-")


def test_relative_paths_start_from_the_studys_folder(tmp_path: Path) -> None:
    (tmp_path / "teacher.yaml").write_text(
        yaml.safe_dump(TINY["arms"]["kd"]["set"]["teacher"]["train"])
    )
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY["recipe"]))
    study = tiny(
        recipe="base.yaml", arms__kd__set={"method": "kd", "teacher": {"train": "teacher.yaml"}}
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    from_files = plan_study(load_study(tmp_path / "study.yaml"))
    assert [a.trials[0].run(0).digest for a in from_files.arms] == [
        a.trials[0].run(0).digest for a in _plan().arms
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"arms__kd__trials": [{"method.temperture": 1}, {"method.temperature": 1}]},
            r"arms\.kd, trial 1: method\.temperture: unknown key .* did you mean 'temperature'",
        ),
        (
            {"arms__kd__trials": [{"method.temperature": 1}, {"method.temperature": 0}]},
            r"arms\.kd, trial 2: method.*temperature",
        ),
        (
            {"axes": {"a": {"o": {"data.num_train": "x"}}}},
            r"arms\.plain, trial 1 at o: data\.num_train: expected",
        ),
        ({"arms__kd__set": {"seed": 3}}, r"arms\.kd\.set: seed is the study's to decide"),
        ({"recipe": "nowhere.yaml"}, r"nowhere\.yaml: there is no such file"),
    ],
)
def test_a_recipe_that_is_wrong_names_arm_and_trial(changes: dict[str, object], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        _plan(**changes)


def test_an_override_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(RecipeError, match=r"train\.epoch: unknown key 'epoch'"):
        _plan(("train.epoch=3",))


def test_labels_of_trials_stay_short_but_unambiguous() -> None:
    trials = [{"method.weight": 0.5, "task.weight": 0.5}, {"method.temperature": 2}]
    plan = _plan(arms__kd__trials=trials)
    labels = [trial.label for trial in plan.arms[1].trials]
    assert labels == ["method.weight=0.5, task.weight=0.5", "temperature=2"]
