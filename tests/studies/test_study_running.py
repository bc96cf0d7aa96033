"""Real processes: a tiny study, found again, killed, stopped, with an arm that fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_study import TINY, tiny

from limbeck.errors import DataError, RecipeError
from limbeck.studies import load_study, run_study
from limbeck.studies.crew import Answer, Crew
from limbeck.studies.folder import StudyFolder
from limbeck.studies.planning import plan_study

CALL = [sys.executable, "-c", "from limbeck.cli import main; main()"]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def _files(folder: Path, name: str) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob(name))
        if f.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The tiny study, run once by two processes, and what it said."""
    folder = tmp_path_factory.mktemp("study") / "tiny"
    lines: list[str] = []
    results = run_study(TINY, output=folder, jobs=2, say=lines.append)
    assert results is not None
    return folder, lines


def test_every_run_is_a_run_folder(finished: tuple[Path, list[str]]) -> None:
    folder, lines = finished
    runs = sorted((folder / "runs").iterdir())
    assert len(runs) == 8
    for run in runs:
        assert json.loads((run / "summary.json").read_text())["status"] == "done"
        assert json.loads((run / "environment.json").read_text())["threads"] == 1
    results = json.loads((folder / "results.json").read_text())
    assert results["failed"] == {}
    assert results["missing"] == {}
    assert [len(arm["test"]["accuracy"]) for arm in results["arms"]] == [2, 2]
    assert [line for line in lines if line.startswith("[8/8]")]
    assert any("left" in line for line in lines if line.startswith("[2/8]"))
    assert any("kd: chosen on validation: temperature=" in line for line in lines)


def test_a_teacher_is_trained_once_for_all_who_ask(finished: tuple[Path, list[str]]) -> None:
    teachers = [path for path in (finished[0] / "teachers").iterdir() if path.is_dir()]
    assert len(teachers) == 1
    epochs = [json.loads(line) for line in (teachers[0] / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in epochs if row["kind"] == "epoch"]) == 2  # not twice 2


def test_finished_runs_are_found_again(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    before = _files(folder / "runs", "*")
    lines: list[str] = []
    run_study(TINY, output=folder, say=lines.append)
    assert _files(folder / "runs", "*") == before
    assert any("runs    8, of which 8 are finished" in line for line in lines)
    assert not any(line.startswith("[") for line in lines)


def test_a_run_is_what_limbeck_run_gives(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    from limbeck.recipe.running import run_recipe

    plan = plan_study(load_study(TINY))
    run = plan.arms[0].trials[0].run(0)
    mine = run_recipe(run.document, output=tmp_path / "alone", quiet=True)
    assert mine is not None
    place = StudyFolder(finished[0]).place(run)
    if place.exists():  # the chosen trial decides whether the study ran it
        alone = (tmp_path / "alone" / "metrics.jsonl").read_text()
        assert (place / "metrics.jsonl").read_text() == alone


def test_report_only_runs_nothing(tmp_path: Path) -> None:
    results = run_study(TINY, output=tmp_path / "none", report_only=True, quiet=True)
    assert results is not None
    assert not results.has_runs
    assert not (tmp_path / "none").exists()


def test_a_dry_run_lists_the_runs_and_an_estimate(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    lines: list[str] = []
    assert run_study(TINY, output=tmp_path / "new", dry_run=True, say=lines.append) is None
    assert "  to run    plain, trial lr=0.05, seed 7" in lines
    assert "  to come   kd, the chosen trial, seed 1" in lines
    assert any("no run is finished yet, so no estimate" in line for line in lines)
    assert not (tmp_path / "new").exists()
    more: list[str] = []
    longer = tiny(seeds=[0, 1, 2])
    run_study(longer, output=finished[0], dry_run=True, say=more.append)
    assert sum(line.startswith("  finished") for line in more) == 8
    assert any("10, of which 8 are finished" in line and "; about " in line for line in more)


def test_an_estimate_comes_from_published_results(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "results.json").write_text(json.dumps({"arms": [{"seconds": 30.0}]}))
    lines: list[str] = []
    run_study(
        tmp_path / "study.yaml", output=tmp_path / "o", jobs=2, dry_run=True, say=lines.append
    )
    assert any("about 2 min, from the results beside the study" in line for line in lines)


def test_an_arm_that_fails_is_kept_apart_and_the_rest_goes_on(tmp_path: Path) -> None:
    study = tiny(
        arms__kd__trials=[
            {"train.optimizer.lr": 1e30, "method.temperature": 1},
            {"method.temperature": 4},
        ],
        seeds=[0],
    )
    lines: list[str] = []
    results = run_study(study, output=tmp_path, jobs=2, say=lines.append)
    assert results is not None
    (reason,) = results.failed.values()
    assert "lr=1e+30" in next(iter(results.failed))
    assert results.arms[1].chosen is results.plan.arms[1].trials[1]
    assert len(results.arms[1].summaries) == len(results.arms[0].summaries) == 1
    (apart,) = (tmp_path / "failed").iterdir()
    assert json.loads((apart / "reason.json").read_text())["reason"] == reason
    assert not (tmp_path / "runs" / apart.name).exists()
    assert any("failed: " in line and "kept apart in" in line for line in lines)
    # it is told again, not tried again, until that is asked for
    again: list[str] = []
    run_study(study, output=tmp_path, say=again.append)
    assert any("failed before: " in line and "--retry-failed" in line for line in again)
    retried: list[str] = []
    run_study(study, output=tmp_path, retry_failed=True, say=retried.append)
    assert any("kept apart in" in line for line in retried)


def test_a_fault_of_ours_fails_one_run_with_its_traceback(tmp_path: Path) -> None:
    study = tiny(seeds=[0], arms__plain__grid=..., arms__kd__trials=[{}])
    # a file where the teachers' folder should be: a fault that no check foresees
    tmp_path.joinpath("teachers").write_text("in the way")
    results = run_study(study, output=tmp_path, jobs=1, quiet=True)
    assert results is not None
    assert len(results.arms[0].summaries) == 1
    assert list(results.failed) == ["kd, seed 0"]


def test_two_studies_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with (
        folder.alone(),
        pytest.raises(RecipeError, match=r"another process runs a study in .*--output"),
    ):
        run_study(TINY, output=tmp_path, quiet=True)


def test_jobs_must_be_positive() -> None:
    with pytest.raises(RecipeError, match=r"jobs: expected at least 1, got 0"):
        run_study(TINY, jobs=0)


def test_missing_data_stop_the_study_and_leave_nothing(tmp_path: Path) -> None:
    study = tiny(recipe__data={"name": "mnist", "root": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=r"^plain, trial lr=0\.\d+, seed 7: data 'mnist': "):
        run_study(study, output=tmp_path / "out", jobs=1, quiet=True)
    assert not (tmp_path / "out" / "failed").exists()


def test_a_worker_that_is_stopped_by_others_hands_its_job_back() -> None:
    with Crew(1) as crew:
        crew.give(_stalling_job())
        crew._members[0].process.send_signal(signal.SIGTERM)
        assert _next(crew) == Answer("stopped", "x")
        assert crew.busy == 0


def test_a_worker_that_dies_fails_its_run_alone() -> None:
    with Crew(1) as crew:
        crew.give(_stalling_job())
        crew._members[0].process.kill()
        answer = _next(crew)
        assert (answer.event, answer.id) == ("failed", "x")
        assert answer.text == "its process was ended by SIGKILL (out of memory?)"
        assert crew.has_room


def _stalling_job() -> dict[str, Any]:
    return {"id": "x", "recipe": {}, "folder": "f", "lock": "l", "store": "s", "allow_code": False}


def _next(crew: Crew) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = crew.wait(0.5)
        if answer is not None:
            return answer
    raise AssertionError("no answer")


# Stopping and being killed.

LONG = tiny(
    recipe__train={"epochs": 80, "batch_size": 50},
    arms__plain__grid=...,
    arms__kd__trials=[{}],
)


def _start(tmp_path: Path) -> "subprocess.Popen[str]":
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(LONG))
    process = subprocess.Popen(
        [*CALL, "study", "study.yaml", "-o", "out", "-j", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # whoever runs the tests in the background has left them deaf to Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out" / "runs").glob("*/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def _workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    return [int(child) for child in children.read_text().split()]


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_ctrl_c_leaves_checkpoints_and_the_line_that_goes_on(tmp_path: Path) -> None:
    process = _start(tmp_path)
    workers = _workers_of(process.pid)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("interrupted; finished runs are kept; go on with: ")
    assert err.splitlines()[-1].endswith("study study.yaml -o out -j 2")
    assert "Traceback" not in out + err
    assert _gone(workers)
    statuses = {
        json.loads(file.read_text())["status"]
        for file in (tmp_path / "out" / "runs").glob("*/summary.json")
    }
    assert "interrupted" in statuses


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    process = _start(tmp_path)
    workers = _workers_of(process.pid)
    process.kill()
    process.communicate()
    assert _gone(workers)  # they learn that nobody listens, and stop with a checkpoint
    results = run_study(LONG, output=tmp_path / "out", jobs=2, quiet=True)
    whole = run_study(LONG, output=tmp_path / "whole", jobs=2, quiet=True)
    assert results is not None
    assert whole is not None
    assert _numbers(results.as_json()) == _numbers(whole.as_json())
    cut, kept = (_files(tmp_path / name / "runs", "metrics.jsonl") for name in ("out", "whole"))
    assert cut == kept


def _numbers(results: dict[str, Any]) -> dict[str, Any]:
    for arm in results["arms"]:
        arm.pop("seconds")
    results.pop("claims_written")
    return results
