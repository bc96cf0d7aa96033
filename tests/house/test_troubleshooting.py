"""Messages that the troubleshooting page quotes are messages that Limbeck gives."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^#+ (?P<title>.*\".*)$(?P<said>\n<!-- said by .* -->)?", re.M)
HOLE = "\0"  # a value that is put into a message


@cache
def messages() -> tuple[str, ...]:
    """Every text in the source that is no docstring, with holes where values are put in."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if id(node) not in docstrings:
                found += _text(node)
    return tuple(found)


def _text(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = [str(p.value) if isinstance(p, ast.Constant) else HOLE for p in node.values]
        return ["".join(parts)]
    return []


def quotes(text: str) -> list[str]:
    """What the headings quote, but for what others say."""
    headings = [match for match in HEADING.finditer(text) if not match["said"]]
    return [quote for match in headings for quote in re.findall(r'"([^"]+)"', match["title"])]


def is_said(quote: str) -> bool:
    """Whether one message has all pieces of a quote, in order; … stands for anything."""
    pieces = [re.escape(piece.strip()) for piece in quote.split("…") if piece.strip()]
    pattern = re.compile(".*".join(pieces), re.S)
    return any(pattern.search(message) for message in messages())


@pytest.mark.parametrize("quote", quotes(TEXT))
def test_a_quoted_message_is_said(quote: str) -> None:
    assert is_said(quote)


def test_a_message_that_nobody_says_is_seen() -> None:
    page = (
        '### "nobody says … this"\n\n### "holds a run already"\n\n### "x"\n<!-- said by torch -->\n'
    )
    assert [is_said(quote) for quote in quotes(page)] == [False, True]


def test_a_quote_in_a_docstring_alone_is_not_said() -> None:
    assert not is_said("Messages that the troubleshooting page quotes")
    assert not is_said("Raise RecipeError if the folder holds a run already")


def test_links_within_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)$", TEXT, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in anchors
