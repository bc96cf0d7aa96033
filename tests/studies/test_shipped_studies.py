"""The studies of papers that come with Limbeck: every recipe in them is valid, every claim stood
before the results that are published beside it."""

import json
import os
import subprocess
import sys
import zipfile
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

from limbeck.errors import RecipeError
from limbeck.methods import all_methods
from limbeck.studies import load_study, papers
from limbeck.studies.extending import with_extended
from limbeck.studies.folder import claim_record
from limbeck.studies.papers import paper_studies, paper_study
from limbeck.studies.planning import plan_study
from limbeck.studies.relations import relate_record

ROOT = Path(__file__).parents[2]
STUDIES = paper_studies()
# 06 sweeps its one setting: every value is an arm, at equal steps, and the training loss decides.
SWEEPS = {"06", "06/cosine"}


def scales() -> list[tuple[str, str | None]]:
    """Every study at every scale; whole too, where its scale "small" leaves something out."""
    found: list[tuple[str, str | None]] = []
    for number, file in STUDIES.items():
        document, _ = with_extended(yaml.safe_load(file.read_text()), file.parent)
        small = document["scales"]["small"]
        whole = [None] if set(small) - {"description"} else []
        found += [(number, scale) for scale in (*whole, "quick", "small")]
    return found


@pytest.mark.parametrize(("number", "scale"), scales())
def test_every_recipe_of_a_study_is_valid(number: str, scale: str | None) -> None:
    plan = plan_study(load_study(STUDIES[number], scale))
    assert len(plan.study.seeds) >= 3
    if plan.study.compare and number not in SWEEPS:  # relations alone have nothing to tune
        assert plan.is_tuned
        assert not set(plan.study.seeds) & set(plan.study.tuning.seeds)


@pytest.mark.parametrize("number", sorted(set(STUDIES) - SWEEPS))
def test_a_study_has_the_four_reference_arms(number: str) -> None:
    plan = plan_study(load_study(STUDIES[number], "quick"))
    references = [arm for arm in plan.arms if arm.arm.reference]
    methods = [arm.trials[0].recipe.methods[0].name for arm in references]
    assert {"plain", "label_smoothing", "kd"} <= set(methods) <= set(all_methods())
    epochs = [arm.trials[0].recipe.train.epochs for arm in references]
    if plan.study.compare:
        assert max(epochs) > min(epochs), "no arm with the steps of the dearest"
    assert plan.study.compare or plan.study.relate


def _compared(record: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a comparison is, without its place in the grid."""
    arm, baseline = (record[key].split(" @ ")[0] for key in ("arm", "baseline"))
    return record["claim"], arm, baseline, record["smallest_effect"]


@pytest.mark.parametrize("number", STUDIES)
def test_published_results_are_those_of_the_study_as_it_stands(number: str) -> None:
    file = STUDIES[number].with_name("results.json")
    if not file.exists():
        pytest.skip(f"study {number} has no published results yet")
    results = json.loads(file.read_text())
    plan = plan_study(load_study(STUDIES[number], results["scale"]))
    assert results["seeds"] == list(plan.study.seeds)
    assert [arm["arm"] for arm in results["arms"]] == [arm.name for arm in plan.arms]
    for arm, published in zip(plan.arms, results["arms"], strict=True):
        assert published["chosen"] in [dict(trial.changes) for trial in arm.trials]
    records = [claim_record(plan.study, i) for i in range(len(plan.study.compare))]
    told, written = [_compared(r) for r in results["comparisons"]], [_compared(r) for r in records]
    # A comparison that names no place is judged at each: its rows stand together.
    assert [one for one, _ in groupby(told)] == [one for one, _ in groupby(written)]
    related = results.get("relations", {}).get("claims", [])
    told = [(one["claim"], one["property"], one["smallest_effect"]) for one in related]
    written = [relate_record(plan.study, i) for i in range(len(plan.study.relate))]
    assert told == [(one["claim"], one["property"], one["smallest_effect"]) for one in written]
    assert file.stat().st_size < 100_000


@pytest.mark.parametrize("name", ["19", "19-yuan"])
def test_a_paper_is_found_by_number_and_by_folder(name: str) -> None:
    assert paper_study(name) == STUDIES["19"]


@pytest.mark.parametrize("name", ["5/calibrated", "05/calibrated", "05-kim/calibrated"])
def test_a_second_study_of_a_paper_has_a_folder_of_its_own(name: str) -> None:
    assert paper_study(name) == ROOT / "recipes/05-kim/calibrated/study.yaml"


@pytest.mark.parametrize("name", ["99", "19-yaun", "x", "", "05/calibratd", "19/calibrated"])
def test_a_paper_without_a_study_names_those_with_one(name: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown paper .*choices: .*19-yuan"):
        paper_study(name)


def test_without_recipes_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "_INSTALLED", tmp_path / "no")
    monkeypatch.setattr(papers, "_CHECKOUT", tmp_path / "none")
    with pytest.raises(RecipeError, match="recipes of the papers are not installed"):
        paper_study("19")


def test_an_installed_package_finds_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "07-x" / "study.yaml"
    study.parent.mkdir()
    study.touch()
    monkeypatch.setattr(papers, "_INSTALLED", tmp_path)
    assert paper_study("7") == study


def test_the_wheel_carries_the_recipes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "installed")
    for file in STUDIES.values():
        inside = f"limbeck/_recipes/{file.parent.relative_to(ROOT / 'recipes').as_posix()}"
        beside = [name for name in ("study.yaml", "claims.yaml") if file.with_name(name).exists()]
        assert {f"{inside}/{name}" for name in beside} <= names
    assert "limbeck/reports/templates/study.html.j2" in names
    code = "from limbeck.studies.papers import paper_study; print(paper_study('19'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "installed")


def test_no_result_is_left_uncommitted_by_the_ignore_rules() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    for file in STUDIES.values():
        names = [str(file.with_name(name)) for name in ("results.json", "table.md")]
        done = subprocess.run(
            ["git", "check-ignore", *names], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 1
