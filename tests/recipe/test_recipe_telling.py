"""Lines for a person: folded on a terminal, whole elsewhere."""

import sys

import pytest

from limbeck.recipe.telling import folded, tell

LINE = "task weight  0.1 (default of kd), counted on samples that have a label and no others"


def test_no_line_is_wider_than_the_terminal_and_text_goes_on_below_text() -> None:
    lines = folded(LINE, 50).splitlines()
    assert all(len(line) <= 50 for line in lines)
    assert all(line.startswith(" " * 13) for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == " ".join(LINE.split())


def test_a_path_stays_whole() -> None:
    path = "runs/" + "a-long-name" * 9
    assert path in folded(f"report: {path}", 60).split()


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_gets_folded_lines(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    tell(LINE)
    assert (capsys.readouterr().out.count("\n") > 1) == terminal
