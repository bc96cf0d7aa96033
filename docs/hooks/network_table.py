"""The table of registered networks, counted while the site is built."""

from __future__ import annotations

from method_pages import table

MARK = "<!-- the table of networks, filled in when the site is built -->"


def fill(markdown: str) -> str:
    """Return a page with its mark replaced by the table; pages without one stay as they are."""
    return markdown.replace(MARK, networks()) if MARK in markdown else markdown


def networks() -> str:
    """Return every registered network with its parameters on CIFAR-100."""
    from limbeck.models.describe import describe_networks

    rows = [
        [
            f"`{network.name}`",
            ", ".join(f"`{key}={value!r}`" for key, value in network.arguments.items()),
            f"{network.parameters:,}",
            network.paper or "",
        ]
        for network in describe_networks()
    ]
    return table(["network", "arguments", "parameters", "paper of the family"], rows)
