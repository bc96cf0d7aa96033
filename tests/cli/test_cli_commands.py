"""Commands from end to end: what they print, where, and with which exit code."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from limbeck import __version__
from limbeck.cli import main
from limbeck.methods import all_methods

RECIPE = """\
data: {name: digits, num_train: 200}
student: {model: cnn, channels: [2, 4]}
method: plain
train: {epochs: 1, batch_size: 100}
"""


class Said:
    """What a command said, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def limbeck(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run the command line in an empty folder with one recipe in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("LIMBECK_DEBUG", raising=False)
    (tmp_path / "tiny.yaml").write_text(RECIPE)

    def run(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr()
        return Said(int(stop.value.code or 0), said.out, said.err)

    return run


def test_help_and_version(limbeck: Any) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        said = limbeck(*arguments)
        assert "limbeck demo" in said.out
    assert limbeck("--help").code == 0
    assert limbeck("--version").out == f"limbeck {__version__}\n"


def test_run_resume_evaluate(limbeck: Any, tmp_path: Path) -> None:
    said = limbeck("run", "tiny.yaml", "train.epochs=2", "--output", "here")
    assert said.code == 0, said.err
    assert "0.1 (default" not in said.out
    assert "task weight  1 (default of plain)" in said.out
    assert "test: accuracy" in said.out
    assert (tmp_path / "here" / "student" / "model.safetensors").is_file()
    assert limbeck("resume", "here", "--quiet").code == 0
    scores = json.loads(limbeck("evaluate", "here", "--json").out)
    assert 0 <= scores["accuracy"] <= 1
    assert limbeck("evaluate", "here", "--split", "validation").out.startswith("accuracy")
    again = limbeck("run", "tiny.yaml", "train.epochs=2", "--output", "here")
    assert again.code == 2
    assert again.err.startswith("error: output: here holds a run already; go on with it (limbeck")


def test_quiet_says_nothing(limbeck: Any) -> None:
    said = limbeck("run", "tiny.yaml", "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_a_dry_run_trains_nothing(limbeck: Any, tmp_path: Path) -> None:
    said = limbeck("run", "tiny.yaml", "--dry-run")
    assert said.code == 0
    assert "output would be runs/tiny-0; nothing was trained" in said.out
    assert not (tmp_path / "runs").exists()


def test_run_with_resume_starts_or_goes_on(limbeck: Any, tmp_path: Path) -> None:
    assert limbeck("run", "tiny.yaml", "--resume", "-q").code == 0
    written = (tmp_path / "runs" / "tiny-0" / "metrics.jsonl").read_text()
    assert limbeck("run", "tiny.yaml", "--resume", "-q").code == 0
    kept = (tmp_path / "runs" / "tiny-0" / "metrics.jsonl").read_text()
    assert kept.startswith(written.splitlines()[0])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "tiny.yml"], "error: tiny.yml: there is no such file: did you mean tiny.yaml?"),
        (["run", "tiny.yaml", "train.epoch=3"], "train.epoch: unknown key 'epoch': did you mean"),
        (["run", "tiny.yaml", "method=kd"], "error: method: kd needs a teacher"),
        (["run", "tiny.yaml", "epochs"], "error: override 'epochs': expected key=value"),
        (["run"], "error: Missing argument 'RECIPE' (see: limbeck run --help)"),
        (["run", "tiny.yaml", "--outptu", "x"], "error: No such option: --outptu"),
        (["rum", "tiny.yaml"], "error: No such command 'rum'. Did you mean 'run'"),
        (["train", "tiny.yaml"], "error: No such command 'train': did you mean 'run'?"),
        (["zzzz"], "error: No such command 'zzzz' (see: limbeck --help)"),
        (["resume", "nowhere"], "error: nowhere: there is no such run folder"),
        (["evaluate", "."], "error: .: not a run folder"),
        (["evaluate", "nowhere", "--split", "tset"], "error: split: unknown split 'tset'"),
        (["methods", "fitnt"], "error: unknown method 'fitnt': did you mean 'fitnet'?"),
        (["models", "vg8"], "error: unknown model 'vg8': did you mean 'vgg8'?"),
        (["models", "vgg8", "bn"], "error: 'bn': expected key=value, for example num_classes=10"),
        (["models", "vgg", "depht=8"], "argument of model 'vgg': 'depht': did you mean 'depth'?"),
        (["models", "vgg8", "name=x"], "error: unknown argument of model 'vgg8': 'name'"),
        (["models", "timm/resnet18", "allow_code=true"], "'allow_code' (choices: input_shape"),
        (["models", "depth=8"], "error: unknown setting of all networks 'depth'"),
        (["models", "num_classes=0"], "error: num_classes must be at least 1, got 0"),
        (["demo", "--seeds", "0"], "error: Invalid value for '--seeds'"),
    ],
)
def test_the_users_mistakes_are_one_line_and_code_2(
    arguments: list[str], line: str, limbeck: Any
) -> None:
    said = limbeck(*arguments)
    assert said.code == 2
    assert line in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_debug_shows_the_traceback_of_a_mistake(limbeck: Any) -> None:
    said = limbeck("run", "tiny.yml", "--debug")
    assert said.code == 2
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("error: tiny.yml")


def test_our_faults_are_one_line_with_the_place_of_the_traceback(
    limbeck: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import limbeck.recipe.running as running

    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("a\nfault")

    monkeypatch.setattr(running, "run_recipe", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = limbeck("run", "tiny.yaml")
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: unexpected ZeroDivisionError: a fault; a fault of Limbeck's")
    (kept,) = tmp_path.glob("limbeck-error-*.txt")
    assert str(kept) in said.err
    assert "ZeroDivisionError" in kept.read_text()


def test_an_interrupted_run_names_the_line_that_goes_on(
    limbeck: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limbeck.engine import distiller

    whole = distiller.Distiller._end_epoch

    def press_ctrl_c(self: Any) -> None:
        self._stopping = True
        whole(self)

    with monkeypatch.context() as patch:
        patch.setattr(distiller.Distiller, "_end_epoch", press_ctrl_c)
        said = limbeck("run", "tiny.yaml", "train.epochs=3", "--output", "my runs/one", "-q")
    assert said.code == 130
    assert said.err == "interrupted; go on with: limbeck resume 'my runs/one'\n"
    assert limbeck("resume", "my runs/one", "-q").code == 0


def test_ctrl_c_before_the_first_step(limbeck: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import limbeck.recipe.running as running

    def pressed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_recipe", pressed)
    said = limbeck("run", "tiny.yaml")
    assert (said.code, said.err) == (130, "interrupted\n")


def test_an_interrupted_teacher(limbeck: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import limbeck.recipe.running as running
    from limbeck.engine.signals import Interrupted

    def stopped(*args: Any, **kwargs: Any) -> None:
        raise Interrupted("home/teachers/0123")

    monkeypatch.setattr(running, "run_recipe", stopped)
    said = limbeck("run", "tiny.yaml")
    assert said.code == 130
    assert "the same command goes on with it" in said.err


def test_what_was_allowed_is_in_the_line_that_goes_on(
    limbeck: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import limbeck.recipe.running as running
    from limbeck.engine.signals import Interrupted

    def stopped(*args: Any, **kwargs: Any) -> None:
        raise Interrupted("runs/one")

    with monkeypatch.context() as patch:
        patch.setattr(running, "run_recipe", stopped)
        said = limbeck("run", "tiny.yaml", "--allow-code")
    assert said.err == "interrupted; go on with: limbeck resume runs/one --allow-code\n"
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/recipe.yaml").touch()
    said = limbeck("run", "tiny.yaml", "--allow-code", "--output", "runs/one")
    assert (said.code, "(limbeck resume runs/one --allow-code)" in said.err) == (2, True)


def test_the_catalogue_names_every_method(limbeck: Any) -> None:
    said = limbeck("methods")
    assert said.code == 0
    for name, kind in all_methods().items():
        assert f"\n{name} " in said.out
        if kind.card.paper is not None:
            assert str(kind.card.paper.year) in said.out


@pytest.mark.parametrize("name", list(all_methods()))
def test_the_card_of_a_method_says_all(name: str, limbeck: Any) -> None:
    import dataclasses

    kind = all_methods()[name]
    text = limbeck("methods", name).out
    assert kind.card.equation in text
    assert f"method: {name}" in text or f"method: [kd, {name}]" in text
    assert f"lb.{kind.__name__}()" in text
    for field in dataclasses.fields(kind):
        assert f"  {field.name} = " in text
        after = text.split(f"\n  {field.name} = ")[1].split("\n")[1]
        assert after.startswith("      "), f"no docs for {name}.{field.name}"
    if kind.card.paper is not None and kind.card.paper.arxiv:
        assert f"https://arxiv.org/abs/{kind.card.paper.arxiv}" in text


def test_the_recipe_of_a_card_is_a_recipe(limbeck: Any, tmp_path: Path) -> None:
    from limbeck.recipe import check_recipe, load_recipe

    (tmp_path / "teacher.yaml").write_text("data: digits\nstudent: cnn\nmethod: plain\n")
    for name in all_methods():
        text = limbeck("methods", name).out
        snippet = text.split("\nrecipe\n")[1].split("\npython\n")[0]
        (tmp_path / "snippet.yaml").write_text(snippet)
        check_recipe(load_recipe(tmp_path / "snippet.yaml"))


def test_the_catalogue_of_networks(limbeck: Any) -> None:
    from limbeck.models import model_names

    said = limbeck("models")
    assert said.code == 0, said.err
    listed = [line.split()[0] for line in said.out.splitlines()[1:] if line and line[0].islower()]
    assert listed == model_names()
    assert "wrn40_2 2,255,156 Zagoruyko and Komodakis 2016" in " ".join(said.out.split())
    ten = json.loads(limbeck("models", "num_classes=10", "--json").out)
    (wide,) = [network for network in ten if network["name"] == "wrn40_2"]
    assert wide["parameters"] == 2_255_156 - 90 * 129


def test_the_page_of_a_network(limbeck: Any) -> None:
    said = limbeck("models", "resnet20", "shortcut=conv", "num_classes=10", "input_shape=[1,28,28]")
    assert said.code == 0, said.err
    assert "samples     1x28x28, 10 classes" in said.out
    assert "  shortcut = 'conv'\n      \"pad\" (option A, no parameters)" in said.out
    assert "  stages          layer1             16x28x28\n" in said.out
    plain = json.loads(limbeck("models", "vgg8", "--json").out)
    assert plain["parameters"] == 3_965_028
    assert plain["roles"]["stages"]["blocks.4"] == [512, 4, 4]


def test_the_schema_is_json(limbeck: Any) -> None:
    schema = json.loads(limbeck("schema").out)
    assert schema["$defs"]["Recipe"]["properties"]["train"]
    assert "method_kd" in schema["$defs"]


def test_report_and_demo_are_handed_on(limbeck: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    reports = types.ModuleType("limbeck.reports")

    def write_report(runs: list[Path], out: Path, title: str | None) -> Path:
        called.append(([str(run) for run in runs], str(out), title))
        return out

    reports.write_report = write_report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "limbeck.reports", reports)
    assert limbeck("report", "runs/a").out == "runs/a/report.html\n"
    assert limbeck("report", "a", "b", "-o", "c.html", "--title", "T").out == "c.html\n"
    assert called == [(["runs/a"], "runs/a/report.html", None), (["a", "b"], "c.html", "T")]

    demo = types.ModuleType("limbeck.demo")
    demo.run_demo = lambda folder, **rest: called.append((folder, rest))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "limbeck.demo", demo)
    assert limbeck("demo", "--seeds", "2").code == 0
    assert called[-1] == (Path("runs/demo"), {"seeds": 2, "quiet": False})
