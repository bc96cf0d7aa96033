"""Every mistake is one line: key, value, what was expected, nearest name."""

from typing import Any

import pytest
from good_recipes import GOOD

from limbeck.errors import RecipeError
from limbeck.recipe import load_recipe

CASES: list[tuple[dict[str, Any], str]] = [
    ({"studnet": 1}, "studnet: unknown key 'studnet': did you mean 'student'?"),
    ({"lr": 1}, "lr: unknown key 'lr'"),
    ({"epochs": 1}, "epochs: unknown key 'epochs': did you mean train.epochs?"),
    ({"train": {"epoch": 5}}, "train.epoch: unknown key 'epoch': did you mean 'epochs'?"),
    ({"train": {"lr": 1}}, "train.lr: unknown key 'lr': did you mean train.optimizer.lr?"),
    ({"train": {"epochs": "5"}}, "train.epochs: expected a whole number, got '5' (this is text"),
    ({"train": {"epochs": 1.5}}, "train.epochs: expected a whole number, got 1.5"),
    ({"train": {"epochs": True}}, "train.epochs: expected a whole number, got True"),
    ({"train": {"epochs": 0}}, "train.epochs: expected a whole number of at least 1, got 0"),
    ({"train": {"epochs": None}}, "train.epochs: expected a whole number, got None"),
    ({"train": {"compile": 1}}, "train.compile: expected true or false, got 1"),
    ({"train": {"ema": 2}}, "train.ema: expected a number in (0, 1), or null, got 2"),
    ({"train": {"optimizer": {"lr": -1}}}, "train.optimizer.lr: expected a number above 0"),
    ({"train": {"optimizer": "adam"}}, "train.optimizer: expected a mapping (key: value)"),
    (
        {"train": {"optimizer": {"name": "sdg"}}},
        "train.optimizer.name: unknown choice 'sdg': did you mean 'sgd'?",
    ),
    ({"train": {"optimizer": {"betas": [0.9]}}}, "train.optimizer.betas.1: missing"),
    ({"train": {"optimizer": {"betas": [1, 1, 1]}}}, "betas: expected at most 2 entries"),
    ({"train": 3}, "train: expected a mapping (key: value), got 3"),
    ({"train": None}, "train: expected a mapping (key: value), got None"),
    ({"seed": -1}, "seed: expected a whole number from 0 to 2**63 - 1, got -1"),
    ({"seed": 2**70}, "seed: expected a number of at most 63 bits"),
    ({"version": 2}, "version: expected 1, got 2; the recipe is newer than this Limbeck"),
    ({"version": 0}, "version: expected 1, got 0"),
    ({"name": "a/b"}, "name: expected letters, digits"),
    ({"task": {"kind": "clasification"}}, "did you mean 'classification'?"),
    ({"task": {"weight": -1}}, "task.weight: expected a number of at least 0, got -1.0"),
    ({"trackers": "wandb"}, "trackers: expected a list, got 'wandb'"),
    ({"trackers": ["wandbb"]}, "trackers.0: unknown choice 'wandbb': did you mean 'wandb'?"),
    ({"data": "digit"}, "data.name: unknown data source 'digit': did you mean 'digits'?"),
    ({"data": {"nme": "digits"}}, "data.nme: unknown key 'nme': did you mean 'name'?"),
    ({"data": {"name": "digits", "sed": 1}}, "data.sed: unknown key 'sed': did you mean 'seed'?"),
    ({"data": {"name": "digits", "seed": 1.5}}, "data.seed: expected a whole number, got 1.5"),
    (
        {"data": {"name": "digits", "labels_per_class": "ten"}},
        "data.labels_per_class: expected a whole number",
    ),
    ({"data": {"name": "images"}}, "data.root: missing"),
    ({"student": "cn"}, "student.model: unknown model 'cn': did you mean 'cnn'?"),
    ({"student": 3}, "student: expected a model's name"),
    ({"student": []}, "student: expected at least one entry, got []"),
    ({"student": {"modle": "cnn"}}, "student.modle: unknown key 'modle': did you mean 'model'?"),
    ({"student": {"modles": ["cnn"]}}, "student.modles: unknown key"),
    ({"student": {"model": "cnn", "chanels": [1]}}, "student.chanels: unknown key 'chanels'"),
    ({"student": {"model": "cnn", "channels": 3}}, "student.channels: expected a list, got 3"),
    ({"student": {"model": "cnn", "channels": [1, "a"]}}, "student.channels.1: expected a whole"),
    ({"student": ["cnn", "resnet8x"]}, "student.1.model: unknown model 'resnet8x'"),
    ({"student": {"models": ["cnn"], "deploy": "bset"}}, "student.deploy: unknown choice 'bset'"),
    ({"method": "fitnt"}, "method.name: unknown method 'fitnt': did you mean 'fitnet'?"),
    ({"method": {"nam": "kd"}}, "method.nam: unknown key 'nam': did you mean 'name'?"),
    ({"method": {"temperature": 2}}, "method.name: missing"),
    ({"method": {"name": "kd", "temprature": 2}}, "method.temprature: unknown key 'temprature'"),
    ({"method": {"name": "kd", "temperature": 0}}, "method.temperature: expected a number above 0"),
    ({"method": ["kd", {"name": "kd", "weight": "1"}]}, "method.1.weight: expected a number"),
    ({"method": []}, "method: expected at least one entry"),
    ({"teacher": "resnet"}, "or peers, got 'resnet'"),
    ({"teacher": {}}, "teacher: expected a mapping with one of model, run"),
    ({"teacher": {"modle": "cnn"}}, "teacher.modle: unknown key 'modle': did you mean 'model'?"),
    ({"teacher": {"model": "cnn"}}, "teacher.weights: missing: cnn would have learned nothing"),
    ({"teacher": {"run": "a", "model": "b"}}, "teacher: expected one kind of teacher"),
    ({"teacher": {"run": "a", "x": "b"}}, "teacher.x: unknown key 'x'"),
    ({"teacher": {"virtual": {"correct": 2}}}, "teacher.virtual.correct: expected a number in"),
    ({"teacher": {"virtual": {"kind": "even"}}}, "teacher.virtual.kind: unknown choice 'even'"),
    ({"teacher": {"snapshot": {"every": 0}}}, "teacher.snapshot.every: expected a number of at le"),
    ({"teacher": {"ema": {"decay": 1}}}, "teacher.ema.decay: expected a number below 1"),
    ({"teacher": {"calibrated": "peers", "temperature": 0}}, "teacher.temperature: expected a num"),
    (
        {"teacher": {"calibrated": "peers", "temperature": "auto-nl"}},
        "teacher.temperature: unknown temperature 'auto-nl': did you mean 'auto-nll'?",
    ),
    (
        {"teacher": {"ensemble": ["peers"], "weights": [1, 2]}},
        "teacher.weights: expected 1 numbers, one for each teacher, got [1.0, 2.0]",
    ),
    ({"teacher": {"ensemble": []}}, "teacher.ensemble: expected at least one entry"),
    ({"teacher": {"ensemble": [{"modl": 1}]}}, "teacher.ensemble.0.modl: unknown key 'modl'"),
    (
        {"teacher": {"sklearn": {"estimator": "RandomForestClasifier"}}},
        "did you mean 'RandomForestClassifier'?",
    ),
    (
        {"teacher": {"sklearn": {"estimator": "GaussianNB", "smoothing": 1}}},
        "teacher.sklearn.smoothing: unknown key 'smoothing'",
    ),
    (
        {"teacher": {"model": "cnn", "weights": "random", "normalize": {"mean": [1], "std": [0]}}},
        "teacher.normalize.std: expected numbers above 0, got [0.0]",
    ),
    ({"teacher": {"train": "none.yaml"}}, "teacher.train: "),
    ({"teacher": {"train": {"student": "cnn"}}}, "teacher.train.method: missing"),
    (
        {"teacher": {"train": {"student": "cnn", "method": "plain", "train": {"epoch": 1}}}},
        "teacher.train.train.epoch: unknown key 'epoch': did you mean 'epochs'?",
    ),
    ({"teachers": {"a b": "peers"}}, "teachers.a b: expected a name of letters"),
    ({"teacher": "peers", "teachers": {"a": "peers"}}, "teachers: expected either teacher or"),
    ({"output": 3}, "output: expected text, got 3"),
    ({"output": {1, 2}}, "output: expected text, a number"),
    ({"checkpoints": {"keep": 0}}, "checkpoints.keep: expected at least 1, got 0"),
]


@pytest.mark.parametrize(("damage", "line"), CASES, ids=[line[:45] for _, line in CASES])
def test_the_line(damage: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe({**GOOD["short"], **damage})
    message = str(caught.value)
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["data", "student", "method"])
def test_what_is_missing(key: str) -> None:
    document = {name: value for name, value in GOOD["short"].items() if name != key}
    with pytest.raises(RecipeError, match=f"^{key}: missing$"):
        load_recipe(document)


def test_the_first_mistake_leads_and_the_others_are_named() -> None:
    document = {**GOOD["short"], "seed": "a", "train": {"epochs": "b", "epohcs": 3}}
    with pytest.raises(RecipeError) as caught:
        load_recipe(document)
    message = str(caught.value)
    assert message.startswith("train.epohcs: unknown key 'epohcs': did you mean 'epochs'?")
    assert message.endswith("(and 2 more: seed, train.epochs)")


def test_whole_numbers_do_for_numbers_and_lists_for_tuples() -> None:
    recipe = load_recipe({**GOOD["short"], "train": {"optimizer": {"lr": 1, "betas": [0, 0]}}})
    assert recipe.train.optimizer.lr == 1.0
    assert isinstance(recipe.train.optimizer.lr, float)
    assert recipe.train.optimizer.betas == (0.0, 0.0)


def test_a_misspelt_kind_of_teacher_is_told_and_not_what_stands_beside_it() -> None:
    teacher = {"normalize": "data", "weights": "random", "modle": "cnn"}
    with pytest.raises(RecipeError, match=r"teacher\.modle: unknown key 'modle': did you mean 'mo"):
        load_recipe({"data": "digits", "student": "cnn", "method": "kd", "teacher": teacher})
