"""``limbeck schema``: the JSON schema of recipes and studies."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.cli.ending import guarded


def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="recipe or study.")] = "recipe",
) -> None:
    """Print the JSON schema of recipes, for editors that check YAML while you write.

    [bold]Examples[/bold]

    limbeck schema > recipe.schema.json
    limbeck schema study > study.schema.json
    limbeck schema | python -m json.tool | less
    """
    import json

    from limbeck.errors import RecipeError, unknown
    from limbeck.recipe import json_schema
    from limbeck.studies import study_schema

    schemas = {"recipe": json_schema, "study": study_schema}
    if kind not in schemas:
        raise RecipeError(unknown("kind", kind, schemas))
    print(json.dumps(schemas[kind](), indent=2, ensure_ascii=False))


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schema")(guarded(schema))
