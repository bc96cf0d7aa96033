"""``limbeck schema``: the JSON schema of recipes."""

from __future__ import annotations

import typer

from limbeck.cli.ending import guarded


def schema() -> None:
    """Print the JSON schema of recipes, for editors that check YAML while you write.

    [bold]Examples[/bold]

    limbeck schema > recipe.schema.json
    limbeck schema | python -m json.tool | less
    """
    import json

    from limbeck.recipe import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schema")(guarded(schema))
