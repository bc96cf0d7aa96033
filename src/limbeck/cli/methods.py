"""``limbeck methods``: the catalogue, and the card of one method."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.cli.ending import guarded


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A method.")] = None,
) -> None:
    """List the methods, or show one: paper, equation, parameters, needs, recipe.

    [bold]Examples[/bold]

    limbeck methods
    limbeck methods kd
    """
    from rich.console import Console

    from limbeck.cli.catalogue import card_text, catalogue_table

    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no edge to wrap at
        console = Console(highlight=False, width=160)
    page = catalogue_table(console.width) if name is None else card_text(name)
    console.print(page, soft_wrap=name is not None)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("methods")(guarded(methods))
