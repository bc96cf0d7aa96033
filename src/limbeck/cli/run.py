"""``limbeck run``: train a student by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes, by dotted key.", show_default=False),
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Also import models from code that is not installed."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The run's folder. [dim]Default: runs/<name>-<seed>[/dim]"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in that folder, if there is one.")
    ] = False,
    quiet: Quiet = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, say what would be done, train nothing.")
    ] = False,
    allow_code: AllowCode = False,
) -> None:
    """Train a student by a recipe; its teachers first, where they are recipes.

    [bold]Examples[/bold]

    limbeck run recipe.yaml
    limbeck run recipe.yaml train.epochs=5 method.temperature=2 seed=1
    limbeck run recipe.yaml 'student.channels=[8, 16]' --output runs/small
    limbeck run recipe.yaml --dry-run
    """
    from limbeck.recipe.running import run_recipe

    run_recipe(
        recipe,
        overrides or (),
        output=output,
        resume=resume,
        quiet=quiet,
        dry_run=dry_run,
        allow_code=allow_code,
    )


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(guarded(run))
