"""``limbeck cache``: ask the teachers once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import AllowCode, Overrides, Quiet


def cache(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="A YAML file; with --info or --verify also a cache's folder."
        ),
    ],
    overrides: Overrides = None,
    info: Annotated[
        bool, typer.Option("--info", help="Say what is kept and why; capture nothing.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare every byte with its checksum; capture nothing."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Capture again what is missing or damaged.")
    ] = False,
    quiet: Quiet = False,
    allow_code: AllowCode = False,
) -> None:
    """Ask the teachers of a recipe about its training samples, once; runs then read the answers.

    An interrupted capture goes on where it was.

    [bold]Examples[/bold]

    limbeck cache recipe.yaml
    limbeck cache recipe.yaml --info
    limbeck cache runs/caches/0123456789abcdef0123 --verify
    limbeck cache recipe.yaml --repair
    """
    from limbeck.recipe.caching import cache_recipe

    cache_recipe(
        recipe,
        overrides or (),
        info=info,
        check=verify,
        repair=repair,
        quiet=quiet,
        allow_code=allow_code,
    )


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cache")(guarded(cache))
