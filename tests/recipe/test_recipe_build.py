"""From recipes to plans: data, students, every form of teacher, and the store of trained ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from good_recipes import GOOD, MODEL_TEACHER

from limbeck.engine.running import run_plan
from limbeck.errors import CheckpointError, LimbeckError, RecipeError, TeacherError
from limbeck.models import Cohort, build_model, save_model
from limbeck.recipe import build_plan, describe_plan, load_recipe, recipe_digest, resolved
from limbeck.recipe.build import Workshop, plan_with
from limbeck.recipe.running import evaluate_run, resume_run, run_recipe
from limbeck.recipe.teacher_store import Store, is_trained

TINY = {"model": "cnn", "channels": [2, 4]}
FAST = {"epochs": 1, "batch_size": 256}


def _plan(changes: dict[str, Any], **options: Any) -> Any:
    document = {"data": "digits", "student": TINY, "method": "kd", "train": FAST, **changes}
    return build_plan(load_recipe(document), **options)


def _logits(teacher: Any, data: Any) -> torch.Tensor:
    teacher.bind(data, torch.device("cpu"))
    batch = data.splits["test"].fetch(torch.arange(4))
    return teacher.ask(batch.replace(inputs=data.augment_eval(batch.inputs))).logits


def test_a_plan_is_what_the_recipe_says() -> None:
    recipe = load_recipe(GOOD["kd"])
    plan = build_plan(recipe)
    assert plan.name == "kd"
    assert plan.seed == 3
    assert plan.task_weight == 0.1
    assert plan.methods == recipe.methods
    assert plan.train == recipe.train
    assert plan.trackers == ("tensorboard",)
    assert plan.recipe == resolved(recipe)
    labelled = plan.data.splits["train"].labelled
    assert int(labelled.sum()) == 100
    assert plan.student_spec["arguments"]["channels"] == (4, 8)
    shape = plan.make_student()(torch.zeros(2, 1, 8, 8)).shape
    assert shape == (2, 10)


def test_building_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    describe_plan(_plan({"teacher": MODEL_TEACHER}))
    assert torch.equal(torch.get_rng_state(), before)


def test_students_follow_the_seed_that_is_set() -> None:
    plan = _plan({"method": "plain"})
    torch.manual_seed(1)
    one = plan.make_student().state_dict()
    torch.manual_seed(1)
    again = plan.make_student().state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_a_cohort_is_one_module_with_peers_as_teacher() -> None:
    plan = _plan({"student": [TINY, {"model": "mlp", "widths": [8]}], "method": "dml"})
    student = plan.make_student()
    assert isinstance(student, Cohort)
    assert len(student.members) == 2
    assert list(plan.teachers) == ["peers"]
    assert [spec["model"] for spec in plan.student_spec] == ["cnn", "mlp"]


def test_weights_from_a_file_with_their_statistics(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[2, 4]).eval()
    path = save_model(module, tmp_path / "saved") / "model.safetensors"
    stats = {"mean": [0.5], "std": [0.25]}
    plan = _plan({"teacher": {**TINY, "weights": str(path), "normalize": stats}})
    heard = _logits(plan.teachers["teacher"], plan.data)
    raw = plan.data.splits["test"].fetch(torch.arange(4)).inputs
    with torch.no_grad():
        expected = module((raw - 0.5) / 0.25)
    assert torch.allclose(heard, expected, atol=1e-5)


def test_a_saved_students_weights_bring_the_statistics_it_was_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[2, 4]).eval()
    stats = {"normalisation": {"mean": [0.5], "std": [0.25]}}
    folder = save_model(module, tmp_path / "saved", None, stats)  # of Python: without a name
    with torch.no_grad():
        raw = _plan({"method": "plain"}).data.splits["test"].fetch(torch.arange(4)).inputs
        expected = module((raw - 0.5) / 0.25)
    for weights in (folder, folder / "model.safetensors"):
        plan = _plan({"teacher": {**TINY, "weights": str(weights)}})
        assert torch.allclose(_logits(plan.teachers["teacher"], plan.data), expected, atol=1e-5)
    with pytest.raises(TeacherError, match=r"^teacher: .*weights only.* say which network .*py:"):
        _plan({"teacher": {"run": str(folder)}})


def test_a_random_teacher_is_the_same_for_the_same_seed() -> None:
    first, again = (_plan({"teacher": MODEL_TEACHER, "seed": 4}) for _ in range(2))
    other = _plan({"teacher": MODEL_TEACHER, "seed": 5})
    heard = [_logits(plan.teachers["teacher"], plan.data) for plan in (first, again, other)]
    assert torch.equal(heard[0], heard[1])
    assert not torch.equal(heard[0], heard[2])


def test_forms_of_teachers() -> None:
    teachers = {
        "several": {"ensemble": [MODEL_TEACHER, MODEL_TEACHER], "merge": "probabilities"},
        "cooled": {"calibrated": MODEL_TEACHER, "temperature": 2},
        "rule": {"virtual": {"correct": 0.8}},
        "past": {"snapshot": {"every": 2, "start": 3}},
        "mean": {"ema": {"decay": 0.9}},
        "beside": {"online": {"model": "cnn", "channels": [8, 16]}},
        "plain": MODEL_TEACHER,
    }
    plan = _plan({"teachers": teachers, "method": {"name": "kd", "teacher": "several"}})
    assert list(plan.teachers) == list(teachers)
    assert all(plan.teachers[name].name == name for name in teachers)
    inner = _logits(plan.teachers["plain"], plan.data)
    assert torch.allclose(_logits(plan.teachers["cooled"], plan.data), inner / 2, atol=1e-6)
    together = _logits(plan.teachers["several"], plan.data)
    assert torch.allclose(together.softmax(-1), inner.softmax(-1), atol=1e-5)  # two of the same


def test_an_estimator_is_fitted_on_labelled_training_samples() -> None:
    forest = {"estimator": "RandomForestClassifier", "n_estimators": 20}
    data = {"name": "digits", "labels_per_class": 10}
    plan = _plan({"teacher": {"sklearn": forest}, "data": data})
    teacher = plan.teachers["teacher"]
    teacher.bind(plan.data, torch.device("cpu"))
    test = plan.data.splits["test"].fetch(torch.arange(200))
    heard = teacher.ask(test.replace(inputs=plan.data.augment_eval(test.inputs))).logits
    assert float((heard.argmax(-1) == test.targets).float().mean()) > 0.7
    again = _plan({"teacher": {"sklearn": forest}, "data": data}).teachers["teacher"]
    again.bind(plan.data, torch.device("cpu"))
    assert torch.equal(
        again.ask(test.replace(inputs=plan.data.augment_eval(test.inputs))).logits, heard
    )


@pytest.mark.parametrize(
    ("teacher", "line"),
    [
        ({"run": "/nowhere/run"}, "teacher.run: there is no folder /nowhere/run"),
        ({**TINY, "weights": "/nowhere/w.safetensors"}, "teacher.weights: there is no file"),
        ({"model": "/nowhere/net"}, "teacher"),
        ({"model": "py:os:system"}, "teacher"),
    ],
)
def test_teachers_that_cannot_be_built(teacher: dict[str, Any], line: str) -> None:
    with pytest.raises(LimbeckError) as caught:
        _plan({"teacher": teacher})
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_weights_of_another_form_name_the_key(tmp_path: Path) -> None:
    module = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[3])
    path = save_model(module, tmp_path / "saved") / "model.safetensors"
    with pytest.raises(LimbeckError, match=r"^teacher\.weights: "):
        _plan({"teacher": {**TINY, "weights": str(path)}})


def test_a_saved_student_of_other_classes_is_refused(tmp_path: Path) -> None:
    spec = {"model": "cnn", "num_classes": 7, "input_shape": [1, 8, 8], "arguments": {}}
    module = build_model("cnn", num_classes=7, input_shape=(1, 8, 8))
    save_model(module, tmp_path / "saved", spec)
    with pytest.raises(TeacherError, match="teacher: gives 7 classes, the data have 10"):
        _plan({"teacher": {"run": str(tmp_path / "saved")}})


# Teachers that are recipes.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAINED = {
    "data": {"name": "digits", "num_train": 200},
    "teacher": {"train": {"student": TINY, "method": "plain", "train": FAST}},
    "student": TINY,
    "method": "kd",
    "train": FAST,
}


def _build(document: dict[str, Any], *overrides: str, **options: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    plan = build_plan(load_recipe(document, overrides), say=said.append, quiet=True, **options)
    return plan, said


def test_a_teacher_is_trained_once_and_found_again(home: Path) -> None:
    first, said = _build(TRAINED)
    assert "is trained first" in said[0]
    (folder,) = [path for path in (home / "teachers").iterdir() if path.is_dir()]
    assert is_trained(folder)
    written = (folder / "student" / "model.safetensors").stat().st_mtime_ns
    again, said = _build(TRAINED, "name=other", "train.epochs=9", "seed=7", "output=elsewhere")
    assert "found again" in said[0]
    assert (folder / "student" / "model.safetensors").stat().st_mtime_ns == written
    heard = [_logits(plan.teachers["teacher"], plan.data) for plan in (first, again)]
    assert torch.equal(heard[0], heard[1])


@pytest.mark.parametrize(
    "change",
    ["teacher.train.seed=1", "teacher.train.train.epochs=2", "data.seed=1", "data.num_train=199"],
)
def test_what_changes_a_teacher_changes_its_place(change: str, home: Path) -> None:
    places = []
    for overrides in ([], [change]):
        recipe = load_recipe(TRAINED, overrides)
        data = Workshop(Store()).data(recipe.teacher.train)
        places.append(Store().place(recipe.teacher.train, data))
    assert places[0] != places[1]


def test_only_looking_trains_nothing(home: Path) -> None:
    plan, said = _build(TRAINED, train_teachers=False)
    assert "will be trained first" in said[0]
    assert not (home / "teachers").exists()
    assert any("smaller than the teacher" in line for line in describe_plan(plan))


def test_a_half_trained_teacher_is_trained_further(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {**TRAINED, "teacher": {"train": {**TRAINED["teacher"]["train"]}}}
    document["teacher"]["train"]["train"] = {**FAST, "epochs": 2}
    inner = load_recipe(document).teacher.train
    workshop = Workshop(Store(), quiet=True)
    place = Store().place(inner, workshop.data(inner))

    from limbeck.engine import distiller

    whole = distiller.Distiller._end_epoch

    def stop_after_the_first(self: Any) -> None:
        whole(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distiller.Distiller, "_end_epoch", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            _build(document)
    assert place.is_dir()
    assert not is_trained(place)
    _, said = _build(document)
    assert "is trained further" in said[0]
    assert is_trained(place)


def test_generations_are_recursion(home: Path) -> None:
    grand = {"student": TINY, "method": "plain", "train": FAST}
    middle = {"student": TINY, "method": "kd", "train": FAST, "teacher": {"train": grand}}
    _, said = _build({**TRAINED, "teacher": {"train": middle}})
    assert [line.split(":")[0] for line in said] == ["teacher.train.teacher.train", "teacher.train"]
    assert len([path for path in (home / "teachers").iterdir() if path.is_dir()]) == 2


def test_a_damaged_teacher_is_refused(home: Path) -> None:
    _build(TRAINED)
    (weights,) = (home / "teachers").glob("*/student/model.safetensors")
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    with pytest.raises(LimbeckError, match="damaged"):
        _build(TRAINED)


def test_two_processes_train_one_teacher_once(home: Path) -> None:
    """Whoever comes second waits at the lock, and then finds what the first one made."""
    fcntl = pytest.importorskip("fcntl")
    import threading

    inner = load_recipe(TRAINED).teacher.train
    workshop = Workshop(Store(), quiet=True)
    place = Store().place(inner, workshop.data(inner))
    place.parent.mkdir()
    said: list[str] = []
    waiting = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        waiting.set()

    def second() -> None:
        build_plan(load_recipe(TRAINED), say=say, quiet=True)

    thread = threading.Thread(target=second)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another open file: as good as another process
        thread.start()
        assert waiting.wait(60)
        assert "waiting for another process" in said[0]
        run_plan(plan_with(workshop, inner), place, quiet=True)
    thread.join(60)
    assert len(said) == 1  # it trained nothing


def test_the_digest_is_of_what_is_learned(tmp_path: Path) -> None:
    recipe = resolved(load_recipe(GOOD["kd"]))
    same = {**recipe, "name": "other", "output": "x", "trackers": [], "checkpoints": {"keep": 9}}
    assert recipe_digest(recipe) == recipe_digest(same)
    assert recipe_digest(recipe) == recipe_digest(dict(reversed(list(recipe.items()))))
    assert recipe_digest(recipe) != recipe_digest({**recipe, "seed": 4})
    digests = []
    for place in ("a", "b"):
        (tmp_path / place).write_bytes(b"weights")
        teacher = {"model": "cnn", "weights": str(tmp_path / place)}
        digests.append(recipe_digest({**recipe, "teacher": teacher}))
    (tmp_path / "b").write_bytes(b"others")
    digests.append(recipe_digest({**recipe, "teacher": teacher}))
    assert digests[0] == digests[1] != digests[2]


# Running.


def test_run_resume_and_evaluate(home: Path) -> None:
    said: list[str] = []
    outcome = run_recipe(TRAINED, say=said.append, output=home / "run", quiet=False)
    assert outcome is not None
    assert any(line.startswith("test: accuracy") for line in said)
    scores = evaluate_run(home / "run")
    assert scores == pytest.approx(dict(outcome.summary["metrics"]["test"]), abs=1e-6)
    assert "agreement" in scores
    assert "agreement" not in evaluate_run(home / "run", "validation")
    with pytest.raises(RecipeError, match="holds a run already; go on with it"):
        run_recipe(TRAINED, output=home / "run", quiet=True)
    with pytest.raises(RecipeError, match=r"^seed: the run in .* has 0, the recipe 1"):
        run_recipe(TRAINED, ["seed=1"], output=home / "run", resume=True, quiet=True)
    with pytest.raises(RecipeError, match="unknown split 'tset': did you mean 'test'"):
        evaluate_run(home / "run", "tset")
    assert resume_run(home / "run", quiet=True).summary["status"] == "done"


def test_runs_from_python_objects_say_where_they_can_go_on(home: Path) -> None:
    plan, _ = _build({**TRAINED, "method": "plain", "teacher": None})
    import dataclasses

    record = {"version": 1, "name": "x", "student": {"python": "torch.nn.Linear"}}
    run_plan(dataclasses.replace(plan, recipe=record), home / "run", quiet=True)
    with pytest.raises(CheckpointError, match=r"go on in Python: limbeck\.distill"):
        resume_run(home / "run")


def test_the_summary_names_everything(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(describe_plan(build_plan(load_recipe(GOOD["kd"]))))
    for part in (
        "train 1,069 (100 labelled + 969 unlabelled); validation 189; test 539",
        "smaller than the teacher",
        "kd(weight=0.9, temperature=2.0",
        "0.1 (as the recipe says)",
        "2 epochs, batch size 32, gradient norm at most 1",
        "adamw, lr 0.003, betas 0.9 and 0.99",
        "multistep at 0.5, 0.75 by 0.2",
        "seed",
        "float32",
    ):
        assert part in text, part
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the hint is for CPUs
    for student, said, hinted in (("cnn", False, 1), ("cnn", True, 0), ("mlp", False, 0)):
        written = {"student": student, "train": {"channels_last": said}}
        lines = describe_plan(_plan({"teacher": MODEL_TEACHER, **written}))
        assert sum(line.startswith("hint") for line in lines) == hinted
    default = "\n".join(describe_plan(_plan({"teacher": MODEL_TEACHER})))
    assert "0.1 (default of kd)" in default
