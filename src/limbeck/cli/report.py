"""``limbeck report``: one HTML page over one or more runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page. [dim]Default: report.html in the run's folder, or here[/dim]",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Its title.")] = None,
) -> None:
    """Write one self-contained HTML page: table with intervals, curves, reliability, cost.

    [bold]Examples[/bold]

    limbeck report runs/kd-0
    limbeck report runs/*
    limbeck report runs/plain-* runs/kd-* -o both.html --title "KD or not"
    """
    from limbeck.reports import write_report

    if output is None:
        output = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    print(write_report(runs, output, title))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(guarded(report))
