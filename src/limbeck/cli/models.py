"""``limbeck models``: the catalogue of networks, and what one of them costs."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import AllowCode


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A network, as a recipe names it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Its arguments, num_classes or input_shape; values as in YAML.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """List the networks, or show one: parameters, FLOPs, arguments, and its roles for taps.

    [bold]Examples[/bold]

    limbeck models
    limbeck models wrn16_2
    limbeck models resnet20 shortcut=conv num_classes=10 input_shape=[1,28,28]
    limbeck models num_classes=10 --json
    """
    from limbeck.cli.networks import network_text, networks_note, networks_table, read_settings
    from limbeck.models.describe import describe_network, describe_networks

    if name is not None and "=" in name:
        settings = [name, *(settings or ())]
        name = None
    given = read_settings(name, settings or ())
    if name is None:
        found = describe_networks(**given)
    else:
        found = [describe_network(name, allow_code=allow_code, **given)]
    if as_json:
        import json

        plain = [network.plain() for network in found]
        print(json.dumps(plain if name is None else plain[0]))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if name is None:
        console.print(networks_table(found))
        console.print(f"\n{networks_note(found[0])}", soft_wrap=True)
    else:
        console.print(network_text(found[0]), soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("models")(guarded(models))
