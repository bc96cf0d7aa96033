"""The ``limbeck`` command: its subcommands, and what happens when one ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from limbeck.cli import (
    cache,
    demo,
    diagnose,
    ending,
    evaluate,
    export,
    methods,
    models,
    report,
    resume,
    run,
    schema,
    study,
)

app = typer.Typer(
    name="limbeck",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from limbeck import __version__

        print(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def limbeck(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks. Works anywhere on the line.")
    ] = False,
) -> None:
    """Distil a big model into a small one, and see why it worked or did not.

    [bold]First steps[/bold]

    limbeck demo                [dim]real data, two minutes, a report[/dim]
    limbeck run recipe.yaml     [dim]train a student; key=value changes a setting[/dim]
    limbeck methods kd          [dim]paper, equation, defaults, needs[/dim]
    limbeck models wrn16_2      [dim]parameters, FLOPs, where its features are[/dim]
    limbeck report runs/*       [dim]one page over several runs[/dim]
    limbeck study study.yaml    [dim]arms and seeds; intervals, verdicts[/dim]
    """


for _module in (
    run,
    resume,
    evaluate,
    cache,
    report,
    diagnose,
    study,
    export,
    methods,
    models,
    demo,
    schema,
):
    _module.add_to(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Codes: 0 done; 2 the user's input (one line on stderr); 1 a fault of ours (one line, and where
    the traceback is); 130 interrupted, with the line that goes on.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(ending.run_to_end(app, given))
