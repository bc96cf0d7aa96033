"""``limbeck export``: the student of a run as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import AllowCode, Overrides, Quiet


def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[str, typer.Option("--to", help="safetensors, onnx, torch-export or int8.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The exported folder. [dim]Default: RUN/export/FORMAT[/dim]"
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Test samples that it is checked on, at most.")
    ] = 10_000,
    calibration: Annotated[
        int, typer.Option(help="Training samples that int8 reads ranges from.")
    ] = 512,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Take raw inputs; normalise inside.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also upload it to this repository.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new one private.")] = False,
    allow_code: AllowCode = False,
    quiet: Quiet = False,
) -> None:
    """Export the student of a finished run; check it against the student on real samples.

    [bold]Examples[/bold]

    limbeck export runs/kd-0 --to onnx
    limbeck export runs/kd-0 --to int8 --calibration 1000 --output small
    limbeck export runs/kd-0 --to torch-export --with-preprocessing
    limbeck export runs/kd-0 --to safetensors --push-to-hub me/student --private
    """
    from limbeck.export import export_run, hub_api, push_folder
    from limbeck.recipe.telling import tell

    api = hub_api(push_to_hub) if push_to_hub else None
    exported = export_run(
        folder,
        to,
        overrides or (),
        output=output,
        samples=samples,
        calibration=calibration,
        with_preprocessing=with_preprocessing,
        allow_code=allow_code,
        say=(lambda line: None) if quiet else tell,
    )
    if push_to_hub:
        address = push_folder(exported.folder, push_to_hub, api, private=private)
        if not quiet:
            tell(f"pushed to {address}")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(guarded(export))
