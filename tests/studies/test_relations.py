"""Teachers and their students, from run folders that pretend to be finished."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import save_file
from tiny_study import TEACHER, pretend, tiny

from limbeck.errors import DataError
from limbeck.studies.folder import StudyFolder
from limbeck.studies.loading import load_study
from limbeck.studies.planning import StudyPlan, plan_study
from limbeck.studies.properties import HIGHER_IS_BETTER, teacher_properties
from limbeck.studies.results import StudyResults, study_results

SHARPNESS = {"a": 0.5, "b": 1.0, "c": 2.0, "d": 4.0, "e": 8.0}
STUDY: dict[str, Any] = {
    "arms": {"kd": {"set": {"method": "kd"}}},
    "recipe__teacher": {"train": TEACHER},
    "axes": {
        "teacher": {
            name: {"teacher.train.train.epochs": epochs + 2}
            for epochs, name in enumerate(SHARPNESS)
        }
    },
    "seeds": [0, 1, 2],
    "scales": {},
    "claims": {"calibration": {"says": "Calibration tells.", "smallest_effect": 0.3}},
    "compare": [],
    "relate": [{"claim": "calibration", "arm": "kd", "property": "ece"}],
}


def _predictions(sharpness: float, num: int = 400) -> dict[str, torch.Tensor]:
    """A teacher that is right in 70 % and the surer the higher ``sharpness``."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 10, (num,), generator=generator)
    logits = torch.randn(num, 10, generator=generator)
    first = torch.where(torch.arange(num) % 10 < 7, targets, (targets + 1) % 10)
    logits[torch.arange(num), first] += 4
    return {
        "teacher_logits": logits * sharpness,
        "targets": targets,
        "student_logits": torch.zeros(num, 10),
    }


def _pretend(plan: StudyPlan, folder: StudyFolder, per_place: dict[str, float]) -> None:
    folder.write_down_claims(plan.study)
    for arm in plan.arms:
        place = arm.cell["teacher"]
        for seed in plan.study.seeds:
            score = {"accuracy": per_place[place] + 0.001 * seed}
            teachers = {"teacher": {"metrics": {"test": {"accuracy": 0.7}}}}
            made = pretend(folder, arm.trials[0].run(seed), score, teachers=teachers)
            save_file(_predictions(SHARPNESS[place]), made / "predictions.safetensors")


def _results(folder: StudyFolder, per_place: dict[str, float], **changes: Any) -> StudyResults:
    plan = plan_study(load_study(tiny(**{**STUDY, **changes})))
    _pretend(plan, folder, per_place)
    return study_results(plan, folder)


RISING = {"a": 0.5, "b": 0.6, "c": 0.55, "d": 0.7, "e": 0.8}


def _naive_ece(said: dict[str, torch.Tensor]) -> float:
    logits = said["teacher_logits"].double().numpy()
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total = 0.0
    for low in range(15):
        inside = [
            (p.max(), p.argmax() == t)
            for p, t in zip(probs, said["targets"].numpy(), strict=True)
            if low / 15 < p.max() <= (low + 1) / 15
        ]
        if inside:
            gap = np.mean([c for c, _ in inside]) - np.mean([r for _, r in inside])
            total += len(inside) / len(probs) * abs(gap)
    return total


def test_properties_are_those_of_the_predictions(tmp_path: Path) -> None:
    said = _predictions(2.0)
    said["targets"][:3] = -100  # without a label: not counted
    save_file(said, tmp_path / "predictions.safetensors")
    found = teacher_properties(tmp_path)
    assert list(found) == list(HIGHER_IS_BETTER)
    kept = {name: tensor[3:] for name, tensor in said.items()}
    assert found["ece"] == pytest.approx(_naive_ece(kept))
    log_probs = kept["teacher_logits"].double().log_softmax(1)
    rows = torch.arange(len(log_probs))
    assert found["nll"] == pytest.approx(-float(log_probs[rows, kept["targets"]].mean()))
    assert found["confidence"] == pytest.approx(float(log_probs.exp().amax(1).mean()))
    assert found["accuracy"] == pytest.approx(
        float((log_probs.argmax(1) == kept["targets"]).double().mean())
    )
    assert 0 < found["overconfidence"] <= found["ece"]


def test_a_student_without_a_teacher_tells_nothing(tmp_path: Path) -> None:
    assert teacher_properties(tmp_path) == {}
    said = _predictions(1.0)
    del said["teacher_logits"]
    save_file(said, tmp_path / "predictions.safetensors")
    assert teacher_properties(tmp_path) == {}


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    (tmp_path / "predictions.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"predictions\.safetensors is damaged"):
        teacher_properties(tmp_path)


def test_better_with_better_is_positive(tmp_path: Path) -> None:
    (one,) = _results(StudyFolder(tmp_path), RISING).related
    errors = [_naive_ece(_predictions(sharpness)) for sharpness in SHARPNESS.values()]
    expected = scipy.stats.pearsonr([-e for e in errors], list(RISING.values())).statistic
    assert one.association.found.mean == pytest.approx(expected)
    assert [point.label for point in one.taught] == [f"kd @ {name}" for name in SHARPNESS]
    assert one.taught[1].students["accuracy"] == pytest.approx(0.601)  # mean over seeds


def test_a_strong_relation_holds_and_its_opposite_does_not(tmp_path: Path) -> None:
    errors = {name: _naive_ece(_predictions(s)) for name, s in SHARPNESS.items()}
    good = {name: 0.9 - 0.3 * error for name, error in errors.items()}
    bad = {name: 0.5 + 0.3 * error for name, error in errors.items()}
    assert _results(StudyFolder(tmp_path / "a"), good).related[0].verdict == "holds"
    assert _results(StudyFolder(tmp_path / "b"), bad).related[0].verdict == "does not hold"


def test_holding_another_property_fixed_and_rather_than_it(tmp_path: Path) -> None:
    relate = [
        {"claim": "calibration", "arm": "kd", "property": "ece", "given": "nll"},
        {"claim": "calibration", "arm": "kd", "property": "ece", "rather_than": "nll"},
    ]
    results = _results(StudyFolder(tmp_path), RISING, relate=relate)
    given, rather = results.related
    points = [(p.teacher["ece"], p.students["accuracy"], p.teacher["nll"]) for p in given.taught]
    x, y, z = np.array(points).T * np.array([[-1], [1], [-1]])
    design = np.stack([z, np.ones_like(z)], axis=1)
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    assert given.association.found.mean == pytest.approx(scipy.stats.pearsonr(*left).statistic)
    explained = (
        scipy.stats.pearsonr(x, y).statistic ** 2 - scipy.stats.pearsonr(z, y).statistic ** 2
    )
    assert rather.association.found.mean == pytest.approx(explained)
    assert results.as_json()["relations"]["claims"][1]["rather_than"] == "nll"


def test_a_relation_written_down_afterwards_has_no_verdict(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    _results(folder, RISING)
    later = tiny(**{**STUDY, "relate": [{"claim": "calibration", "arm": "kd", "property": "nll"}]})
    (one,) = study_results(plan_study(load_study(later)), folder).related
    assert one.verdict == "none: written down after the runs"


def test_three_teachers_are_too_few(tmp_path: Path) -> None:
    few = {"teacher": dict(list(STUDY["axes"]["teacher"].items())[:3])}
    (one,) = _results(StudyFolder(tmp_path), RISING, axes=few).related
    assert one.verdict == "none: too few teachers"


def test_the_results_keep_teachers_and_relations(tmp_path: Path) -> None:
    results = _results(StudyFolder(tmp_path), RISING)
    found = json.loads(json.dumps(results.as_json()))["relations"]
    assert set(found["teachers"]) == {f"kd @ {name}" for name in SHARPNESS}
    assert found["claims"][0]["property"] == "ece"
    assert found["claims"][0]["verdict"] == results.related[0].verdict


def test_an_arm_is_compared_with_its_teacher(tmp_path: Path) -> None:
    changes = {
        "compare": [{"claim": "calibration", "arm": "kd", "baseline": "teacher"}],
        "relate": [],
        "claims": {"calibration": {"says": "x", "smallest_effect": 0.01}},
    }
    results = _results(StudyFolder(tmp_path), RISING, **changes)
    assert [one.baseline for one in results.judged] == ["teacher"] * 5
    weak, *_, strong = results.judged
    assert weak.comparison.difference.mean == pytest.approx(0.501 - 0.7)
    assert (weak.verdict, strong.verdict) == ("does not hold", "holds")
