"""What was done, in words, read from recipe and summary of each arm."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.reports.evidence import Arm, Evidence
from limbeck.reports.formats import count_of, join_words
from limbeck.reports.reading import RunRecord, mapping

_HIDDEN = frozenset({"name", "weight", "teacher", "arguments"})


@dataclass(frozen=True)
class Fact:
    """One line of "what was done".

    Attributes:
        label: what it is about.
        texts: (arm labels, text): one entry with no labels where all arms agree.
    """

    label: str
    texts: tuple[tuple[tuple[str, ...], str], ...]


def facts(evidence: Evidence) -> list[Fact]:
    """Return data, teacher, student, loss, training and seeds, as far as they are recorded."""
    readers: list[tuple[str, Callable[[Arm], str]]] = [
        ("Task", lambda arm: arm.example.task),
        ("Data", lambda arm: data_text(arm.example)),
        ("Teacher", lambda arm: teacher_text(arm.example)),
        ("Student", lambda arm: student_text(arm.example)),
        ("Loss", lambda arm: loss_text(arm.example)),
        ("Optimiser", lambda arm: optimizer_text(arm.example)),
        ("Schedule", lambda arm: schedule_text(arm.example)),
        ("Training", lambda arm: training_text(arm)),
        ("Seeds", _seeds_text),
    ]
    found = []
    for label, read in readers:
        groups: dict[str, list[str]] = {}
        for arm in evidence.arms:
            groups.setdefault(read(arm), []).append(arm.label)
        if set(groups) == {""}:
            continue
        if len(groups) == 1:
            texts: list[tuple[tuple[str, ...], str]] = [((), next(iter(groups)))]
        else:
            texts = [(tuple(arms), text or "none") for text, arms in groups.items()]
        found.append(Fact(label, tuple(texts)))
    return found


def plain_value(value: Any) -> str:
    """Return a setting as text.

    >>> plain_value([64, 8, 10]), plain_value(True), plain_value(0.0005)
    ('64-8-10', 'yes', '0.0005')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return named(value)
    if isinstance(value, list | tuple):
        whole = all(isinstance(item, int) for item in value)
        return ("-" if whole else ", ").join(plain_value(item) for item in value)
    return str(value)


def named(value: Any, hidden: frozenset[str] = _HIDDEN) -> str:
    """Return ``{"name": "sgd", "lr": 0.1}`` as ``sgd (lr 0.1)``; nested settings inside."""
    if not isinstance(value, Mapping):
        return "" if value is None else plain_value(value)
    flat = {**value, **mapping(value, "arguments")}
    title = str(flat.get("name") or flat.get("model") or "")
    parts = [
        f"{key.replace('_', ' ')} {plain_value(item)}"
        for key, item in flat.items()
        if key not in hidden and key != "model" and item not in (None, [], (), {})
    ]
    details = ", ".join(parts)
    return f"{title} ({details})" if title and details else title or details


def data_text(record: RunRecord) -> str:
    """Return the data set with the sizes of its parts, labelled and unlabelled apart."""
    known = record.summary.get("data")
    if isinstance(known, str):
        return known
    recipe = record.recipe.get("data")
    source = recipe.get("name") if isinstance(recipe, Mapping) else recipe
    sizes = mapping(record.summary, "data")
    if not isinstance(sizes.get("train"), int):
        return "; ".join(filter(None, [named(recipe), *_sizes_seen(record)]))
    labelled = sizes.get("labelled", sizes["train"])
    text = f"{sizes['train']:,} training samples"
    if labelled < sizes["train"]:
        text += f" ({labelled:,} labelled, {sizes['train'] - labelled:,} unlabelled)"
    parts = [text]
    parts += [f"{sizes[key]:,} {key}" for key in ("validation", "test") if key in sizes]
    return f"{sizes.get('name') or source or 'data'}: {join_words(parts)}"


def _sizes_seen(record: RunRecord) -> list[str]:
    """Return the sizes that log and predictions betray, where nothing says them outright."""
    texts = []
    kept = {row.get("kept", row.get("samples")) for row in record.rows("epoch")}
    if len(kept) == 1 and isinstance(size := kept.pop(), int):
        texts.append(f"{size:,} training samples an epoch")
    arrays = record.predictions
    if arrays is not None:
        texts.append(f"{len(arrays['student_logits']):,} test samples")
    return texts


def teacher_text(record: RunRecord) -> str:
    """Return the teachers by name, with what they are and how large."""
    teachers = dict(mapping(record.recipe, "teachers"))
    if record.recipe.get("teacher") is not None:
        teachers = {"teacher": record.recipe["teacher"]}
    measured = mapping(record.summary, "teachers")
    texts = []
    for name in teachers or measured:
        size = mapping(measured, name).get("parameters")
        model = mapping(measured, name).get("model")
        text = str(model) if isinstance(model, str) else _teacher_source(teachers.get(name))
        if isinstance(size, int | float):
            text += f", {size:,.0f} parameters"
        texts.append(text if len(teachers or measured) == 1 else f"{name}: {text}")
    return "; ".join(texts)


def _teacher_source(value: Any) -> str:
    """Return what a teacher is: its model, or what it is made from."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    if value.get("model"):
        return named(value)
    for key, text in _SOURCES.items():
        if key in value:
            return text(value[key])
    return named(value)


_SOURCES: dict[str, Callable[[Any], str]] = {
    "train": lambda v: (
        f"{named(v.get('student'))}, trained first ({v.get('name', 'its own recipe')})"
        if isinstance(v, Mapping)
        else f"trained first from {v}"
    ),
    "run": lambda v: f"the student of {v}",
    "ensemble": lambda v: "ensemble of " + join_words([_teacher_source(one) for one in v]),
    "calibrated": lambda v: f"{_teacher_source(v)}, calibrated",
    "cache": lambda v: f"{_teacher_source(v)}, cached",
    "virtual": lambda v: f"virtual ({named(v)})",
    "snapshot": lambda v: f"an earlier self ({named(v)})",
    "sklearn": lambda v: f"scikit-learn {v.get('estimator', '') if isinstance(v, Mapping) else v}",
}


def student_text(record: RunRecord) -> str:
    """Return the student's network and size."""
    student = record.recipe.get("student")
    members: Sequence[Any] = student if isinstance(student, list) else [student]
    if isinstance(student, Mapping) and "models" in student:
        members = student["models"]
    text = " + ".join(filter(None, (named(one) for one in members)))
    text = text or str(mapping(record.summary, "student").get("model") or "")
    size = record.student("parameters")
    return ", ".join(filter(None, [text, "" if size is None else f"{size:,.0f} parameters"]))


def method_terms(record: RunRecord) -> list[Mapping[str, Any]]:
    """Return the method terms as mappings with ``name``, from the summary, else the recipe.

    A term may stand there as a mapping or as it would be written: ``kd(weight=0.9)``.
    """
    found = record.summary.get("method") or record.recipe.get("method") or []
    items = found if isinstance(found, list) else [found]
    return [
        dict(item) if isinstance(item, Mapping) else _parse_term(item)
        for item in items
        if isinstance(item, Mapping) or (isinstance(item, str) and item)
    ]


def _parse_term(text: str) -> dict[str, Any]:
    """Read ``kd(weight=0.9, temperature=4.0)`` as a mapping; what is no such text is a name."""
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            values = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
            return {"name": call.func.id, **values}
    except (SyntaxError, ValueError):
        pass
    return {"name": text.partition("(")[0].strip()}


def loss_text(record: RunRecord) -> str:
    """Return the sum that was minimised, with its weights."""
    weight = record.summary.get("task_weight", mapping(record.recipe, "task").get("weight"))
    parts = [] if weight is None else [f"{plain_value(weight)} × task"]
    for term in method_terms(record):
        if term.get("name") == "plain":
            continue
        scale = f"{plain_value(term['weight'])} × " if term.get("weight") is not None else ""
        details = named({key: value for key, value in term.items() if key != "name"})
        parts.append(f"{scale}{term.get('name', '?')}{f' ({details})' if details else ''}")
    return " + ".join(parts)


def optimizer_text(record: RunRecord) -> str:
    """Return the optimiser with the settings that it uses and that say something."""
    optimizer = mapping(record.recipe, "train", "optimizer")
    if not optimizer:
        return named(mapping(record.recipe, "train").get("optimizer"))
    unused = {"betas"} if optimizer.get("name") == "sgd" else {"momentum", "nesterov"}
    unused |= {key for key in ("nesterov",) if not optimizer.get(key)}
    unused |= {key for key in ("decay_bias_and_norm",) if optimizer.get(key)}
    return named({key: value for key, value in optimizer.items() if key not in unused})


def schedule_text(record: RunRecord) -> str:
    """Return the schedule of the learning rate, with the settings that this schedule uses."""
    schedule = mapping(record.recipe, "train", "schedule")
    if not schedule:
        return named(mapping(record.recipe, "train").get("schedule"))
    unused = {"multistep": {"final"}, "constant": {"final", "milestones", "gamma"}}
    name = str(schedule.get("name", ""))
    left_out = unused.get(name, {"milestones", "gamma"})
    return named({key: value for key, value in schedule.items() if key not in left_out})


def training_text(arm: Arm) -> str:
    """Return epochs, batch size, steps, precision and which student was kept."""
    record = arm.example
    train = mapping(record.recipe, "train")
    parts = []
    if isinstance(train.get("epochs"), int):
        parts.append(count_of(train["epochs"], "epoch"))
    if isinstance(train.get("batch_size"), int):
        parts.append(f"batches of {train['batch_size']:,}")
    steps = {run.summary.get("steps") for run in arm.runs}
    if len(steps) == 1 and isinstance(number := steps.pop(), int):
        parts.append(count_of(number, "step"))
    if train.get("precision") not in (None, "float32"):
        parts.append(str(train["precision"]))
    kept = {"best": "best epoch by validation kept", "last": "last epoch kept"}
    deployed = str(record.summary.get("deployed") or train.get("deploy") or "")
    parts += [kept.get(deployed, "moving average kept")] if deployed else []
    return ", ".join(parts)


def _seeds_text(arm: Arm) -> str:
    seeds = [run.seed for run in arm.runs]
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return join_words([str(seed) for seed in seeds])
