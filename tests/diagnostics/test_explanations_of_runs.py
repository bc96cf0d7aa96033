"""`limbeck diagnose RUN --explanations`: of a finished run, in words, as JSON and in its report."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from limbeck.cli.app import app
from limbeck.data import load_data
from limbeck.diagnostics import compare_explanations
from limbeck.diagnostics.of_runs import explanations_of_run
from limbeck.diagnostics.telling_explanations import explanation_lines, findings_as_plain
from limbeck.errors import DataError, MethodError, RecipeError, ShapeError, TeacherError
from limbeck.models import build_model, load_model
from limbeck.recipe.running import run_recipe
from limbeck.reports.evidence import gather
from limbeck.reports.explanations import explanation_tables
from limbeck.reports.html import render
from limbeck.reports.reading import read_runs
from limbeck.teachers import LiveTeacher, as_teacher

PATCHED = {"name": "patched-digits", "images": "digits", "num_train": 120}
TEACHER = {
    "data": PATCHED | {"agreement": 0.5},
    "student": {"model": "cnn", "channels": [4, 8]},
    "method": "plain",
    "train": {"epochs": 1},
}
RECIPE = {
    "name": "maps",
    "data": PATCHED | {"agreement": 1.0},
    "teacher": {"train": TEACHER},
    "student": {"model": "cnn", "channels": [2, 4]},
    "method": {"name": "e2kd", "lam": 2, "explainer": "input_gradient"},
    "train": {"epochs": 1},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished run of a student and its teacher on patched digits."""
    folder = tmp_path_factory.mktemp("explained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_recipe(RECIPE, output="run", quiet=True)
        alone = {key: RECIPE[key] for key in ("data", "student", "train")}
        run_recipe({**alone, "method": "plain"}, output="alone", quiet=True)
        yield folder


def told(*arguments):
    done = CliRunner().invoke(app, ["diagnose", *map(str, arguments)])
    return done.exit_code, done.stdout, str(done.exception or "") + (done.stderr or "")


def test_it_is_what_python_finds_on_the_same_networks(home):
    found = explanations_of_run(home / "run")
    assert found.explainer == "input_gradient"  # the run's own
    data = load_data(**RECIPE["data"])
    (teacher,) = (home / "runs/teachers").glob("*/student")
    networks = load_model(home / "run/student"), load_model(teacher)
    expected = compare_explanations(*networks, data, explainer="input_gradient")
    assert found == expected
    summary = json.loads((home / "run/summary.json").read_text())["metrics"]["test"]
    assert found.agreement == pytest.approx(summary["agreement"])
    assert found.accuracy == pytest.approx(summary["accuracy"])
    assert found.worst_group_accuracy == pytest.approx(summary["worst_group_accuracy"])
    assert 0 < found.student_energy < 1
    names = [one.name for one in found.groups]
    assert names == ["low, left", "low, right", "high, left", "high, right"]


def test_parts_make_up_the_whole(home):
    found = explanations_of_run(home / "run", explainer="gradcam", split="validation")
    for parts in (found.classes, found.groups):
        assert sum(one.num_samples for one in parts) == found.num_samples
        for key in ("accuracy", "agreement", "similarity"):
            whole = sum(one.num_samples * getattr(one, key) for one in parts)
            assert whole / found.num_samples == pytest.approx(getattr(found, key))
    assert found.worst_group_accuracy == min(one.accuracy for one in found.groups)


def test_agreement_on_errors_counts_the_teachers_errors_alone(home):
    data = load_data(**RECIPE["data"])
    torch.manual_seed(1)
    shape = {"num_classes": 2, "input_shape": (1, 8, 8), "channels": (2, 4)}
    one, other = build_model("cnn", **shape).eval(), build_model("cnn", **shape).eval()
    found = compare_explanations(one, other, data)
    view = data.splits["test"]
    batch = view.fetch(torch.arange(len(view)))
    images = data.augment_eval(batch.inputs, batch.index)
    ours, theirs = one(images).argmax(1), other(images).argmax(1)
    wrong = theirs != batch.targets
    assert found.agreement_on_errors == pytest.approx(
        float((ours == theirs)[wrong].double().mean())
    )
    assert found.teacher_accuracy == pytest.approx(1 - float(wrong.double().mean()))


def test_lines_and_json_say_the_same_and_are_kept(home):
    code, out, _ = told(home / "run", "--explanations")
    assert code == 0
    found = explanations_of_run(home / "run")
    assert out.splitlines()[: len(lines := list(explanation_lines(found)))] == lines
    assert f"similarity  {found.similarity:5.3f}  cosine of the two maps" in out
    assert "kept in" in out
    kept = json.loads((home / "run/explanations.json").read_text())
    assert (kept.pop("format"), kept.pop("teacher")) == (1, None)
    assert kept == json.loads(json.dumps(findings_as_plain(found)))
    code, out, _ = told(home / "run", "--explanations", "--json")
    assert json.loads(out) == kept


def test_other_data_leave_what_was_kept(home):
    told(home / "run", "--explanations", "--split", "validation")
    before = (home / "run/explanations.json").read_text()
    code, out, _ = told(home / "run", "--explanations", "data.patch_seed=3")
    assert code == 0
    assert "kept in" not in out
    assert (home / "run/explanations.json").read_text() == before


def test_another_run_can_be_the_teacher(home):
    code, out, _ = told(home / "alone", "--explanations", "--teacher", home / "run", "--json")
    assert code == 0
    assert json.loads(out)["explainer"] == "gradcam"
    assert json.loads((home / "alone/explanations.json").read_text())["teacher"] == "run"


@pytest.mark.slow  # draws every plot of a page
def test_the_report_shows_them(home):
    told(home / "run", "--explanations")
    found = json.loads((home / "run/explanations.json").read_text())
    page = render(gather(read_runs([home / "run"])))
    assert '<section id="explanations"' in page
    assert "Likeness of maps" in page
    assert "low, right" in page
    assert f"{100 * found['student_energy']:.1f}" in page


def test_what_a_report_finds_in_the_folders(home):
    file = home / "run/explanations.json"

    def tables():
        return explanation_tables(gather(read_runs([home / "run"])))

    told(home / "run", "--explanations", "--teacher", home / "alone")
    found = tables()
    shown = {
        one.key: cell.value
        for one, cell in zip(found.arms.columns, found.arms.rows[0].cells, strict=True)
    }
    kept = json.loads(file.read_text())
    del shown["arm"]
    assert shown == pytest.approx({key: kept[key] for key in shown})
    assert "Beside the student of alone." in found.arms.notes[0]
    assert [one.caption for one in found.parts] == ["maps, by class", "maps, by group"]
    file.write_text("{")
    with pytest.raises(DataError, match=r"explanations.json is damaged"):
        tables()
    file.write_text('{"format": 2}')
    with pytest.raises(DataError, match=r"explanations.json is of format 2"):
        tables()
    file.unlink()
    assert tables() is None


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--explainer", "gradcam"], "--explainer: belongs to --explanations"),
        (["--split", "test"], "--split: belongs to --explanations"),
        (
            ["--explanations", "--loyalty"],
            "--loyalty and --explanations: each is a question of its own",
        ),
        (["--explanations", "--explainer", "gradcamm"], "did you mean 'gradcam'"),
        (["--explanations", "--split", "tset"], "one of the splits train, validation, test"),
    ],
)
def test_options_that_do_not_fit_are_one_line(home, options, line):
    code, _, error = told(home / "run", *options)
    assert code == 2
    assert line in error


def test_a_run_without_a_teacher_names_the_way_out(home):
    with pytest.raises(RecipeError, match=r"expected one teacher, the run has none; .*--teacher"):
        explanations_of_run(home / "alone")


def test_networks_and_data_that_cannot_be_explained():
    data = load_data("digits", num_train=64)
    shape = {"num_classes": 10, "input_shape": (1, 8, 8)}
    cnn, mlp = build_model("cnn", **shape), build_model("mlp", **shape)
    with pytest.raises(MethodError, match=r"gradcam, student: .*input_gradient explains any net"):
        compare_explanations(mlp, cnn, data)
    with pytest.raises(TeacherError, match=r"gives no gradients, which explanations are made of"):
        compare_explanations(cnn, as_teacher(lambda batch: torch.zeros(len(batch), 10)), data)
    masks = torch.ones(len(data.splits["test"]), 28, 28)
    with pytest.raises(ShapeError, match=r"masks: of size \[28, 28\], the inputs are of size \[8,"):
        compare_explanations(cnn, cnn, data, masks=masks)


def test_a_teachers_own_statistics_count(home):
    """A Teacher sees its inputs as it was set up to, not as the student does."""
    from limbeck.data import Normalize

    data = load_data(**RECIPE["data"])
    torch.manual_seed(0)
    shape = {"num_classes": 2, "input_shape": (1, 8, 8), "channels": (2, 4)}
    student, network = build_model("cnn", **shape), build_model("cnn", **shape)
    plain = compare_explanations(student, network, data)
    moved = LiveTeacher(network, normalization=Normalize((0.9,), (0.1,)))
    other = compare_explanations(student, moved, data)
    assert other.similarity != plain.similarity
    same = compare_explanations(student, LiveTeacher(network), data)
    assert dataclasses.asdict(same) == dataclasses.asdict(plain)
