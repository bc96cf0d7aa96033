"""The parts of a docstring: its first paragraph, its prose, and what it says of each argument."""

from __future__ import annotations

import re

SECTIONS = r"(?:Args|Attributes|Raises|Returns|Example|Examples):"


def prose(text: str) -> str:
    """Return a clean docstring without its sections."""
    return re.split(rf"^{SECTIONS}", text, maxsplit=1, flags=re.M)[0].strip()


def first_paragraph(text: str) -> str:
    """Return the first paragraph of a clean docstring, on one line."""
    return " ".join(prose(text).split("\n\n")[0].split())


def meanings(text: str) -> dict[str, str]:
    """Return what the ``Args`` or ``Attributes`` of a clean docstring say, by name."""
    section = re.search(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", text, flags=re.M | re.S)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    [\w*])", "\n" + section[1]) if section else []:
        name, _, words = entry.strip().partition(":")
        if words:
            found[name.split(" ")[0]] = " ".join(words.split())
    return found
