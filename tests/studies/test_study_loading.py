"""A study's mistakes are one line each, before anything runs; scales replace what they name."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_study import TINY, tiny

from limbeck.errors import RecipeError
from limbeck.studies import load_study, study_schema

CASES: list[tuple[dict[str, Any], str]] = [
    ({"arm": {}}, "arm: unknown key 'arm': did you mean 'arms'?"),
    ({"version": 2}, "version: expected 1, got 2"),
    ({"name": "a/b"}, "name: expected letters, digits"),
    ({"seeds": []}, "seeds: expected at least one entry, got []"),
    ({"seeds": [1, 1]}, "seeds: expected entries that differ, got [1, 1]"),
    ({"seeds": [-1]}, "seeds.0: expected a whole number from 0 to 2**63 - 1, got -1"),
    ({"seeds": 3}, "seeds: expected a list, got 3"),
    ({"recipe": 3}, "recipe: expected a recipe's file, or a recipe, got 3"),
    ({"arms": {}}, "arms: expected at least one arm, got none"),
    ({"arms__kd__sett": {}}, "arms.kd.sett: unknown key 'sett': did you mean 'set'?"),
    ({"arms__kd__set": "kd"}, "arms.kd.set: expected a mapping of dotted keys to values, got 'kd'"),
    ({"arms__kd__grid": {"a": [1]}}, "arms.kd.grid: expected either trials or grid, got both"),
    ({"arms__plain__grid": {"a": []}}, "arms.plain.grid.a: expected at least one entry"),
    ({"arms__plain__grid": {"a": [1, 1]}}, "arms.plain.grid.a: expected entries that differ"),
    ({"arms__kd__trials": [{"a": 1}, {"a": 1}]}, "arms.kd.trials: expected trials that differ"),
    (
        {"arms__kd__trials": [{"method.temperature": 1}]},
        "arms.kd: expected as many trials as every other arm, got 1; 'plain' has 2 (an arm without",
    ),
    ({"arms__plain__grid": ...}, "arms.plain: expected as many trials as every other arm, got 1"),
    ({"axes": {"size": {}}}, "axes.size: expected at least one option, got none"),
    ({"metric": "acuracy"}, "metric: unknown metric 'acuracy': did you mean 'accuracy'?"),
    ({"tuning__metric": "acc"}, "tuning.metric: unknown metric 'acc': did you mean 'accuracy'?"),
    (
        {"claims__kd-helps__metric": "nl"},
        "claims.kd-helps.metric: unknown metric 'nl': did you mean 'nll'?",
    ),
    (
        {"claims__kd-helps__smallest_effect": 0},
        "claims.kd-helps.smallest_effect: expected a number above 0, got 0",
    ),
    ({"claims__kd-helps__smallest_effect": ...}, "claims.kd-helps.smallest_effect: missing"),
    (
        {"claims__kd-helps__direction": "beter"},
        "claims.kd-helps.direction: unknown choice 'beter': did you mean 'better'?",
    ),
    ({"compare": []}, "claims.kd-helps: no entry of compare or relate decides it"),
    ({"arms__teacher": {}}, "arms.teacher: stands for an arm's own teacher; name the arm"),
    (
        {"compare": [{"claim": "kd-helps", "arm": "kd", "baseline": "teachr"}]},
        "compare.0.baseline: unknown arm 'teachr': did you mean 'teacher'?",
    ),
    (
        {"relate": [{"claim": "kd", "arm": "kd", "property": "ece"}]},
        "relate.0.claim: unknown claim 'kd': did you mean 'kd-helps'?",
    ),
    (
        {"relate": [{"claim": "kd-helps", "arm": "kdd", "property": "ece"}]},
        "relate.0.arm: unknown arm 'kdd': did you mean 'kd'?",
    ),
    (
        {"relate": [{"claim": "kd-helps", "arm": "kd", "property": "ecee"}]},
        "relate.0.property: unknown property 'ecee': did you mean 'ece'?",
    ),
    (
        {"relate": [{"claim": "kd-helps", "arm": "kd", "property": "ece", "given": "aace"}]},
        "relate.0.given: unknown property 'aace': did you mean 'ace'?",
    ),
    (
        {"relate": [{"claim": "kd-helps", "arm": "kd", "property": "ece", "given": "ece"}]},
        "relate.0.property: expected another property than 'ece'",
    ),
    (
        {
            "relate": [
                {
                    "claim": "kd-helps",
                    "arm": "kd",
                    "property": "ece",
                    "given": "ace",
                    "rather_than": "nll",
                }
            ]
        },
        "relate.0.rather_than: expected either given or rather_than, got both",
    ),
    (
        {"compare": [{"claim": "kd", "arm": "kd", "baseline": "plain"}]},
        "compare.0.claim: unknown claim 'kd': did you mean 'kd-helps'?",
    ),
    (
        {"compare": [{"claim": "kd-helps", "arm": "kdd", "baseline": "plain"}]},
        "compare.0.arm: unknown arm 'kdd': did you mean 'kd'?",
    ),
    (
        {"compare": [{"claim": "kd-helps", "arm": "kd", "baseline": "kd"}]},
        "compare.0.baseline: expected another arm than 'kd'",
    ),
    (
        {"compare": [{"claim": "kd-helps", "arm": "kd", "baseline": "plain", "at": {"x": "y"}}]},
        "compare.0.at: unknown axis 'x' (choices: none)",
    ),
    ({"scales__quick__arms": ["plan"]}, "scales.quick.arms: unknown arm 'plan': did you mean"),
    ({"scales__quick__trials": 0}, "scales.quick.trials: expected a number of at least 1, got 0"),
    ({"scales__quick__axes": {"a": ["b"]}}, "scales.quick.axes: unknown axis 'a'"),
]


@pytest.mark.parametrize(("changes", "line"), CASES)
def test_every_mistake_is_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as found:
        load_study(tiny(**changes))
    assert str(found.value).startswith(line)
    assert "\n" not in str(found.value)


def test_a_scale_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(RecipeError, match=r"scale: unknown scale 'quik': did you mean 'quick'\?"):
        load_study(TINY, "quik")


def test_a_scale_replaces_what_it_names_and_says_what_it_leaves_out() -> None:
    loaded = load_study(TINY, "quick")
    assert loaded.study.seeds == (0,)
    assert list(loaded.study.arms) == ["plain"]
    assert loaded.study.arms["plain"].all_trials() == ({"train.optimizer.lr": 0.05},)
    assert loaded.study.compare == ()
    assert loaded.left_out == (
        "arms not in this scale: kd",
        "claims not judged in this scale: kd-helps",
        "only the first 1 trials of each arm",
    )
    assert load_study(TINY).left_out == ()


def test_a_scale_keeps_the_options_it_names() -> None:
    study = tiny(
        axes={"size": {"few": {"data.num_train": 100}, "more": {"data.num_train": 200}}},
        scales={"one": {"axes": {"size": ["few"]}}},
    )
    loaded = load_study(study, "one")
    assert list(loaded.study.axes["size"]) == ["few"]
    assert loaded.left_out == ("options of size not in this scale: more",)


def test_a_file_names_its_lines_and_finds_its_claims(tmp_path: Path) -> None:
    study = tiny(claims="claims.yaml", name=...)
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(TINY["claims"]))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    loaded = load_study(file)
    assert loaded.study.claims["kd-helps"].says == "KD helps."
    assert loaded.study.name == tmp_path.name  # a file called study.yaml is named by its folder
    file.write_text(yaml.safe_dump(study) + "seads: [1]\n")
    with pytest.raises(RecipeError, match=r"study\.yaml: seads: unknown key .* \(line \d+\)"):
        load_study(file)
    (tmp_path / "claims.yaml").unlink()
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(RecipeError, match=r"claims\.yaml: there is no such file"):
        load_study(file)


def test_the_schema_knows_what_the_study_knows() -> None:
    schema = study_schema()
    assert set(schema["properties"]) >= {"recipe", "arms", "axes", "compare", "scales"}
    assert schema["anyOf"] == [{"required": ["recipe", "arms"]}, {"required": ["extends"]}]
    assert schema["additionalProperties"] is False
    assert {"type": "string"} in schema["properties"]["claims"]["anyOf"]


def test_the_study_of_the_docs_is_valid() -> None:
    page = Path(__file__).parents[2] / "docs" / "studies.md"
    block = re.search(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    study = yaml.safe_load(block[1])
    assert load_study(study, "quick").study.seeds == (0, 1, 2)
