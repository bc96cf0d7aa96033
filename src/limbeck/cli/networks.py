"""The catalogue of networks, as a table and as one page each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from limbeck.cli.catalogue import argument_docs
from limbeck.errors import ModelError, RecipeError, unknown
from limbeck.models.describe import Network
from limbeck.models.registry import GIVEN, model_arguments, model_builder, model_names
from limbeck.recipe.overrides import read_overrides


def read_settings(name: str | None, texts: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` texts: arguments of a network, its classes and shape.

    Args:
        name: the network; None for all of them, which share classes and shape alone.
        texts: values are written as in YAML.

    Raises RecipeError for what is not ``key=value``, ModelError for an unknown key.
    """
    for text in texts:
        if "=" not in text:
            raise RecipeError(f"{text!r}: expected key=value, for example num_classes=10")
    given = {override.key: override.value for override in read_overrides(texts)}
    known = [*GIVEN, *(model_arguments(name) if name in model_names() else ())]
    elsewhere = name is not None and name not in model_names()  # only building it would tell
    for key in given:
        taken = key in ("name", "allow_code") or not key.isidentifier()
        if key not in known and (taken or not elsewhere):
            what = "setting of all networks" if name is None else f"argument of model {name!r}:"
            raise ModelError(unknown(what, key, known))
    return given


def networks_table(networks: Sequence[Network]) -> Table:
    """Return a table of networks; sizes are missing where one refuses the shape."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("network", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("paper of the family")
    for network in networks:
        table.add_row(
            Text(network.name, style="bold"),
            "–" if network.parameters is None else f"{network.parameters:,}",
            (network.paper or "–").split(", arXiv")[0],
        )
    return table


def networks_note(network: Network) -> str:
    """Return what the numbers of the table are for."""
    return (
        f"Parameters for samples of {_shape(network.input_shape)} and {network.num_classes} "
        "classes; a name shows more. Also: timm/<id>, py:module:function, a saved student's folder."
    )


def network_text(network: Network) -> Text:
    """Return the page of one network."""
    text = Text()
    text.append(f"{network.name}\n", style="bold")
    if network.summary:
        text.append(f"{network.summary}\n")
    text.append("\n")
    for label, value in _facts(network):
        text.append(f"{label:<12}", style="dim").append(f"{value}\n")
    if network.arguments:
        text.append("\narguments\n", style="bold")
        for line in _arguments(network):
            text.append(f"{line}\n")
    text.append("\nroles\n", style="bold")
    width = max((len(tap) for taps in network.roles.values() for tap in taps), default=0)
    for role, taps in network.roles.items():
        for number, (tap, shape) in enumerate(taps.items()):
            label = role if number == 0 else ""
            text.append(f"  {label:<15} {tap:<{width}}  {_shape(shape)}\n")
    return text


def _facts(network: Network) -> Iterator[tuple[str, str]]:
    if network.paper:
        yield "paper", network.paper
    yield "samples", f"{_shape(network.input_shape)}, {network.num_classes} classes"
    yield "parameters", f"{network.parameters:,}"
    yield "FLOPs", f"{network.flops:,} (a sample's forward pass, two per multiply-add)"


def _arguments(network: Network) -> Iterator[str]:
    known = network.name in model_names()
    docs = argument_docs(model_builder(network.name)) if known else {}
    for key, value in network.arguments.items():
        yield f"  {key} = {value!r}"
        for line in textwrap.wrap(docs.get(key, "").replace("``", ""), 88):
            yield f"      {line}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
