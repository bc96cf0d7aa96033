"""``limbeck study`` and ``limbeck reproduce`` on the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))
from tiny_study import TINY

from limbeck.cli import main

Limbeck = Callable[..., tuple[int, str, str]]


@pytest.fixture
def limbeck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Limbeck:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return run


def test_a_study_from_first_to_last(limbeck: Limbeck, tmp_path: Path) -> None:
    code, out, err = limbeck("study", "study.yaml", "--jobs", "1", "train.epochs=1")
    assert (code, err) == (0, "")
    assert "trials  2 for every arm" in out
    assert "[8/8] " in out
    assert "kd-helps" in out
    assert out.splitlines()[-1] == "page: runs/tiny/study.html"
    folder = tmp_path / "runs" / "tiny"
    names = {path.name for path in folder.iterdir() if path.is_file()}
    made = {"results.json", "study.html", "table.md", "table.csv", "table.tex", "claims.csv"}
    assert names == {*made, "claims.json"}
    assert json.loads((folder / "results.json").read_text())["study"] == "tiny"
    (folder / "study.html").unlink()
    code, out, _ = limbeck("study", "study.yaml", "--report-only", "train.epochs=1")
    assert code == 0
    assert "[" not in out.splitlines()[0]
    assert (folder / "study.html").exists()
    # another setting is another run, and there is none yet
    code, _, err = limbeck("study", "study.yaml", "--report-only", "train.epochs=7")
    assert (code, err) == (
        2,
        "error: runs/tiny: no run that counts is finished, so nothing to report\n",
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("study", "nowhere.yaml"), "nowhere.yaml: there is no such file"),
        (("study", "study.yaml", "--scale", "quik"), "scale: unknown scale 'quik': did you mean"),
        (("study", "study.yaml", "-j", "0"), "jobs: expected at least 1, got 0"),
        (("study", "study.yaml", "epochs"), "override 'epochs': expected key=value"),
        (("study", "study.yaml", "train.epoch=1"), "arms.plain, trial 1: train.epoch: unknown key"),
        (("reproduce", "99"), "unknown paper '99'"),
        (("reproduce", "19", "--scale", "huge"), "scale: unknown scale 'huge'"),
        (("schema", "stduy"), "unknown kind 'stduy': did you mean 'study'?"),
    ],
)
def test_one_clear_line(arguments: tuple[str, ...], line: str, limbeck: Limbeck) -> None:
    code, out, err = limbeck(*arguments)
    assert code == 2
    assert line in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_reproduce_finds_the_study_of_a_paper(limbeck: Limbeck, tmp_path: Path) -> None:
    code, out, err = limbeck("reproduce", "19", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "study   19-yuan, scale quick"
    assert "to run" in out
    assert not (tmp_path / "runs").exists()


def test_the_schema_of_studies(limbeck: Limbeck) -> None:
    code, out, _ = limbeck("schema", "study")
    assert code == 0
    assert json.loads(out)["title"] == "Limbeck study"
