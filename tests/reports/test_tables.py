"""One table, four ways to write it; numbers are recomputed from the folders by hand."""

import csv
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from limbeck.errors import DataError
from limbeck.reports import comparison_table
from limbeck.reports.evidence import gather
from limbeck.reports.formats import COSTS, METRICS, show, show_difference
from limbeck.reports.reading import read_runs
from limbeck.reports.tables import Cell, Column, Row, Table


def accuracies(study: Path, arm: str) -> np.ndarray:
    files = [study / f"{arm}-{seed}" / "summary.json" for seed in range(3)]
    return np.array([json.loads(file.read_text())["metrics"]["test"]["accuracy"] for file in files])


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    return {row["arm"]: row for row in csv.DictReader(io.StringIO(table.to_csv()))}


def test_means_intervals_and_paired_differences_are_those_of_the_folders(study: Path) -> None:
    rows = rows_of(comparison_table([study]))
    assert list(rows) == ["teacher", "alone", "KD"]
    kd, alone = accuracies(study, "KD"), accuracies(study, "alone")
    t = (2 * 0.975 - 1) / math.sqrt(2 * 0.975 * 0.025)  # two degrees of freedom, closed form
    assert float(rows["KD"]["accuracy"]) == pytest.approx(kd.mean())
    half = t * kd.std(ddof=1) / math.sqrt(3)
    assert float(rows["KD"]["accuracy_half_width"]) == pytest.approx(half)
    assert float(rows["KD"]["difference"]) == pytest.approx((kd - alone).mean())
    half = t * (kd - alone).std(ddof=1) / math.sqrt(3)
    assert float(rows["KD"]["difference_half_width"]) == pytest.approx(half)
    assert rows["alone"]["difference"] == ""
    assert rows["teacher"]["accuracy_half_width"] == ""  # one teacher for all seeds
    assert rows["KD"]["parameters"] == str(64 * 8 + 8 + 8 * 10 + 10)


def test_markdown_has_one_line_a_row_and_escapes_bars(study: Path) -> None:
    text = comparison_table([study], smallest_effect=0.01).to_markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert "Accuracy, % ↑" in lines[0]
    assert "Verdict" in lines[0]
    table = Table((Column("a", "A|B", numeric=False),), (Row((Cell("x|<y>\nz"),)),))
    assert r"x\|&lt;y&gt; z" in table.to_markdown()


def test_latex_escapes_and_compiles_in_shape() -> None:
    table = Table(
        (Column("arm", "Arm", numeric=False), Column("accuracy", "Accuracy, % ↑")),
        (Row((Cell("kd_2 & {x}\\"), Cell("94.8 ± 0.8", 0.948, 0.008))),),
        "50 % of #1",
    )
    text = table.to_latex()
    assert r"kd\_2 \& \{x\}\textbackslash{} & 94.8 $\pm$ 0.8 \\" in text
    assert r"\caption{50 \% of \#1}" in text
    assert r"\begin{tabular}{lr}" in text
    assert text.count(r"\begin") == text.count(r"\end")
    assert text.isascii()


def test_a_terminal_leaves_out_what_does_not_fit_and_says_so(study: Path) -> None:
    table = comparison_table([study])
    for width in (60, 80, 300):
        console = Console(width=width, file=io.StringIO())
        console.print(table.to_rich(width))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "Accuracy, % ↑" in text
        assert "…" not in text
        assert ("Not shown for want of room" in text) == (width < 300)


def test_csv_keeps_full_precision() -> None:
    value = 0.1 + 0.2
    table = Table((Column("x", "X"),), (Row((Cell("0.3", value, None),)),))
    assert float(table.to_csv().splitlines()[1]) == value


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 2 cells in 1 columns"):
        Table((Column("x", "X"),), (Row((Cell(""), Cell(""))),))


def test_regression_and_multilabel_have_their_metrics(regression: Path, multilabel: Path) -> None:
    table = comparison_table([regression])
    labels = [column.label for column in table.columns]
    assert labels[2:4] == ["R² ↑", "Δ"]
    assert "Squared error ↓" in labels
    assert "F1, % ↑" in [column.label for column in comparison_table([multilabel]).columns]


def test_baseline_and_metric_can_be_named(study: Path) -> None:
    table = comparison_table([study], baseline="KD", metric="nll")
    assert table.columns[2].label == "NLL ↓"
    assert "difference" in rows_of(table)["alone"]
    assert rows_of(table)["KD"]["difference"] == ""
    with pytest.raises(DataError, match="unknown baseline 'KDD': did you mean 'KD'"):
        comparison_table([study], baseline="KDD")
    with pytest.raises(DataError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        comparison_table([study], metric="acuracy")


def test_the_verdict_of_a_loss_counts_downwards(study: Path) -> None:
    evidence = gather(read_runs([study]), metric="nll", smallest_effect=10.0)
    assert evidence.comparisons["KD"].verdict == "does not hold"  # nothing gains ten nats


def test_unfinished_runs_are_shown_and_not_counted(study: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(study, tmp_path / "study"))
    (copy / "KD-2" / "summary.json").write_text('{"name": "KD", "status": "running", "seed": 2}')
    rows = rows_of(comparison_table([copy]))
    assert rows["KD"]["seeds"] == "2"
    assert float(rows["KD"]["accuracy"]) == pytest.approx(accuracies(study, "KD")[:2].mean())
    assert "2 (+1 unfinished)" in comparison_table([copy]).to_markdown()


def test_a_repeated_seed_counts_once(study: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(study / "KD-0", tmp_path / "KD-0-again"))
    evidence = gather(read_runs([study, again]))
    kd = next(arm for arm in evidence.arms if arm.label == "KD")
    assert [run.seed for run in kd.runs] == [0, 1, 2]
    assert kd.runs[0].path == again
    assert [run.path.name for run in kd.replaced] == ["KD-0"]


@pytest.mark.parametrize(
    ("key", "value", "half", "text"),
    [
        ("accuracy", 0.9481, 0.0081, "94.8 ± 0.8"),
        ("accuracy", 0.9481, 0.0004, "94.81 ± 0.04"),
        ("accuracy", None, math.nan, "–"),
        ("nll", 0.5219, 0.1903, "0.522 ± 0.190"),
        ("nll", 12.345, math.nan, "12.3"),
    ],
)
def test_numbers_are_written_as_their_metric_asks(
    key: str, value: float | None, half: float, text: str
) -> None:
    assert show(METRICS[key], value, half) == text


def test_differences_carry_their_sign() -> None:
    assert show_difference(METRICS["accuracy"], 0.036, 0.008) == "+3.6 ± 0.8"
    assert show_difference(METRICS["accuracy"], -0.036) == "\u22123.6"
    assert show(COSTS["parameters"], 1234567) == "1,234,567"
    assert show(COSTS["flops"], 4.13e7) == "41.3 M"
