"""One page per registered method, written from its Card, its docstring and its parameters."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any

from docstring_parts import meanings, prose
from mathematics import to_markdown

if TYPE_CHECKING:
    from limbeck.methods.base import Method
    from limbeck.methods.card import Card

# What each loss contract promises. A contract that is not here is shown by its name alone.
PROMISES = {
    "zero_at_equality": "zero, with zero gradient, where student equals teacher",
    "non_negative": "never negative",
    "permutation": "the order of the batch changes nothing",
    "halves": "two equal halves average to the whole",
    "ignored": "ignored or unlabelled positions change nothing",
    "fixed_teacher": "no gradient reaches a fixed teacher; no input is written to",
    "extreme_logits": "on logits up to ±1e4, float32 and bfloat16 agree with float64",
    "many_classes": "262,144 classes are no trouble",
    "one_class": "one class works, or is clearly refused",
    "batch_one": "a batch of one works",
    "gradient": "the gradient equals the numerical gradient away from kinks",
}


def page(name: str, method: type[Method]) -> str:
    """Return the Markdown page of one method."""
    card = method.card
    text = to_markdown(prose(inspect.cleandoc(method.__doc__ or "")))
    drawn = "limbeck-equation" in text  # then the card's line of text would say it twice
    parts = [
        f"# {card.title}",
        f"`{name}` · `limbeck methods {name}`",
        citation(card),
        "" if drawn else f"```text\n{card.equation}\n```",
        text,
        "## Parameters\n\n" + parameters(method),
        "## In a recipe\n\n" + snippet(name, method),
        "## What it needs\n\n" + needs(card),
        "## In the general model\n\n" + place(card),
        "## Loss contracts\n\n" + contracts(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def catalogue(methods: dict[str, type[Method]]) -> str:
    """Return the Markdown page that lists all methods."""
    rows = [
        [
            f"[{cls.card.title}]({name}.md)",
            f"`{name}`",
            "" if cls.card.paper is None else f"{first_author(cls.card)} {cls.card.paper.year}",
            ", ".join(cls.card.knowledge),
            cls.card.timing,
            cls.card.teacher_access.replace("_", " "),
        ]
        for name, cls in methods.items()
    ]
    heads = ["method", "name", "paper", "knowledge", "timing", "asks of the teacher"]
    return (
        "# Methods\n\n"
        "Every method that is registered, from its own card. `limbeck methods` prints the same in "
        "a terminal. Methods add up: `lb.KD(temperature=4) + 50 * lb.FitNet()`.\n\n"
        + table(heads, rows)
    )


def first_author(card: Card) -> str:
    """Return the first author's name, with "et al." where there are more."""
    assert card.paper is not None
    names = re.split(r",\s*|\s+and\s+", card.paper.authors)
    return names[0] + (" et al." if len(names) > 2 else f", {names[1]}" if len(names) == 2 else "")


def citation(card: Card) -> str:
    """Return where the method comes from and how close to its source it stays."""
    if card.paper is None:
        return ""
    paper = card.paper
    source = f" {paper.venue}." if paper.venue else ""
    if paper.arxiv:
        source += f" [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})."
    return f"{paper.authors} ({paper.year}). *{paper.title}.*{source} Built: {card.faithful}."


def described(method: type[Method]) -> dict[str, str]:
    """Return what the docstrings along the class's ancestry say about each parameter."""
    found: dict[str, str] = {}
    for cls in reversed(method.__mro__):
        found |= meanings(inspect.cleandoc(cls.__dict__.get("__doc__") or ""))
    return found


def parameters(method: type[Method]) -> str:
    """Return the table of parameters with types, defaults and meanings."""
    words = described(method)
    rows = [
        [f"`{field.name}`", f"`{type_of(field)}`", default(field), words.get(field.name, "")]
        for field in dataclasses.fields(method)
        if field.init
    ]
    return table(["parameter", "type", "default", "meaning"], rows)


def type_of(field: dataclasses.Field[Any]) -> str:
    """Return the annotation of a field as it was written."""
    kind = field.type
    return kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))


def default(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field as code, or that it must be given."""
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "must be given"


def snippet(name: str, method: type[Method]) -> str:
    """Return the method as a recipe would write it, with its defaults."""
    import yaml

    values: dict[str, Any] = {"name": name}
    for field in dataclasses.fields(method):
        if field.name != "teacher" and field.default is not dataclasses.MISSING:
            value = field.default
            values[field.name] = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump({"method": values}, sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```"


def needs(card: Card) -> str:
    """Return what the engine checks before the first step."""
    yes = {True: "yes", False: "no"}
    rows = [
        ["tasks", ", ".join(card.tasks)],
        ["asks of the teacher", card.teacher_access.replace("_", " ")],
        ["classes", f"{card.min_classes} to {card.max_classes or 'any number'}"],
        ["sample index", yes[card.needs_index]],
        ["second derivatives (then torch.compile is off)", yes[card.double_backward]],
        ["loss separable over the batch", yes[card.separable]],
        ["a memory of all samples", yes[card.bank]],
        ["owns the task term", yes[card.replaces_task]],
        ["weight of the task term", f"{card.task_weight:g}"],
        ["may change the length of an epoch", yes[card.selects]],
        ["training samples mixed (mixup)", _mixup(card)],
        ["deployed student", {"same": "as given", "grown": "with added parts"}[card.deploys]],
        ["teacher forwards per sample", f"{card.cost.teacher_forwards:g}"],
        ["student steps per sample", f"{card.cost.student_steps:g}"],
    ]
    return table(["", ""], rows)


def _mixup(card: Card) -> str:
    return f"no: {card.refuses_mixup}" if card.refuses_mixup else "yes"


def place(card: Card) -> str:
    """Return where the method sits in the general model of Abbasi et al. (arXiv 1912.13179)."""
    rows = [
        ["data modification", card.data_modification],
        ["data partition", card.data_partition],
        ["teachers", card.teachers],
        ["merge rule", card.merge],
        ["students", card.students],
        ["knowledge", ", ".join(card.knowledge)],
        ["location", ", ".join(card.location) or "none"],
        ["transfer", card.transfer],
        ["supervision", card.supervision],
        ["timing", card.timing],
    ]
    return table(["", ""], rows)


def contracts(card: Card) -> str:
    """Return the promises that are tested, and the exemptions with their reasons."""
    from typing import get_args

    from limbeck.methods.card import Contract

    held = [name for name in get_args(Contract) if name not in card.exempt]
    lines = [f"- {PROMISES.get(name, name.replace('_', ' '))}" for name in held]
    text = "Tested for this method:\n\n" + "\n".join(lines)
    if card.exempt:
        rows = [[PROMISES.get(key, key.replace("_", " ")), why] for key, why in card.exempt.items()]
        text += "\n\nExempt, each for its reason:\n\n" + table(["contract", "reason"], rows)
    return text


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; bars in cells are escaped, but for those in code."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell(item) for item in line) + " |" for line in lines)


def cell(text: str) -> str:
    """Return ``text`` so that it stays in one cell."""
    parts = re.split(r"(`[^`]*`)", text.replace("\n", " "))
    return "".join(
        part if number % 2 else part.replace("|", "\\|") for number, part in enumerate(parts)
    )
