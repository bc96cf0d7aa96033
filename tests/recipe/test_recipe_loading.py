"""Loading recipes: files, mappings, paths, teachers' recipes, and what is wrong with a file."""

import copy
import dataclasses
from pathlib import Path

import pytest
from good_recipes import GOOD, SHIPPED

from limbeck.engine.settings import Optimizer, Train
from limbeck.errors import RecipeError
from limbeck.methods import make_method
from limbeck.recipe import Recipe, check_recipe, load_recipe, recipe_yaml, resolved
from limbeck.recipe.expansion import Changes, expand
from limbeck.recipe.overrides import read_overrides
from limbeck.recipe.schema import StudentCohort, StudentModel, TrainTeacher
from limbeck.recipe.yaml_text import parse_yaml, write_yaml


@pytest.mark.parametrize("name", GOOD)
def test_good_recipes_load_and_survive_being_written(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(GOOD[name])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(recipe))
    again = load_recipe(path)
    assert again == recipe
    assert recipe_yaml(again) == recipe_yaml(recipe)
    assert parse_yaml(path.read_text(), "recipe.yaml") == resolved(recipe)


def test_values_are_what_was_written() -> None:
    recipe = load_recipe(GOOD["kd"])
    assert recipe.seed == 3
    assert recipe.data.arguments["labels_per_class"] == 10
    assert recipe.students == (recipe.student,)
    assert isinstance(recipe.student, StudentModel)
    assert recipe.student.arguments["channels"] == (4, 8)
    assert recipe.methods == (make_method("kd", temperature=2.0, weight=0.9),)
    assert recipe.train.optimizer == Optimizer(name="adamw", lr=0.003, betas=(0.9, 0.99))
    assert list(recipe.all_teachers) == ["teacher"]


def test_every_default_is_visible() -> None:
    plain = resolved(load_recipe(GOOD["short"]))
    assert set(plain["train"]) == {field.name for field in dataclasses.fields(Train)}
    assert plain["method"] == {"name": "plain", "weight": 1.0, "teacher": None}
    assert plain["student"]["channels"] == [32, 64, 128]
    assert plain["data"]["labels_per_class"] is None
    assert plain["task"] == {"kind": "auto", "weight": None}


def test_a_list_of_students_is_a_cohort() -> None:
    recipe = load_recipe({"data": "digits", "student": ["cnn", "mlp"], "method": "dml"})
    assert [student.model for student in recipe.students] == ["cnn", "mlp"]
    assert recipe.is_cohort
    assert recipe.deploy == "best"
    cohort = load_recipe(GOOD["cohort"])
    assert isinstance(cohort.student, StudentCohort)
    assert cohort.deploy == "ensemble"


def test_python_objects_stand_for_themselves() -> None:
    methods = make_method("kd", temperature=3.0) + 2 * make_method("label_smoothing")
    recipe = load_recipe(
        {
            "data": "digits",
            "student": "cnn",
            "teacher": {"model": "cnn", "weights": Path("/w/x.safetensors")},
            "method": methods,
            "train": Train(epochs=7, optimizer=Optimizer(lr=0.2)),
        }
    )
    assert recipe.methods == methods.methods
    assert recipe.train == Train(epochs=7, optimizer=Optimizer(lr=0.2))


def test_paths_start_from_the_recipes_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "kd.yaml").write_text(
        "data: {name: images, root: pictures}\nstudent: {model: ./start}\n"
        "teacher: {model: cnn, weights: w.safetensors}\nmethod: kd\noutput: out\n"
    )
    recipe = load_recipe(folder / "kd.yaml")
    assert recipe.data.arguments["root"] == str(folder / "pictures")
    assert recipe.student.model == str(folder / "start")
    assert recipe.teacher.weights == str(folder / "w.safetensors")
    assert recipe.output == str(folder / "out")
    assert recipe.name == "kd"


def test_paths_in_overrides_start_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kd.yaml").write_text("data: digits\nstudent: cnn\nmethod: kd\n")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    recipe = load_recipe(tmp_path / "kd.yaml", ["teacher={model: cnn, weights: w.safetensors}"])
    assert recipe.teacher.weights == str(here / "w.safetensors")


def test_a_teachers_recipe_is_read_and_takes_its_parents_data(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("student: {model: cnn}\nmethod: plain\n")
    (tmp_path / "kd.yaml").write_text(
        "data: {name: digits, seed: 5}\nstudent: cnn\nmethod: kd\n"
        "task: {kind: classification}\n"
        "teacher: {train: big.yaml, overrides: {train.epochs: 3, student.layers: 2}}\n"
    )
    recipe = load_recipe(tmp_path / "kd.yaml", ["teacher.train.train.batch_size=8"])
    assert isinstance(recipe.teacher, TrainTeacher)
    inner = recipe.teacher.train
    assert inner.name == "big"
    assert inner.data.arguments["seed"] == 5
    assert inner.task.kind == "classification"
    assert (inner.train.epochs, inner.train.batch_size) == (3, 8)
    assert inner.student.arguments["layers"] == 2
    assert load_recipe(resolved(recipe)) == recipe


def test_a_teachers_own_data_stay_its_own(tmp_path: Path) -> None:
    document = {**GOOD["trained"]}
    document["teacher"] = {"train": {**GOOD["short"], "data": {"name": "digits", "seed": 9}}}
    recipe = load_recipe(document)
    assert recipe.teacher.train.data.arguments["seed"] == 9
    assert recipe.teacher.train.data.arguments["label_fraction"] is None


def test_recipes_that_train_each_other_are_refused(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(
            f"data: digits\nstudent: cnn\nmethod: kd\nteacher: {{train: {other}.yaml}}\n"
        )
    with pytest.raises(RecipeError, match=r"own teacher: a\.yaml -> b\.yaml -> a\.yaml"):
        load_recipe(tmp_path / "a.yaml")


def test_a_circle_through_an_ensemble_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "data: digits\nstudent: cnn\nmethod: kd\n"
        "teacher: {calibrated: {ensemble: [{train: a.yaml}]}}\n"
    )
    with pytest.raises(RecipeError, match=r"teacher\.calibrated\.ensemble\.0\.train: .*circle|own"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"# only a remark\n", "the file is empty"),
        (b"- digits\n", "expected a mapping"),
        (b"just words", "expected a mapping"),
        (b"data: \xff\xfe", "expected UTF-8 text, got byte 0xff at position 6"),
        (b"data: digits\ndata: mnist\n", r":2:1: duplicate key 'data' \(first on line 1\)"),
        (b"train: {epochs: 1, epochs: 2}", r":1:20: duplicate key 'epochs'"),
        (b"train:\n  epochs: [1\n", r":3:1: expected ',' or '\]'"),
        (b"train:\n\tepochs: 1\n", ":2:1: a tab stands where YAML wants spaces"),
        (b"data: !!python/name:os.system", "tag !!python/name:os.system not allowed"),
        (b"a: 1\n---\nb: 2\n", ":2:1: a second document begins here"),
        (b"a: \x01", ":1:4: character"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"a: &x [*x]", "nested too deeply"),
        (b"data: &x {name: *x}", "nested too deeply|expected text"),
        (b"1: digits", "expected a key that is text, got 1"),
        (b"seed: " + b"9" * 6000, ":1:7: number of 6000 digits"),
        (b"seed: .nan", "seed: expected a finite number"),
        (b'name: "\\ud800"', "half of a surrogate pair"),
        (b"seed: !!timestamp 2020-01-01", "got datetime.date"),
        (b"[1, 2]: 3", "expected a key that is text"),
        (b"data: digits\nstudent: cnn\nmethod: plain\ntrain:\n  epoch: 3\n", r"\(line 5\)"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=expected) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(RecipeError, match=r"no such file: did you mean .*recipe\.yaml\?"):
        load_recipe(tmp_path / "recipes.yaml")
    with pytest.raises(RecipeError, match="got a folder; did you mean"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="nor a folder"):
        load_recipe(tmp_path / "none" / "recipe.yaml")


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match="too large for a recipe"):
        load_recipe(tmp_path / "bomb.yaml")


def test_scalars_are_read_by_yaml_1_2() -> None:
    read = parse_yaml("a: 1e-3\nb: no\nc: 1:30\nd: 010\ne: ~\nf: 0x10\ng: -.5\nh: 2020-01-01", "x")
    expected = {"a": 0.001, "b": "no", "c": "1:30", "d": 10, "e": None, "f": 16, "g": -0.5}
    assert read == {**expected, "h": "2020-01-01"}


def test_what_is_written_is_read_back() -> None:
    values = ["1e-3", "no", "1:30", "~", "", "0x1", "true", "é\n x", "<<", "=", "- a", "a: b", "#"]
    numbers = [0, -1, 1e-5, 1e22, 1e-300, 0.1, 2**62]
    document = {"values": values, "numbers": numbers, "nested": [{"a": []}, [[], {}]], "n": None}
    assert parse_yaml(write_yaml(document), "x") == document


def test_recipes_are_frozen_and_comparable() -> None:
    recipe = load_recipe(GOOD["kd"])
    assert recipe == load_recipe(GOOD["kd"])
    assert isinstance(recipe, Recipe)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 4  # type: ignore[misc]


def test_the_recipes_that_come_with_limbeck_load() -> None:
    assert len(SHIPPED) >= 3
    for path in SHIPPED:
        check_recipe(load_recipe(path))


def test_overrides_change_nothing_but_what_comes_of_them() -> None:
    recipe = {**GOOD["kd"], "train": {"epochs": 3}}
    before, overrides = copy.deepcopy(recipe), {"train": {"epochs": 4}, "train.batch_size": 5}
    load_recipe(recipe, overrides)
    assert recipe == before
    assert overrides["train"] == {"epochs": 4}
    expand(recipe, Path(), (), [Changes(tuple(read_overrides(overrides)), Path())])
    assert recipe == before
    assert overrides["train"] == {"epochs": 4}
