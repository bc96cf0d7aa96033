"""README.md of an exported folder: a model card, with the front matter that the Hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from limbeck.errors import CheckpointError
from limbeck.export.formats import Format
from limbeck.export.subject import Subject
from limbeck.export.telling import check_line, cost_line, size_of, threads
from limbeck.studies.statistics import proportion_interval

_TASKS = {
    "classification": "classification",
    "multilabel": "multi-label",
    "regression": "regression",
}
_LIBRARIES = {"onnx": "onnx", "int8": "onnx", "safetensors": "pytorch", "torch-export": "pytorch"}


def model_card(
    subject: Subject, form: Format, facts: Mapping[str, Any], contract: Mapping[str, Any]
) -> str:
    """Return the card: what the student is, how it was made, what it does, how it is loaded."""
    summary, recipe = subject.run.summary, subject.run.recipe
    parts = [
        _front(subject, form, summary),
        f"# {summary['name']}",
        f"A {_TASKS[summary['task']]} student ({summary['student']['model']}, "
        f"{summary['student']['parameters']:,} parameters), trained with Limbeck and exported "
        f"as {form.name}.",
        "## Use\n\n" + _use(subject, form, contract),
        "## How it was made\n\n" + _making(subject, summary, recipe),
        "## How good it is\n\n" + _quality(subject, summary, facts),
        "## The export\n\n" + _export(form, facts),
        "## Intended use and limits\n\n" + _limits(subject),
    ]
    return "\n\n".join(parts) + "\n"


def _front(subject: Subject, form: Format, summary: Mapping[str, Any]) -> str:
    front: dict[str, Any] = {
        "library_name": _LIBRARIES[form.name],
        "license": "unknown",
        "tags": ["knowledge-distillation", "limbeck", form.name],
    }
    pictures = len(subject.data.input_shape) == 3 and not subject.input_names
    if summary["task"] == "classification" and pictures:
        front["pipeline_tag"] = "image-classification"
    accuracy = summary["metrics"].get("test", {}).get("accuracy")
    if accuracy is not None:
        front["metrics"] = ["accuracy"]
    return "---\n" + yaml.safe_dump(front, sort_keys=False) + "---"


def _use(subject: Subject, form: Format, contract: Mapping[str, Any]) -> str:
    lines = [f"```python\n{form.usage(subject)}\n```", f"Takes {contract['takes']}:"]
    shapes = [
        f"- `{one['name']}`: {one['dtype']} [{', '.join(map(str, one['shape']))}]"
        for one in contract["inputs"]
    ]
    lines.append("\n".join(shapes))
    stats = contract["normalisation"]
    if stats is not None:
        where = "inside the model" if stats["in_the_model"] else "before the model"
        lines.append(f"Normalisation, {where}: mean {stats['mean']}, std {stats['std']}.")
    lines.append(f"Gives `logits` [batch, {subject.data.num_outputs}]. {_classes(subject)}".strip())
    return "\n\n".join([*lines, "The same for programs: `preprocessing.json`."])


def _classes(subject: Subject) -> str:
    names = subject.data.class_names
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"Classes in order: {shown}."


def _making(subject: Subject, summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    train = recipe.get("train", {})
    rows = [
        ("method", " + ".join(f"`{one}`" for one in summary["method"])),
        ("task weight", summary["task_weight"]),
        ("teacher", _teachers(summary)),
        ("data", summary["data"]),
        ("seed", f"{summary['seed']} (one run)"),
        ("training", f"{train.get('epochs')} epochs, {summary['steps']:,} steps"),
        ("weights", _weights(summary)),
        ("command", _command(subject)),
    ]
    return _rows([row for row in rows if row[1] not in ("", None)])


def _weights(summary: Mapping[str, Any]) -> str:
    if summary["deployed"] != "best":
        return str(summary["deployed"])
    return f"those of epoch {summary['best_epoch'] + 1}, the best on validation"


def _teachers(summary: Mapping[str, Any]) -> str:
    found = []
    for name, teacher in summary["teachers"].items():
        said = [teacher["what"]] if "what" in teacher else []
        scores = teacher.get("metrics", {}).get("test", {})
        said += [f"test {key} {value:.4g}" for key, value in list(scores.items())[:1]]
        found.append(f"{name} ({', '.join(said)})" if said else name)
    return "; ".join(found) or "none that looks at inputs"


def _command(subject: Subject) -> str:
    try:
        ran = subject.run.read_json("environment.json")
    except CheckpointError:
        return ""
    return f"`{ran['command']}` (Limbeck {ran['limbeck']}, torch {ran['torch']})"


def _quality(subject: Subject, summary: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    part = "test" if "test" in summary["metrics"] else "validation"
    scores = summary["metrics"].get(part, {})
    table = ["| metric | " + part + " |", "|---|---|"]
    table += [f"| {name} | {value:.4g} |" for name, value in scores.items()]
    return "\n".join(table) + "\n\n" + _confidence(subject, part, scores) + _after(facts)


def _confidence(subject: Subject, part: str, scores: Mapping[str, float]) -> str:
    note = "One run with one seed: the spread over seeds is not in these numbers."
    labelled = int(subject.data.splits[part].labelled.sum())
    if "accuracy" not in scores or not labelled:
        return note
    low, high = proportion_interval(round(scores["accuracy"] * labelled), labelled)
    return (
        f"Of the student before export, on {labelled:,} {part} samples; accuracy on new data of "
        f"the same kind: {low:.4f} to {high:.4f} (95 %, Wilson). {note}"
    )


def _after(facts: Mapping[str, Any]) -> str:
    if facts["to"] != "int8":
        return ""
    text = cost_line(facts["check"]).removeprefix("warning: ")
    return f"\n\nAfter export: {text}."


def _export(form: Format, facts: Mapping[str, Any]) -> str:
    times = facts["latency"]
    rows = [["", "student in torch", f"{form.name} in {form.runtime}"]]
    rows += [["size", size_of(facts["bytes"]["before"]), size_of(facts["bytes"]["after"])]]
    rows += [
        [f"latency, batch {size}", f"{each['before']:.3g} ms", f"{each['after']:.3g} ms"]
        for size, each in times["ms"].items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---|---|---|")
    return (
        f"{check_line(facts)[0].upper()}{check_line(facts)[1:]}.\n\n"
        + "\n".join(lines)
        + f"\n\nLatencies: medians of {times['repeats']} on one machine, {threads(times)}. "
        "Details: `export.json`."
    )


def _limits(subject: Subject) -> str:
    return (
        f"For inputs like those of {subject.data.name}; what it answers to others was not "
        "measured. A student takes over its teacher's mistakes and biases. The licence of the "
        "data, and of the teacher's weights, is not known to Limbeck: look before you share this "
        "model, and put the right one in the front matter."
    )


def _rows(rows: list[tuple[str, Any]]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in rows)
