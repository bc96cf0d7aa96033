"""Recipes: a whole experiment as one validated document, in YAML or Python."""

from limbeck.recipe.build import build_plan
from limbeck.recipe.checks import check_data, check_recipe
from limbeck.recipe.json_schema import json_schema
from limbeck.recipe.loading import load_recipe
from limbeck.recipe.resolved import recipe_digest, recipe_yaml, resolved
from limbeck.recipe.schema import Recipe
from limbeck.recipe.summary import describe_plan

__all__ = [
    "Recipe",
    "build_plan",
    "check_data",
    "check_recipe",
    "describe_plan",
    "json_schema",
    "load_recipe",
    "recipe_digest",
    "recipe_yaml",
    "resolved",
]
