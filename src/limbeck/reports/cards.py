"""Method cards for the page: title, equation, citation and what the method asks for."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.errors import LimbeckError
from limbeck.reports.describe import method_terms
from limbeck.reports.evidence import Evidence


@dataclass(frozen=True)
class MethodCard:
    """What the page says about a method.

    Attributes:
        name: its name in recipes.
        title: its short title; the name where this installation does not know the method.
        equation: knowledge terms in one line; empty where unknown.
        citation: the paper; empty where there is none.
        arxiv: arXiv identifier, or None.
        facts: (field, value) of the general model of distillation.
    """

    name: str
    title: str
    equation: str = ""
    citation: str = ""
    arxiv: str | None = None
    facts: tuple[tuple[str, str], ...] = ()


def method_cards(evidence: Evidence) -> list[MethodCard]:
    """Return the cards of all methods that the runs used, in order of first use."""
    names: dict[str, None] = {}
    for record in evidence.records:
        names.update(dict.fromkeys(str(term.get("name", "")) for term in method_terms(record)))
    return [method_card(name) for name in names if name]


def method_card(name: str) -> MethodCard:
    """Return the card of a method, or its bare name where this installation does not know it."""
    from limbeck.methods import get_method

    try:
        card = get_method(name).card
    except LimbeckError:
        return MethodCard(name, name)
    facts = (
        ("Knowledge", ", ".join(card.knowledge)),
        ("Location", ", ".join(card.location)),
        ("Transfer", card.transfer),
        ("Supervision", card.supervision),
        ("Timing", card.timing),
        ("Built", card.faithful if card.paper is not None else ""),
    )
    paper = card.paper
    return MethodCard(
        name=name,
        title=card.title,
        equation=card.equation,
        citation="" if paper is None else str(paper),
        arxiv=None if paper is None else paper.arxiv,
        facts=tuple((field, value) for field, value in facts if value and value != "none"),
    )
