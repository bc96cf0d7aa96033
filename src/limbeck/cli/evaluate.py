"""``limbeck evaluate``: measure the student of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import AllowCode, Overrides


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Measure the student of a finished run.

    [bold]Examples[/bold]

    limbeck evaluate runs/kd-0
    limbeck evaluate runs/kd-0 --split validation --json
    limbeck evaluate runs/kd-0 data.root=/elsewhere/mnist
    """
    from limbeck.recipe.running import evaluate_run

    scores = evaluate_run(folder, split, overrides or (), allow_code=allow_code)
    if as_json:
        import json

        print(json.dumps(scores))
        return
    width = max(map(len, scores), default=0)
    for name, value in scores.items():
        print(f"{name:<{width}}  {value:.4f}")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(guarded(evaluate))
