"""The tables, figures and page of a study, from run folders that pretend to be finished."""

import csv
import html.parser
import io
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))
from tiny_study import TEACHER, pretend, pretend_all, tiny

from limbeck.reports.study import render_study, write_study
from limbeck.reports.study_tables import (
    arms_table,
    claims_table,
    relations_table,
    study_headline,
    teachers_table,
)
from limbeck.studies.folder import StudyFolder
from limbeck.studies.loading import load_study
from limbeck.studies.planning import plan_study
from limbeck.studies.results import StudyResults, study_results

PLAIN = {0: 0.70, 1: 0.71, 2: 0.69}
KD = {0: 0.72, 1: 0.735, 2: 0.712}


def _results(folder: StudyFolder, **changes: object) -> StudyResults:
    plan = plan_study(load_study(tiny(**{"seeds": [0, 1, 2], **changes})))
    folder.write_down_claims(plan.study)
    scores = {arm.label: KD if arm.name == "kd" else PLAIN for arm in plan.arms}
    pretend_all(plan, folder, scores, "accuracy")
    return study_results(plan, folder)


@pytest.fixture
def results(tmp_path: Path) -> StudyResults:
    return _results(StudyFolder(tmp_path / "study"))


def test_the_claims_table_tells_difference_interval_and_verdict(results: StudyResults) -> None:
    (row,) = claims_table(results).rows
    texts = [cell.text for cell in row.cells]
    # by hand: differences 2.0, 2.5, 2.2; mean 2.2333; t(0.975, 2) = 4.3027; sd 0.25166
    assert texts[0] == "KD helps."
    assert texts[1:4] == ["holds", "kd", "plain"]
    assert texts[6] == "+2.2 ± 0.6"
    assert texts[7] == "+1.0"
    assert texts[8] == "0.004"  # t = 15.37 at 2 degrees of freedom: p = 0.0042
    (short,) = claims_table(results, in_words=False).rows
    assert short.cells[0].text == "kd-helps"


def test_the_margin_of_not_worse_has_its_sign(tmp_path: Path) -> None:
    claim = {"says": "x", "smallest_effect": 0.01, "direction": "not worse"}
    results = _results(StudyFolder(tmp_path), claims={"kd-helps": claim})
    assert claims_table(results).rows[0].cells[7].text == "\u22121.0"


def test_the_arms_table_says_what_was_chosen(results: StudyResults) -> None:
    table = arms_table(results)
    plain, kd = ([cell.text for cell in row.cells] for row in table.rows)
    assert plain[:3] == ["plain", "3", "70.0 ± 2.5"]
    assert "lr=0.05" in plain
    assert "temperature=1" in kd
    assert [row.kind for row in table.rows] == ["baseline", "arm"]
    assert "Every arm had 2 trials on 1 seed" in table.notes[0]


def test_the_arms_table_tells_what_an_arm_cost(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    plan = plan_study(load_study(tiny(seeds=[0, 1, 2])))
    pretend_all(plan, folder, {"plain": PLAIN, "kd": KD}, "accuracy")
    for seed, seen in enumerate((1200, 1000, 1300)):  # KD's runs are of an older Limbeck: not told
        run = plan.arms[0].trials[0].run(seed)
        pretend(folder, run, {"accuracy": 0.7}, samples_seen=seen)
    results = study_results(plan, folder)
    table = arms_table(results)
    keys = [column.key for column in table.columns]
    told = [[row.cells[keys.index(k)].text for k in ("steps", "samples")] for row in table.rows]
    assert told == [["8", "1,200"], ["8", "–"]]
    assert [arm["samples_seen"] for arm in results.as_json()["arms"]] == [1200, None]


def test_what_is_missing_or_failed_is_told(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    plan = plan_study(load_study(tiny(seeds=[0, 1, 2, 3])))
    scores = {"plain": PLAIN, "kd": KD}
    pretend_all(plan, folder, scores, "accuracy")
    folder.keep_apart(plan.arms[1].trials[0].run(3), "loss <became> NaN")
    results = study_results(plan, folder)
    notes = " ".join(arms_table(results).notes)
    assert "Seeds still missing: plain (3)." in notes
    assert "Failed, and not counted: kd, seed 3: loss <became> NaN." in notes
    page = render_study(results)
    assert "loss &lt;became&gt; NaN" in page
    assert "<became>" not in page


def test_a_study_of_two_metrics_names_them(tmp_path: Path) -> None:
    claims = {
        "a": {"says": "A.", "smallest_effect": 0.01},
        "b": {"says": "B.", "smallest_effect": 0.01, "metric": "nll"},
    }
    compare = [{"claim": name, "arm": "kd", "baseline": "plain"} for name in claims]
    results = _results(StudyFolder(tmp_path), claims=claims, compare=compare)
    assert results.judged[1].verdict == "none: no seed of both is finished"  # nll was not measured
    assert ">Metric</th>" in render_study(results)
    assert study_headline(results) == "Of 2 claims, 1 holds, 1 without a verdict."


def test_one_metric_needs_no_column(results: StudyResults) -> None:
    assert ">Metric</th>" not in render_study(results)


def test_headlines_count_verdicts(results: StudyResults, tmp_path: Path) -> None:
    assert study_headline(results) == "Of 1 claim, 1 holds."
    axes = {"a": {"x": {}, "y": {"train.epochs": 3}}}
    more = _results(StudyFolder(tmp_path / "more"), axes=axes)
    assert study_headline(more) == "Of 2 claims, 2 hold."
    late = _results(StudyFolder(tmp_path / "late"))
    StudyFolder(tmp_path / "late").claims_file.unlink()
    late = study_results(late.plan, StudyFolder(tmp_path / "late"))
    assert study_headline(late) == "Of 1 claim, 1 without a verdict."


class _Checker(html.parser.HTMLParser):
    """Open and closed tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in {"meta", "br", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_files_of_a_study(results: StudyResults) -> None:
    page = write_study(results)
    folder = page.parent
    text = page.read_text()
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert not re.search(r'(?:src|href)="https?:', text)
    assert set(re.findall(r'href="#([\w-]+)"', text)) <= set(re.findall(r'id="([\w-]+)"', text))
    assert "Of 1 claim, 1 holds." in text
    assert "limbeck study study.yaml" in text
    markdown = (folder / "table.md").read_text()
    assert "| holds" in markdown
    assert "written down" in markdown
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    assert float(rows[1]["accuracy"]) == pytest.approx(sum(KD.values()) / 3)
    claims = list(csv.DictReader(io.StringIO((folder / "claims.csv").read_text())))
    assert claims[0]["claim"] == "kd-helps"
    assert float(claims[0]["difference"]) == pytest.approx(0.0223333, rel=1e-4)
    assert (folder / "table.tex").read_text().count(r"\begin{tabular}") == 3
    for name in ("differences-in-accuracy", "accuracy-every-seed"):
        root = ElementTree.fromstring((folder / "plots" / f"{name}.svg").read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in (folder / "plots" / f"{name}.svg").read_text()


def test_a_study_without_claims_has_no_section_on_them(tmp_path: Path) -> None:
    results = _results(StudyFolder(tmp_path), claims={}, compare=[])
    page = render_study(results)
    assert 'id="claims"' not in page
    assert study_headline(results) == "2 arms, no claim."


def _related(tmp_path: Path) -> StudyResults:
    from test_relations import RISING
    from test_relations import _results as related

    return related(StudyFolder(tmp_path), RISING)


def test_relations_and_teachers_have_tables(tmp_path: Path) -> None:
    results = _related(tmp_path)
    table = relations_table(results)
    assert table is not None
    texts = [cell.text for cell in table.rows[0].cells]
    assert texts[0] == "Calibration tells."
    assert texts[2:5] == ["r of ECE and accuracy", "kd", "5"]
    assert texts[7] == "+0.30"
    teachers = teachers_table(results)
    assert teachers is not None
    assert [row.cells[0].text for row in teachers.rows] == [f"kd @ {name}" for name in "abcde"]
    assert teachers.rows[0].cells[1].text == "50.1"


def test_relations_are_on_the_page_and_drawn(tmp_path: Path) -> None:
    results = _related(tmp_path)
    page = write_study(results)
    text = page.read_text()
    checker = _Checker()
    checker.feed(text)
    assert checker.open == []
    assert 'id="claims"' in text
    assert "r of ECE and accuracy" in (page.parent / "table.md").read_text()
    drawn = page.parent / "plots" / "teacher-s-ece-and-students-accuracy-kd.svg"
    assert "kd @ a" in drawn.read_text()


def test_studies_without_relations_have_none(results: StudyResults) -> None:
    assert relations_table(results) is None
    assert teachers_table(results) is None
    assert "Table of teachers" not in render_study(results)


def test_an_arm_that_no_axis_changes_stands_once(tmp_path: Path) -> None:
    """The learning rate of one axis reaches both arms, the teacher of the other only kd."""
    axes = {
        "rate": {"low": {}, "high": {"train.optimizer.momentum": 0.8}},
        "teacher": {"short": {}, "long": {"teacher.train.train.epochs": 3}},
    }
    arms = {
        "plain": {"reference": True, "set": {"teacher": None}},
        "kd": {"set": {"method": "kd"}},
    }
    results = _results(
        StudyFolder(tmp_path), axes=axes, arms=arms, recipe__teacher={"train": TEACHER}, scales={}
    )
    labels = [row.cells[0].text for row in arms_table(results).rows]
    assert labels == [
        "plain @ low",
        "kd @ low, short",
        "kd @ low, long",
        "plain @ high",
        "kd @ high, short",
        "kd @ high, long",
    ]
    assert len(results.arms) == 8
