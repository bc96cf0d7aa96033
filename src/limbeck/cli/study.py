"""``limbeck study`` and ``limbeck reproduce``: a grid of runs, its statistics and its verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import AllowCode, Overrides, Quiet

Scale = Annotated[
    str | None, typer.Option(help="A scale that the study defines. [dim]Default: as written[/dim]")
]
PaperScale = Annotated[str, typer.Option(help="quick (minutes) or small (the whole protocol).")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The study's folder. [dim]Default: runs/<name>[/dim]"),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", help="Runs at once, one thread each. [dim]Default: one a core[/dim]"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the runs and about how long.")]
ReportOnly = Annotated[
    bool, typer.Option("--report-only", help="Run nothing: statistics of what there is.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Run again what has failed before.")
]


def study(
    source: Annotated[Path, typer.Argument(metavar="STUDY", help="A YAML file.")],
    overrides: Overrides = None,
    scale: Scale = None,
    output: Output = None,
    jobs: Jobs = None,
    dry_run: DryRun = False,
    report_only: ReportOnly = False,
    retry_failed: RetryFailed = False,
    quiet: Quiet = False,
    allow_code: AllowCode = False,
) -> None:
    """Run a grid of arms and seeds; write tables, verdicts and one page.

    Finished runs are found again, so the same command goes on where it stopped.
    KEY=VALUE changes the recipe that all runs start from.

    [bold]Examples[/bold]

    limbeck study study.yaml --dry-run
    limbeck study study.yaml --scale quick --jobs 2
    limbeck study study.yaml train.epochs=5 --output runs/short
    limbeck study study.yaml --report-only
    """
    from limbeck.recipe.telling import tell
    from limbeck.studies import run_study

    results = run_study(
        source,
        overrides or (),
        scale=scale,
        output=output,
        jobs=jobs,
        dry_run=dry_run,
        report_only=report_only,
        retry_failed=retry_failed,
        quiet=quiet,
        allow_code=allow_code,
    )
    if results is None:
        return
    from limbeck.errors import DataError
    from limbeck.reports.study import write_study
    from limbeck.reports.study_tables import arms_table, claims_table, relations_table

    if not results.has_runs:
        raise DataError(f"{results.folder}: no run that counts is finished, so nothing to report")
    page = write_study(results)
    if not quiet:
        from rich.console import Console

        console = Console(highlight=False)
        if results.judged:
            console.print(claims_table(results, in_words=False).to_rich(console.width))
        if (relations := relations_table(results, in_words=False)) is not None:
            console.print(relations.to_rich(console.width))
        console.print(arms_table(results).to_rich(console.width))
        tell(f"page: {page}")


def reproduce(
    paper: Annotated[str, typer.Argument(metavar="NN", help="The paper's number.")],
    overrides: Overrides = None,
    scale: PaperScale = "quick",
    output: Output = None,
    jobs: Jobs = None,
    dry_run: DryRun = False,
    report_only: ReportOnly = False,
    retry_failed: RetryFailed = False,
    quiet: Quiet = False,
) -> None:
    """Run the study of a paper: its claims, judged on small real data.

    Where its data come from stands in the README beside it; LIMBECK_DATA names
    the folder that holds them.

    [bold]Examples[/bold]

    limbeck reproduce 19
    limbeck reproduce 19 --scale small --jobs 8
    limbeck reproduce 19 --dry-run
    """
    from limbeck.studies.papers import paper_study

    study(
        paper_study(paper),
        overrides,
        scale=scale,
        output=output,
        jobs=jobs,
        dry_run=dry_run,
        report_only=report_only,
        retry_failed=retry_failed,
        quiet=quiet,
    )


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("study")(guarded(study))
    app.command("reproduce")(guarded(reproduce))
