"""Run folders are read whole, or refused in one line that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from limbeck.errors import DataError
from limbeck.reports.reading import RunRecord, flatten, read_run, read_runs


@pytest.fixture
def run(study: Path, tmp_path: Path) -> Path:
    """A private copy of a finished run."""
    return Path(shutil.copytree(study / "KD-0", tmp_path / "run"))


def test_a_finished_run_is_read(run: Path) -> None:
    record = read_run(run)
    assert (record.name, record.seed, record.status, record.done) == ("KD", 0, "done", True)
    assert record.task == "classification"
    summary = json.loads((run / "summary.json").read_text())
    assert record.metric("accuracy") == summary["metrics"]["test"]["accuracy"]
    assert record.teacher_metric("teacher", "accuracy") is not None
    assert record.metric("nothing") is None
    assert len(record.rows("eval")) == 12
    assert record.predictions is not None
    assert record.predictions["student_logits"].shape == (400, 10)


def test_settings_leave_out_name_seed_and_book_keeping(run: Path) -> None:
    settings = read_run(run).settings
    assert settings["train.optimizer.lr"] == 0.1
    assert settings["method.0.temperature"] == 4.0
    assert not {"name", "seed", "format"} & set(settings)


def test_settings_forget_the_seed_in_a_teacher_of_this_seed(tmp_path: Path) -> None:
    def record(seed: int) -> RunRecord:
        recipe = {"teacher": {"run": f"runs/big-{seed}"}, "seed": seed, "output": f"x/{seed}"}
        return RunRecord(tmp_path, recipe)

    assert record(3).settings == record(12).settings


def test_an_unfinished_run_is_read_as_far_as_it_got(run: Path) -> None:
    (run / "summary.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:30]) + '\n{"kind": "tra')
    record = read_run(run)
    assert not record.done
    assert record.status == "unfinished"
    assert record.name == "KD"
    assert len(record.metrics) == 30
    assert record.notes == ("the last line of metrics.jsonl was cut off and is left out",)


def test_the_status_of_a_run_still_going_is_shown(run: Path) -> None:
    (run / "summary.json").write_text('{"name": "KD", "status": "running"}')
    assert read_run(run).status == "running"


def test_an_automatic_task_is_told_by_its_metrics(
    study: Path, regression: Path, multilabel: Path
) -> None:
    folders = {"classification": study, "regression": regression, "multilabel": multilabel}
    for kind, root in folders.items():
        record = read_runs([root])[0]
        for task in ("auto", {"kind": "auto", "weight": None}):
            changed = RunRecord(
                record.path, {**record.recipe, "task": task}, {}, record.metrics, (), record.summary
            )
            assert changed.task == kind


def cut_json(run: Path) -> None:
    (run / "summary.json").write_text('{"name": "KD",')


def list_json(run: Path) -> None:
    (run / "summary.json").write_text("[]")


def bad_yaml(run: Path) -> None:
    (run / "recipe.yaml").write_text("a: [1,\nb: }")


def text_yaml(run: Path) -> None:
    (run / "recipe.yaml").write_text("just text")


def no_recipe(run: Path) -> None:
    (run / "recipe.yaml").unlink()


def no_metrics(run: Path) -> None:
    (run / "metrics.jsonl").unlink()


def broken_line(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "not json", *lines[2:]]))


def not_text(run: Path) -> None:
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")


def newer(run: Path) -> None:
    (run / "summary.json").write_text('{"format": 2, "status": "done"}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_json, r"summary\.json is damaged: .* at line 1$"),
        (list_json, r"summary\.json is damaged: expected a JSON object$"),
        (bad_yaml, r"recipe\.yaml is damaged: not YAML at line 2$"),
        (text_yaml, r"recipe\.yaml is damaged: expected a mapping of settings$"),
        (no_recipe, r"recipe\.yaml is missing$"),
        (no_metrics, r"metrics\.jsonl is missing, though the run is done$"),
        (broken_line, r"metrics\.jsonl is damaged: line 2 is no JSON object$"),
        (not_text, r"metrics\.jsonl is damaged: no UTF-8 at byte 0$"),
        (newer, r"summary\.json is of format 2: this version reads up to 1$"),
    ],
)
def test_damage_is_named_in_one_line(
    run: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(run)
    with pytest.raises(DataError, match=message) as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"targets": np.zeros(3, np.int64)}, "has no 'student_logits'"),
        (
            {"student_logits": np.zeros((3, 2), np.float32), "targets": np.zeros(4, np.int64)},
            "do not belong together",
        ),
        (
            {
                "student_logits": np.zeros((3, 2), np.float32),
                "targets": np.zeros(3, np.int64),
                "teacher_logits": np.zeros((3, 5), np.float32),
            },
            r"teacher_logits \(3, 5\), student_logits \(3, 2\)",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_refused(
    run: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    save_file(arrays, run / "predictions.safetensors")
    with pytest.raises(DataError, match=message):
        assert read_run(run).predictions


def test_cut_predictions_are_refused_in_one_line(run: Path) -> None:
    file = run / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"predictions\.safetensors is damaged") as caught:
        assert read_run(run).predictions
    assert "\n" not in str(caught.value)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder at"):
        read_run(tmp_path / "none")
    with pytest.raises(DataError, match=r"is no run folder: it holds none of summary\.json"):
        read_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file: expected a run folder"):
        read_run(tmp_path / "file")
    with pytest.raises(DataError, match="no runs to report on"):
        read_runs([])


def test_a_folder_of_runs_stands_for_its_runs_once(study: Path) -> None:
    records = read_runs([study, study / "KD-1"])
    assert [record.path.name for record in records] == [
        *(f"KD-{seed}" for seed in range(3)),
        *(f"alone-{seed}" for seed in range(3)),
    ]


def test_flatten_follows_lists_of_mappings() -> None:
    document = {"a": {"b": 1, "c": {}}, "d": [{"e": 2}], "f": [3, 4]}
    assert flatten(document) == {"a.b": 1, "a.c": {}, "d.0.e": 2, "f": [3, 4]}


def test_pages_and_the_store_of_teachers_among_several_folders_are_passed_over(
    run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "teachers" / "c5fe")
    (tmp_path / "report.html").write_text("a page")
    assert [record.path.name for record in read_runs(sorted(tmp_path.iterdir()))] == ["run"]
    assert [record.path.name for record in read_runs([tmp_path / "teachers"])] == ["c5fe"]
    with pytest.raises(DataError, match=r"report\.html"):
        read_runs([tmp_path / "report.html"])
