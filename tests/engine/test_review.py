"""What reviewers broke: cohorts, odd students and labels, interruptions."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from five_methods import make_plan, network, teacher_network
from killing import differing, evidence
from review_ranks import run_two_ranks
from reviewing import Stop, cohort_plan, lines, stop_after
from torch import nn

from limbeck.engine.distiller import Distiller
from limbeck.engine.evaluate import score
from limbeck.engine.plan import Plan
from limbeck.engine.progress import Best
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Checkpoints
from limbeck.engine.signals import Interrupted
from limbeck.errors import CheckpointError, LimbeckError, MethodError, NonFiniteError, RecipeError
from limbeck.methods import as_methods
from limbeck.models import Cohort, load_model, model_spec
from limbeck.teachers.live import LiveTeacher

# Cohorts.


def test_an_ensemble_is_one_network_that_reads_back(tmp_path: Path) -> None:
    specs = [
        model_spec("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[width, 8])
        for width in (4, 6)
    ]
    plan = replace(cohort_plan("kd", "dml"), cohort="ensemble", student_spec=specs)
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    inputs = torch.rand(5, 1, 8, 8)
    logits = outcome.student(inputs)
    members = torch.stack([member(inputs) for member in outcome.student.members])  # type: ignore
    assert torch.equal(logits, members.mean(dim=0))
    assert torch.equal(load_model(tmp_path / "run" / "student")(inputs), logits)
    validation = [r for r in lines(tmp_path / "run", "eval") if r["split"] == "validation"]
    best = max(validation[:-1], key=lambda record: float(record["accuracy"]))
    for name, value in outcome.summary["metrics"]["validation"].items():
        if name not in ("disagreement", "member_accuracy"):  # measured once, at the end
            assert value == pytest.approx(best[name], abs=1e-12), name
    assert outcome.summary["best_member"] == -1


def test_the_loss_of_a_cohort_is_the_weighted_sum_of_its_terms(tmp_path: Path) -> None:
    """KD names no teacher: peers are not meant."""
    fitnet = {"name": "fitnet", "teacher": "teacher", "weight": 0.7}
    run_plan(cohort_plan("kd", "dml", fitnet), tmp_path / "run", quiet=True)
    for record in lines(tmp_path / "run", "train"):
        expected = 0.1 * record["task"] + 0.9 * record["kd"] + record["dml"]
        assert record["loss"] == pytest.approx(expected + 0.7 * record["fitnet"], rel=1e-6)


def test_terms_of_a_method_that_stands_twice_are_told_apart(tmp_path: Path) -> None:
    teachers = {"a": LiveTeacher(teacher_network()), "b": LiveTeacher(network(4, 8))}
    methods = [{"name": "kd", "teacher": "a"}, {"name": "kd", "teacher": "b", "weight": 0.3}]
    plan = replace(make_plan("kd"), teachers=teachers, methods=as_methods(methods))
    run_plan(plan, tmp_path / "run", quiet=True)
    for record in lines(tmp_path / "run", "train"):
        expected = 0.1 * record["task"] + 0.9 * record["kd@a"] + 0.3 * record["kd@b"]
        assert record["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_cohort_of_one_is_a_student(tmp_path: Path) -> None:
    plan = replace(make_plan("fitnet"), make_student=lambda: Cohort([network(4, 8)]))
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    assert type(outcome.student) is type(network(4, 8))


# Students and labels.


@pytest.mark.parametrize(
    ("make_student", "message"),
    [
        (lambda: network(4, 8).double(), r"student: cannot read inputs of shape \[2, 1, 8, 8\]"),
        (lambda: network(4, 8).requires_grad_(False), r"student: has no trainable parameters"),
    ],
)
def test_students_that_cannot_learn_are_one_line(
    make_student: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        run_plan(replace(make_plan("kd"), make_student=make_student), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_without_terms_is_one_line(tmp_path: Path) -> None:
    plan = replace(make_plan("kd"), methods=as_methods("plain"), task_weight=0.0)
    with pytest.raises(MethodError, match="no term of the loss teaches the student anything"):
        run_plan(plan, tmp_path / "run", quiet=True)


def test_metrics_leave_out_single_outputs_without_a_label() -> None:
    torch.manual_seed(3)
    logits, truth = torch.randn(60, 3), (torch.rand(60, 3) < 0.4).float()
    holes = torch.rand(60, 3) < 0.2
    partial = truth.masked_fill(holes, torch.nan)
    from torchmetrics.functional import classification as reference

    known = ~holes
    marked = partial.nan_to_num(-1).long()
    scores = score("multilabel", logits, partial)
    for name, function in (
        ("map", reference.multilabel_average_precision),
        ("f1", reference.multilabel_f1_score),
    ):
        expected = function(logits.sigmoid(), marked, 3, ignore_index=-1)
        assert scores[name] == pytest.approx(float(expected), rel=1e-5)
    values = score("regression", logits, partial)
    gap = (logits - truth)[known].double()
    assert values["mse"] == pytest.approx(float(gap.pow(2).mean()))
    assert values["mae"] == pytest.approx(float(gap.abs().mean()))
    spread = sum(
        float((truth[known[:, k], k].double() - truth[known[:, k], k].double().mean()).pow(2).sum())
        for k in range(3)
    )
    assert values["r2"] == pytest.approx(1 - float(gap.pow(2).sum()) / spread)


def test_nan_is_never_the_best() -> None:
    assert not Best().beaten_by(float("nan"), higher=True)
    assert not Best(0.5, 0).beaten_by(float("nan"), higher=False)


# Checkpoints and interruptions.


def test_step_checkpoints_that_fall_on_epoch_ends_are_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(every_epochs=100, every_steps=10, keep=9)
    plan = replace(make_plan("kd", epochs=3), checkpoints=checkpoints)
    run_plan(plan, tmp_path / "run", quiet=True)
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert found == ["step-00000010", "step-00000015"]


def test_spoilt_weights_are_not_checkpointed(tmp_path: Path) -> None:
    """A gradient can overflow where the loss is finite."""
    real, done = Distiller._train_step, [0]

    def spoil(self: Distiller, *args: Any) -> None:
        real(self, *args)
        done[0] += 1
        if done[0] == 6:
            next(self.parts.student.parameters()).data.fill_(torch.inf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distiller, "_train_step", spoil)
        with pytest.raises(NonFiniteError, match=r"step 6 .* last good checkpoint: step-00000005"):
            run_plan(make_plan("kd"), tmp_path / "run", quiet=True)


def test_resuming_with_another_seed_is_refused(tmp_path: Path) -> None:
    stop_after(8, make_plan("kd"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="begun with seed 3, expected 4"):
        run_plan(replace(make_plan("kd"), seed=4), tmp_path / "run", resume=True, quiet=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_plan(make_plan("kd"), folder, quiet=True)
    return folder


def test_a_checkpoint_damaged_twice_is_put_away_twice(undisturbed: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(undisturbed, tmp_path / "run")
    for _ in range(2):
        last = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
        (last / "state.json").write_text("{")
        run_plan(make_plan("kd"), tmp_path / "run", resume=True, quiet=True)
    assert differing(evidence(undisturbed), evidence(tmp_path / "run")) == []
    for file in (tmp_path / "run" / "best").iterdir():
        file.write_bytes(b"spoilt")
    with pytest.raises(CheckpointError, match="the best student cannot be read"):
        run_plan(make_plan("kd"), tmp_path / "run", resume=True, quiet=True)


def test_ctrl_c_during_the_last_evaluation_is_not_lost(undisturbed: Path, tmp_path: Path) -> None:
    import limbeck.engine.measuring as measuring

    real, asked = measuring.Judge.validate, [0]

    def press(self: Any, student: nn.Module) -> Any:
        asked[0] += 1
        if asked[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, student)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.Judge, "validate", press)
        with pytest.raises(Interrupted):
            run_plan(make_plan("kd"), tmp_path / "run", quiet=True)
    run_plan(make_plan("kd"), tmp_path / "run", resume=True, quiet=True)
    assert differing(evidence(undisturbed), evidence(tmp_path / "run")) == []


def test_a_second_ctrl_c_inside_a_checkpoint_loses_nothing(
    undisturbed: Path, tmp_path: Path
) -> None:
    import limbeck.engine.checkpoint as checkpoint

    real, written = checkpoint._write_parts, [0]

    def press(*args: Any) -> None:
        written[0] += 1
        real(*args)
        if written[0] == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_write_parts", press)
        with pytest.raises(KeyboardInterrupt) as caught:
            run_plan(make_plan("kd"), tmp_path / "run", quiet=True)
    assert not isinstance(caught.value, Interrupted)
    assert not list((tmp_path / "run" / "checkpoints").glob(".writing-*"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    run_plan(make_plan("kd"), tmp_path / "run", resume=True, quiet=True)
    assert differing(evidence(undisturbed), evidence(tmp_path / "run")) == []


@pytest.mark.parametrize("where", ["final", "save_model", "write_summary"])
def test_a_death_in_the_end_game_changes_nothing(
    where: str, undisturbed: Path, tmp_path: Path
) -> None:
    import limbeck.engine.measuring as measuring
    import limbeck.engine.run_folder as run_folder
    import limbeck.engine.running as running

    owner: Any = {
        "final": measuring.Judge,
        "save_model": running,
        "write_summary": run_folder.RunFolder,
    }[where]
    real = getattr(owner, where)

    def die(*args: Any, **options: Any) -> Any:
        if where == "write_summary" and args[1]["status"] == "running":
            return real(*args, **options)
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, where, die)
        with pytest.raises(Stop):
            run_plan(make_plan("kd"), tmp_path / "run", quiet=True)
    run_plan(make_plan("kd"), tmp_path / "run", resume=True, quiet=True)
    assert differing(evidence(undisturbed), evidence(tmp_path / "run")) == []


# Two ranks.


def test_ranks_wait_for_each_other_and_fail_together(tmp_path: Path) -> None:
    """Resumed before a checkpoint; one rank late; a disk full for rank 0, NaN for rank 1 alone."""
    assert run_two_ranks(tmp_path) == [0, 0]
    for rank in range(2):
        told = (tmp_path / f"rank-{rank}").read_text()
        nan = "step 1 (epoch 0): the loss is nan, from kd"
        assert told == f"done, done, no space left, {nan}"


# Compilation.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_run_compiles_each_shape_once_and_resumes_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of 48 leave a smaller last one of 16; FitNet taps the compiled student."""
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")

    def plan() -> Plan:
        return make_plan("fitnet", compile=True, batch_size=48)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run_plan(plan(), tmp_path / "one")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert "compiling: the first steps take a minute or more" in capsys.readouterr().out
    torch._dynamo.reset()
    stop_after(5, plan(), tmp_path / "two")
    torch._dynamo.reset()
    run_plan(plan(), tmp_path / "two", resume=True, quiet=True)
    assert differing(evidence(tmp_path / "one"), evidence(tmp_path / "two")) == []


# Trackers.


def test_an_unknown_tracker_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LimbeckError, match="did you mean 'tensorboard'"):
        run_plan(replace(make_plan("kd"), trackers=("tensorbord",)), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = replace(make_plan("kd", log_every=1), trackers=("tensorboard",))
    stop_after(9, plan, tmp_path / "run")
    run_plan(plan, tmp_path / "run", resume=True, quiet=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 16))
    assert [event.step for event in events.Scalars("validation/accuracy")] == [5, 10, 15]
