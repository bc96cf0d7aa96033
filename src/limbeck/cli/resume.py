"""``limbeck resume``: go on with an interrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import AllowCode, Quiet


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    quiet: Quiet = False,
    allow_code: AllowCode = False,
) -> None:
    """Go on with an interrupted run from its newest checkpoint, to the same bits.

    [bold]Examples[/bold]

    limbeck resume runs/kd-0
    limbeck resume runs/kd-0 --quiet
    """
    from limbeck.recipe.running import resume_run

    resume_run(folder, quiet=quiet, allow_code=allow_code)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resume")(guarded(resume))
