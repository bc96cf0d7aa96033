"""The surface of the command line: a change here is a change for users."""

import inspect
import re
import subprocess
import sys

import pytest
import typer

from limbeck.cli.app import app

SURFACE = {
    "": ["--debug", "--help", "--version"],
    "run": [
        "--allow-code",
        "--dry-run",
        "--help",
        "--output",
        "--quiet",
        "--resume",
        "RECIPE",
        "KEY=VALUE",
    ],
    "resume": ["--allow-code", "--help", "--quiet", "RUN"],
    "evaluate": ["--allow-code", "--help", "--json", "--split", "RUN", "KEY=VALUE"],
    "cache": [
        "--allow-code",
        "--help",
        "--info",
        "--quiet",
        "--repair",
        "--verify",
        "RECIPE",
        "KEY=VALUE",
    ],
    "diagnose": [
        "--allow-code",
        "--batches",
        "--curvature",
        "--explainer",
        "--explanations",
        "--help",
        "--json",
        "--knowledge",
        "--loyalty",
        "--split",
        "--step",
        "--teacher",
        "RUN",
        "KEY=VALUE",
    ],
    "report": ["--help", "--output", "--title", "RUN"],
    "export": [
        "--allow-code",
        "--calibration",
        "--help",
        "--output",
        "--private",
        "--push-to-hub",
        "--quiet",
        "--samples",
        "--to",
        "--with-preprocessing",
        "RUN",
        "KEY=VALUE",
    ],
    "methods": ["--help", "NAME"],
    "models": ["--allow-code", "--help", "--json", "NAME", "KEY=VALUE"],
    "demo": ["--help", "--output", "--quiet", "--seeds"],
    "schema": ["--help", "KIND"],
    "study": [
        "--allow-code",
        "--dry-run",
        "--help",
        "--jobs",
        "--output",
        "--quiet",
        "--report-only",
        "--retry-failed",
        "--scale",
        "STUDY",
        "KEY=VALUE",
    ],
    "reproduce": [
        "--dry-run",
        "--help",
        "--jobs",
        "--output",
        "--quiet",
        "--report-only",
        "--retry-failed",
        "--scale",
        "NN",
        "KEY=VALUE",
    ],
}


def _surface(command: object) -> list[str]:
    parameters = [
        (parameter.param_type_name, max(parameter.opts, key=len), parameter.metavar)
        for parameter in command.params  # type: ignore[attr-defined]
    ]
    options = {name for kind, name, _ in parameters if kind == "option"} | {"--help"}
    arguments = [metavar for kind, _, metavar in parameters if kind == "argument"]
    return [*sorted(options), *arguments]


def test_the_surface_is_as_it_was() -> None:
    group = typer.main.get_command(app)
    found = {"": _surface(group)}
    found |= {name: _surface(command) for name, command in group.commands.items()}
    assert found == SURFACE


@pytest.mark.parametrize("name", [name for name in SURFACE if name])
def test_every_help_teaches_by_example(name: str) -> None:
    command = typer.main.get_command(app).commands[name]
    text = inspect.cleandoc(command.callback.__doc__)
    examples = re.findall(rf"^limbeck {name}\b.*$", text, re.MULTILINE)
    assert 2 <= len(examples) <= 4
    assert "[bold]Examples[/bold]" in text


def test_the_examples_name_options_that_exist() -> None:
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        known = {option for parameter in command.params for option in parameter.opts}
        used = set(re.findall(r"\s(--?[a-z][a-z-]*)", inspect.cleandoc(command.callback.__doc__)))
        used -= {"-m"}  # of python, in `limbeck schema | python -m json.tool`
        assert used <= known | {"--help"}, name


def test_no_command_imports_torch_before_it_is_called() -> None:
    code = (
        "import sys, limbeck.cli; assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
