"""The headline says what the numbers say, and no more."""

from pathlib import Path
from typing import Any

import pytest

from limbeck.reports.describe import facts
from limbeck.reports.evidence import gather
from limbeck.reports.headline import cautions, headline
from limbeck.reports.reading import RunRecord, read_runs

SIZES = {"parameters": 1000}
TEACHER = {"teacher": {"parameters": 14000, "metrics": {"test": {"accuracy": 0.97}}}}


def record(name: str, seed: int, accuracy: float, **extra: Any) -> RunRecord:
    summary = {
        "name": name, "status": "done", "seed": seed, "student": SIZES,
        "metrics": {"test": {"accuracy": accuracy, "nll": 1 - accuracy}},
        "teachers": {} if name == "alone" else TEACHER, "samples_seen": 1000,
    }  # fmt: skip
    return RunRecord(Path(f"{name}-{seed}"), {"name": name}, summary={**summary, **extra})


def runs(name: str, values: list[float], **extra: Any) -> list[RunRecord]:
    return [record(name, seed, value, **extra) for seed, value in enumerate(values)]


def test_a_clear_gain() -> None:
    evidence = gather(runs("KD", [0.94, 0.95, 0.96]) + runs("alone", [0.90, 0.91, 0.93]))
    assert headline(evidence) == (
        "KD lifts the student’s accuracy from 91.3 to 95.0 % (+3.7 ± 1.4, 3 seeds), at 1/14 of the"
        " teacher’s parameters."
    )


def test_a_loss_is_called_one() -> None:
    evidence = gather(runs("alone", [0.94, 0.95, 0.96]) + runs("KD", [0.90, 0.91, 0.93]))
    assert headline(evidence).startswith("KD lowers the student’s accuracy from 95.0 to 91.3 %")


def test_an_interval_with_zero_tells_nothing_apart() -> None:
    evidence = gather(runs("alone", [0.90, 0.95, 0.93]) + runs("KD", [0.94, 0.91, 0.95]))
    assert headline(evidence).startswith("KD and alone cannot be told apart in the student’s acc")


def test_one_seed_tells_no_more() -> None:
    evidence = gather(runs("alone", [0.90]) + runs("KD", [0.95]))
    assert "one seed tells no more" in headline(evidence)
    assert any("one seed, so nothing says" in text for text in cautions(evidence))


def test_lower_is_better_for_losses() -> None:
    evidence = gather(
        runs("KD", [0.94, 0.95, 0.96]) + runs("alone", [0.90, 0.91, 0.93]), metric="nll"
    )
    assert headline(evidence).startswith("KD lowers the student’s NLL from 0.0867 to 0.0500")


def test_the_best_of_several_is_said_to_be_chosen() -> None:
    evidence = gather(
        runs("alone", [0.90, 0.91, 0.93])
        + runs("KD", [0.94, 0.95, 0.96])
        + runs("DKD", [0.95, 0.96, 0.97])
    )
    assert headline(evidence).startswith("Best of 2 arms: DKD lifts")
    assert any("best of 2 arms on the test set itself" in text for text in cautions(evidence))


def test_the_run_that_made_the_teacher_is_no_baseline() -> None:
    big = runs("big", [0.98, 0.97], student={"parameters": 14000}, teachers={})
    taught = runs("KD", [0.94, 0.95]) + runs("DKD", [0.95, 0.97])
    evidence = gather(big + taught)
    assert next(iter(evidence.arms)).label == "KD"
    assert headline(evidence).startswith("DKD and KD cannot be told apart")
    assert any(text.startswith("big has a student of another size") for text in cautions(evidence))
    evidence = gather(big + taught + runs("alone", [0.90, 0.91]))
    assert next(iter(evidence.arms)).label == "alone"
    assert headline(evidence).startswith("Best of 2 arms: DKD ")
    # Where the size is what was varied, all arms are compared.
    assert headline(gather(big + runs("alone", [0.90, 0.91]))).startswith("alone ")


def test_holm_decides_the_words() -> None:
    # One arm alone is significant (p about .03); beside three arms of noise it is not any more.
    base, arm = [0.90, 0.90, 0.90, 0.90], [0.912, 0.905, 0.914, 0.906]
    noise = [[0.91, 0.89, 0.90, 0.89], [0.89, 0.91, 0.89, 0.90], [0.90, 0.89, 0.91, 0.89]]
    alone = gather(runs("alone", base) + runs("KD", arm))
    assert "lifts" in headline(alone)
    crowd = runs("alone", base) + runs("KD", arm)
    for i, values in enumerate(noise):
        crowd += runs(f"noise {i}", values)
    assert "KD and alone cannot be told apart" in headline(gather(crowd))


def test_one_arm_stands_beside_its_teacher() -> None:
    evidence = gather(runs("KD", [0.94, 0.95, 0.96]))
    assert headline(evidence) == (
        "KD: the student reaches 95.0 ± 2.5 % accuracy (3 seeds), against the teacher’s 97.0 %, at"
        " 1/14 of the teacher’s parameters."
    )


def test_nothing_finished() -> None:
    one = RunRecord(Path("a"), {"name": "KD"})
    assert headline(gather([one])) == "The run is not finished."
    assert headline(gather([one, RunRecord(Path("b"), {"name": "KD"})])) == (
        "None of 2 runs is finished."
    )
    assert any("is unfinished after 0 epochs" in text for text in cautions(gather([one])))


def test_unequal_budgets_and_data_are_named() -> None:
    first = [
        RunRecord(r.path, {"name": "alone", "data": {"name": "digits"}}, summary=r.summary)
        for r in runs("alone", [0.9, 0.91])
    ]
    evidence = gather(first + runs("KD", [0.94, 0.95], samples_seen=9000))
    texts = cautions(evidence)
    assert "Unequal budgets, in samples seen: alone 1,000 and KD 9,000." in texts
    assert any("not trained on the same data" in text for text in texts)


def test_a_run_from_python_with_the_same_data_is_not_called_unequal() -> None:
    def as_said(name: str, recipe: dict[str, Any], told: str) -> list[RunRecord]:
        return [
            RunRecord(r.path, {"name": name, **recipe}, summary={**r.summary, "data": told})
            for r in runs(name, [0.9, 0.91])
        ]

    python = {"data": {"name": "images"}, "student": {"python": "mine.Net"}}
    alone = as_said("alone", python, "images: 90 samples")
    written = {"data": {"name": "images", "root": "photos"}}
    same = cautions(gather(alone + as_said("KD", written, "images: 90 samples")))
    assert not any("not trained on the same data" in text for text in same)
    other = cautions(gather(alone + as_said("KD", written, "images: 80 samples")))
    assert any("not trained on the same data" in text for text in other)


def test_equal_steps_are_said_beside_unequal_samples() -> None:
    evidence = gather(
        runs("alone", [0.9, 0.91], steps=50) + runs("KD", [0.94, 0.95], steps=50, samples_seen=9)
    )
    assert (
        "Equal optimiser steps (50), but unequal samples seen: alone 1,000 and KD 9."
        in cautions(evidence)
    )


def test_what_was_done_is_read_from_recipe_and_summary(study: Path) -> None:
    found = {fact.label: fact.texts for fact in facts(gather(read_runs([study])))}
    assert found["Data"][0][1] == (
        "digits: 1,097 training samples (120 labelled, 977 unlabelled), 300 validation and 400 test"
    )
    assert found["Loss"] == (
        (("alone",), "1 × task"),
        (("KD",), "0.1 × task + 0.9 × kd (temperature 4)"),
    )
    assert found["Student"] == (((), "mlp (widths 64-8-10), 610 parameters"),)
    assert found["Optimiser"][0][1] == "sgd (lr 0.1, momentum 0.9, weight decay 0)"
    assert found["Seeds"][0][1] == "0 to 2"


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        ({"model": "resnet56", "weights": "a.safetensors"}, "resnet56 (weights a.safetensors)"),
        ({"run": "runs/big-0"}, "the student of runs/big-0"),
        ({"train": {"name": "big", "student": {"model": "cnn"}}}, "cnn, trained first (big)"),
        ({"ensemble": [{"run": "a"}, {"run": "b"}]},
         "ensemble of the student of a and the student of b"),
        ({"calibrated": {"model": "cnn"}, "temperature": 2.0}, "cnn, calibrated"),
        ({"sklearn": {"estimator": "SVC"}}, "scikit-learn SVC"),
        ("peers", "peers"),
    ],
)  # fmt: skip
def test_every_kind_of_teacher_has_words(teacher: Any, text: str) -> None:
    evidence = gather([RunRecord(Path("a"), {"name": "KD", "teacher": teacher})])
    found = {fact.label: fact.texts for fact in facts(evidence)}
    assert found["Teacher"] == (((), text),)


def test_methods_may_be_recorded_as_text() -> None:
    summary = {"method": ["kd(weight=0.9, temperature=2.0)"], "task_weight": 0.1}
    evidence = gather([RunRecord(Path("a"), {"name": "KD"}, summary=summary)])
    found = {fact.label: fact.texts for fact in facts(evidence)}
    assert found["Loss"] == (((), "0.1 × task + 0.9 × kd (temperature 2)"),)
    summary["method"] = ["my method, unquoted ("]
    found = {fact.label: fact.texts for fact in facts(evidence)}
    assert found["Loss"] == (((), "0.1 × task + my method, unquoted"),)


def test_arms_without_a_common_seed_are_not_counted_as_compared() -> None:
    other = [record("KCD", 7, 0.99)]
    known = runs("alone", [0.90]) + runs("KD", [0.95])
    assert headline(gather(known + other)).startswith(
        "The only arm with a seed in common with alone: KD against alone:"
    )
    more = known + other + runs("FitNet", [0.93])
    assert headline(gather(more)).startswith(
        "Best of the 2 arms with a seed in common with alone: KD against alone:"
    )
    assert any("the best of 2 arms" in text for text in cautions(gather(more)))
