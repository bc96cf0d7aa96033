"""The catalogue of methods, as a table and as one page each, read from the Cards."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from limbeck.methods.base import Method
from limbeck.methods.card import Card
from limbeck.methods.registry import all_methods, get_method

_ORDER = (
    "none",
    "response",
    "feature",
    "relation",
    "gradient",
    "explanation",
    "parameter",
    "selection",
)


_WIDE = 120


def catalogue_table(width: int = _WIDE) -> Table:
    """Return a table of all methods, grouped by the knowledge that they hand over.

    Where and tasks are left out of a table narrower than 120 columns: the methods' pages have them.
    """
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("knowledge")
    table.add_column("paper", no_wrap=wide)
    for column in ("where", "tasks") if wide else ():
        table.add_column(column)
    table.add_column("needs")
    group = None
    for name, kind in sorted(all_methods().items(), key=_by_knowledge):
        card = kind.card
        if group is not None and card.knowledge[-1] != group:
            table.add_section()
        group = card.knowledge[-1]
        table.add_row(
            Text(name, style="bold"),
            ", ".join(card.knowledge),
            f"{_authors(card)} {card.paper.year}" if card.paper else "–",
            *((", ".join(card.location) or "–", ", ".join(card.tasks)) if wide else ()),
            "; ".join(_needs(kind)) or "nothing",
        )
    return table


def _by_knowledge(item: tuple[str, type[Method]]) -> tuple[int, str]:
    name, kind = item
    return _ORDER.index(kind.card.knowledge[-1]), name


def _authors(card: Card) -> str:
    if card.paper is None:
        return "–"
    names = card.paper.authors.split(", ")
    return names[0] if len(names) == 1 else f"{names[0]} et al."


def _needs(kind: type[Method]) -> Iterator[str]:
    """Say what a method needs, in a few words each."""
    card = kind.card
    if card.needs_teacher and kind.teacher != "self":  # the student's own past is at hand
        what = {"sparse": "its outputs", "outputs": "its outputs", "head": "its head"}
        what["features"] = "its features"
        what["module"] = "its layers, run again"
        what["input_gradients"] = "its gradients at inputs"
        what["parameter_gradients"] = "the student's network, other weights"
        if card.students == "cohort":
            yield "several students, which teach each other"
        else:
            yield f"a teacher ({what.get(card.teacher_access, card.teacher_access)})"
    if card.supervision == "labels":
        yield "labels"
    if card.same_widths:
        yield "layers as wide as the teacher's"
    if card.needs_index:
        yield "sample indexes"
    if card.double_backward:
        yield "second derivatives"
    if card.min_classes > 2:
        yield f"{card.min_classes} classes or more"
    if card.max_classes is not None:
        yield f"{card.max_classes} classes at most"


def card_text(name: str) -> Text:
    """Return the page of one method; MethodError with the nearest name where there is none."""
    kind = get_method(name)
    card = kind.card
    text = Text()
    text.append(f"{card.title}", style="bold").append(f"  ({name})\n")
    text.append(f"{_plainly(_summary(kind))}\n\n")
    for label, value in _facts(kind):
        text.append(f"{label:<13}", style="dim").append(f"{value}\n")
    text.append("\nparameters\n", style="bold")
    for line in _parameters(kind):
        text.append(line + "\n")
    text.append("\nrecipe\n", style="bold").append(_recipe(name, kind))
    text.append("\npython\n", style="bold").append(_python(kind))
    return text


def _summary(kind: type[Method]) -> str:
    doc = inspect.getdoc(kind) or ""
    return " ".join(doc.split("\n\n")[0].split())


def _facts(kind: type[Method]) -> Iterator[tuple[str, str]]:
    card = kind.card
    if card.paper is not None:
        yield "paper", str(card.paper)
        if card.paper.arxiv:
            yield "", f"https://arxiv.org/abs/{card.paper.arxiv}"
    yield "equation", card.equation
    yield "knowledge", ", ".join(card.knowledge) + _carried(card)
    yield "where", ", ".join(card.location) or "–"
    yield "tasks", ", ".join(card.tasks)
    if card.needs_teacher and card.teachers != "one":
        yield "teachers", card.teachers + ("" if card.merge == "none" else f"; {card.merge}")
    yield "needs", "; ".join(_needs(kind)) or "nothing"
    yield (
        "labels",
        {"labels": "needed", "labels optional": "used where there are some"}.get(
            card.supervision, "not used"
        ),
    )
    yield (
        "task weight",
        f"{card.task_weight:g}" + (" (it redefines the task term)" if card.replaces_task else ""),
    )
    if card.bank:
        yield "samples", "compared with a bank of all training samples"
    elif not card.separable:
        yield "samples", "the loss of one depends on the others in its batch"
    if card.data_modification != "none":
        yield "data", card.data_modification
    if card.refuses_mixup:
        yield "mixup", f"refused: {card.refuses_mixup}"
    yield "timing", card.timing
    if card.deploys == "grown":
        yield "deploys", "the student with what the method put into it"
    yield (
        "cost",
        f"{_forwards(card.cost.teacher_forwards)} and {card.cost.student_steps:g} × a plain "
        "student's step",
    )
    yield "fidelity", card.faithful
    for contract, reason in card.exempt.items():
        yield "exempt", f"{contract}: {reason}"


def _carried(card: Card) -> str:
    """Say by what loss knowledge is carried; nothing where a method has none of its own."""
    has_none = card.transfer.startswith("none") or card.knowledge == ("selection",)
    return "" if has_none else f"; carried by {card.transfer or 'its loss'}"


def _plainly(text: str) -> str:
    """Return a docstring's text as a terminal shows it: code between single marks."""
    return text.replace("``", "`")


def _forwards(number: float) -> str:
    return f"{number:g} × the teacher's forward pass" if number else "no teacher's forward pass"


def _parameters(kind: type[Method]) -> Iterator[str]:
    docs: dict[str, str] = {}
    for ancestor in reversed([one for one in kind.__mro__ if issubclass(one, Method)]):
        docs |= argument_docs(ancestor)
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield f"  {field.name} = {default!r}"
        for line in textwrap.wrap(_plainly(_about(kind, field.name, docs)), 88):
            yield f"      {line}"


def _about(kind: type[Method], name: str, docs: Mapping[str, str]) -> str:
    """Return what is said of a parameter; the range of the weight is the same everywhere."""
    said = docs.get(name, "")
    if name == "teacher" and not kind.card.needs_teacher:
        return "has no meaning here, as no teacher is asked."
    if name != "weight":
        return said
    if kind.card.knowledge == ("none",):
        return "has no meaning here, as there are no knowledge terms."
    return said if "at least 0" in said or "no meaning" in said else f"{said} At least 0."


def argument_docs(kind: Any) -> dict[str, str]:
    """Read the ``Args:`` block of a docstring."""
    block = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", inspect.getdoc(kind) or "", re.MULTILINE)
    if block is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?:^ {5,}.*\n?)*)", block[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _recipe(name: str, kind: type[Method]) -> str:
    card = kind.card
    lines = ["data: digits"]
    if card.students == "cohort":
        lines += ["student: [cnn, cnn]"]
    else:
        lines += [f"student: {_written(kind.example_student)}"]
        if _asks_another(kind):
            one = "{train: teacher.yaml}"
            other = "{train: teacher.yaml, overrides: {seed: 1}}"
            several = f"{{ensemble: [{one}, {other}]}}"
            lines += [f"teacher: {several if _hears_several(card) else one}"]
    method = f"[kd, {name}]" if _needs_company(card) else name
    return textwrap.indent("\n".join([*lines, f"method: {method}"]) + "\n", "  ")


def _written(student: Mapping[str, Any]) -> str:
    """Return a student as a recipe writes it, on one line."""
    if set(student) == {"model"}:
        return str(student["model"])
    import yaml

    text: str = yaml.safe_dump(dict(student), default_flow_style=True, sort_keys=False, width=1000)
    return text.strip()


def _asks_another(kind: type[Method]) -> bool:
    """Whether a teacher must be given: the student's past and its peers need not be."""
    return kind.teacher is None and (kind.card.needs_teacher or _needs_company(kind.card))


def _needs_company(card: Card) -> bool:
    """Whether a method needs another beside it that teaches."""
    return card.teachers == "those of the methods beside it"


def _hears_several(card: Card) -> bool:
    """Whether several teachers are heard one by one, so that a single one says nothing new."""
    return card.teachers.startswith("several")


def _python(kind: type[Method]) -> str:
    card = kind.card
    student = "student=[small, other]" if card.students == "cohort" else "student=small"
    teacher = "teacher=big, " if _asks_another(kind) else ""
    if _hears_several(card):
        teacher = "teacher=[big, other], "
    method = f"lb.{kind.__name__}()"
    if _needs_company(card):
        method = f"lb.KD() + {method}"
    return textwrap.indent(
        "import limbeck as lb\n"
        f"run = lb.distill({teacher}{student}, data=(train_set, val_set), "
        f"method={method})\n",
        "  ",
    )
