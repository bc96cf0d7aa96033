"""``limbeck demo``: a first result on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import Quiet


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where runs and report go.")
    ] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Students of each kind.")] = 5,
    quiet: Quiet = False,
) -> None:
    """Distil a small network on real handwritten digits, and write a report to look at.

    A teacher learns from all labels; students see a few labels and many
    unlabelled scans, alone and with the teacher. Two minutes on two cores; no
    network is needed.

    [bold]Examples[/bold]

    limbeck demo
    limbeck demo --seeds 2 --output /tmp/first-look
    """
    from limbeck.demo import run_demo

    run_demo(output, seeds=seeds, quiet=quiet)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(guarded(demo))
