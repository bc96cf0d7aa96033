"""MkDocs hook: the pages that no one writes by hand, made at build time.

A page per method from the registry, the catalogue, the recipe reference from the JSON schema,
the reference of every module of equations; and the table of the page on networks.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from typing import Any

import method_pages
import network_table
import recipe_page
from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks.site")


def on_config(config: Any) -> Any:
    """Put the generated pages into the navigation."""
    config["nav"] = [fill(entry) for entry in config["nav"]]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the site."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the table of networks."""
    return network_table.fill(markdown)


def fill(entry: Any) -> Any:
    """Return a navigation entry with the generated pages below its heading."""
    if isinstance(entry, dict) and "Methods" in entry:
        pages = [{cls.card.title: f"methods/{name}.md"} for name, cls in methods().items()]
        return {"Methods": ["methods/index.md", *pages]}
    if isinstance(entry, dict) and "Equations" in entry:
        pages = [{name: f"equations/{name}.md"} for name in equation_modules()]
        return {"Equations": ["equations/index.md", *pages]}
    return entry


def generated() -> dict[str, str]:
    """Return every generated page by its path in the site."""
    pages = {"methods/index.md": method_pages.catalogue(methods())}
    for name, cls in methods().items():
        pages[f"methods/{name}.md"] = method_pages.page(name, cls)
    pages["equations/index.md"] = equations_index()
    for name in equation_modules():
        pages[f"equations/{name}.md"] = f"# {name}\n\n::: limbeck.functional.{name}\n"
    pages["recipe-reference.md"] = recipe_reference()
    return pages


def methods() -> dict[str, Any]:
    """Return every registered method by name."""
    from limbeck.methods import all_methods

    return dict(all_methods())


def equation_modules() -> list[str]:
    """Return the public modules of equations."""
    package = importlib.import_module("limbeck.functional")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [name for name in names if not name.startswith("_")]


def equations_index() -> str:
    """Return the list of modules of equations with their first lines."""
    rows = []
    for name in equation_modules():
        module = importlib.import_module(f"limbeck.functional.{name}")
        summary = (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        rows.append([f"[{name}]({name}.md)", summary])
    return (
        "# Equations\n\n"
        "`limbeck.functional`: tensors in, tensor out; student first, teacher second. Nothing but "
        "torch is needed, so any of these can be called in a loop of your own.\n\n"
        + method_pages.table(["module", "what is in it"], rows)
    )


def recipe_reference() -> str:
    """Return the recipe reference."""
    from limbeck.data.bundle import COMMON_DEFAULTS
    from limbeck.data.registry import data_names, data_options
    from limbeck.models import model_arguments, model_names
    from limbeck.recipe import json_schema

    sources = {name: data_options(name) for name in data_names()}
    networks = {name: model_arguments(name) for name in model_names()}
    return recipe_page.page(json_schema(), sources, COMMON_DEFAULTS, networks)
