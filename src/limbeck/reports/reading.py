"""Run records: what a run folder says, read from disk alone.

A finished run must be whole: what is missing or damaged is an error of one line that names the
file. An unfinished run (killed, still going, failed) is read as far as it got and says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import DataError

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
"""The newest run-folder format that this module reads."""

_BOOKKEEPING = frozenset({"name", "seed", "version", "format", "output", "trackers", "checkpoints"})
_TASK_SIGNS = {"accuracy": "classification", "map": "multilabel", "f1": "multilabel"}
_MARKS = ("summary.json", "recipe.yaml", "metrics.jsonl")


@dataclass(frozen=True)
class RunRecord:
    """One run folder, read.

    Attributes:
        path: the folder.
        recipe: the resolved recipe.
        environment: versions, platform, command; empty where not recorded.
        metrics: the lines of metrics.jsonl, in order.
        timing: the lines of timing.jsonl, in order.
        summary: summary.json; empty where the run did not get that far.
        notes: what a reader of the report should know about this record.
    """

    path: Path
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Mapping[str, Any], ...] = ()
    timing: tuple[Mapping[str, Any], ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Label of the arm: the summary's name, else the recipe's, else the folder's."""
        return str(self.summary.get("name") or self.recipe.get("name") or self.path.name)

    @property
    def seed(self) -> int:
        """The run's seed; 0 where none is recorded."""
        value = self.summary.get("seed", self.recipe.get("seed", 0))
        return int(value) if isinstance(value, int | float) else 0

    @property
    def status(self) -> str:
        """``done``, or how far the run got: ``unfinished`` where nothing more is known."""
        return str(self.summary.get("status", "unfinished"))

    @property
    def done(self) -> bool:
        """Whether the run finished and counts in tables."""
        return self.status == "done"

    @property
    def task(self) -> str:
        """``classification``, ``multilabel`` or ``regression``; from the metrics where "auto"."""
        task = self.summary.get("task") or self.recipe.get("task", "auto")
        kind = str(task.get("kind", "auto") if isinstance(task, Mapping) else task)
        if kind != "auto":
            return kind
        rows = [row for row in self.metrics if row.get("kind") == "eval"]
        measured = set(mapping(self.summary, "metrics", "test")).union(*rows[:1])
        signs = (kind for key, kind in _TASK_SIGNS.items() if key in measured)
        return next(signs, "regression" if measured & {"r2", "mse"} else "classification")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The recipe as dotted keys, without name, seeds and book-keeping.

        Where a text ends in the run's seed (the folder of a teacher trained for this very seed)
        the seed is taken out, so that such runs are still one arm.
        """
        kept = {}
        for key, value in flatten(self.recipe).items():
            if key.split(".", 1)[0] in _BOOKKEEPING or key.endswith("seed"):
                continue
            if isinstance(value, str) and value.endswith(f"-{self.seed}"):
                value = value.removesuffix(str(self.seed)) + "<seed>"
            kept[key] = value
        return kept

    def rows(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the lines of metrics.jsonl of one kind: ``train``, ``eval`` or ``epoch``."""
        return [row for row in self.metrics if row.get("kind") == kind]

    def metric(self, name: str, split: str = "test") -> float | None:
        """Return a final metric of a split, or None where it was not measured."""
        return _number(mapping(self.summary, "metrics", split).get(name))

    def teacher_metric(self, teacher: str, name: str, split: str = "test") -> float | None:
        """Return a metric of a teacher on a split, or None where it was not measured."""
        return _number(mapping(self.summary, "teachers", teacher, "metrics", split).get(name))

    def student(self, name: str) -> float | None:
        """Return ``parameters``, ``flops`` or ``latency_ms`` of the student, or None."""
        return _number(mapping(self.summary, "student").get(name))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, from the summary or the saved student; () where none are known.

        Raises:
            DataError: student/model.json is damaged.
        """
        names = self.summary.get("class_names") or self._saved.get("class_names")
        return tuple(str(name) for name in names) if isinstance(names, list) else ()

    @cached_property
    def explanations(self) -> Mapping[str, Any]:
        """What ``limbeck diagnose --explanations`` kept; empty where it was not asked.

        Raises:
            DataError: explanations.json is damaged or of a newer format.
        """
        file = self.path / "explanations.json"
        found = _read_json(file) if file.is_file() else {}
        _check_format(file, found.get("format"))
        return found

    @cached_property
    def superclasses(self) -> dict[str, tuple[int, ...]]:
        """Named hierarchies: the superclass of each class; empty where none are known.

        Raises:
            DataError: student/model.json is damaged.
        """
        found = mapping(self._saved, "superclasses")
        return {str(name): tuple(map(int, groups)) for name, groups in found.items()}

    @cached_property
    def _saved(self) -> Mapping[str, Any]:
        file = self.path / "student" / "model.json"
        return _read_json(file) if file.is_file() else {}

    @cached_property
    def predictions(self) -> dict[str, np.ndarray] | None:
        """Arrays of predictions.safetensors, or None where there is no such file.

        Raises:
            DataError: the file is damaged or its arrays do not belong together.
        """
        file = self.path / "predictions.safetensors"
        return _read_predictions(file) if file.is_file() else None


def read_run(folder: Path | str) -> RunRecord:
    """Read one run folder.

    Raises:
        DataError: the folder is missing or no run folder, or a file that must be there is missing,
            damaged or of a newer format. One line, naming the file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"no run folder at {folder}")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file: expected a run folder")
    if not any((folder / mark).is_file() for mark in _MARKS):
        raise DataError(f"{folder} is no run folder: it holds none of {', '.join(_MARKS)}")
    summary = _read_json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
    done = summary.get("status") == "done"
    notes: list[str] = []
    recipe = _read_yaml(folder / "recipe.yaml")
    for file, document in (("summary.json", summary), ("recipe.yaml", recipe)):
        _check_format(folder / file, document.get("format", document.get("version")))
    if done and not (folder / "metrics.jsonl").is_file():
        raise DataError(f"{folder / 'metrics.jsonl'} is missing, though the run is done")
    environment: Mapping[str, Any] = {}
    if (folder / "environment.json").is_file():
        environment = _read_json(folder / "environment.json")
    return RunRecord(
        path=folder,
        recipe=recipe,
        environment=environment,
        metrics=_read_lines(folder / "metrics.jsonl", done, notes),
        timing=_read_lines(folder / "timing.jsonl", done, notes),
        summary=summary,
        notes=tuple(notes),
    )


def read_runs(folders: Iterable[Path | str]) -> list[RunRecord]:
    """Read run folders; a folder that only holds run folders stands for all of them, sorted.

    Raises:
        DataError: see :func:`read_run`; or there is nothing to read.
    """
    records: list[RunRecord] = []
    seen: set[Path] = set()
    for folder in expand(folders):
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            records.append(read_run(folder))
    if not records:
        raise DataError("no runs to report on: name at least one run folder")
    return records


def expand(folders: Iterable[Path | str]) -> list[Path]:
    """Replace folders that hold run folders (at most two levels down) by what they hold.

    A folder called ``teachers`` is passed over: it holds what was trained on the way. So are
    pages and that folder among several (``runs/*``); alone, they are taken by their word.
    """
    result: list[Path] = []
    given = list(map(Path, folders))
    for folder in given:
        if len(given) > 1 and (folder.suffix == ".html" or _is_store(folder)):
            continue
        inside: list[Path] = []
        if folder.is_dir() and not any((folder / mark).is_file() for mark in _MARKS):
            found = (*folder.glob("*/recipe.yaml"), *folder.glob("*/*/recipe.yaml"))
            kept = "teachers" if folder.name != "teachers" else ""
            inside = sorted(file.parent for file in found if file.parent.parent.name != kept)
        result.extend(inside or [folder])
    return result


def _is_store(folder: Path) -> bool:
    """Whether a folder is the store of teachers, and no run that happens to have its name."""
    return folder.name == "teachers" and not any((folder / mark).is_file() for mark in _MARKS)


def mapping(value: Any, *keys: str) -> Mapping[str, Any]:
    """Follow ``keys`` into nested mappings; an empty mapping where the path ends early."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and lists of mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _check_format(file: Path, version: Any) -> None:
    if isinstance(version, int) and version > FORMAT:
        raise DataError(f"{file} is of format {version}: this version reads up to {FORMAT}")


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{file} is missing") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is damaged: no UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(_read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is damaged: {error.msg} at line {error.lineno}") from None
    if not isinstance(document, dict):
        raise DataError(f"{file} is damaged: expected a JSON object")
    return document


def _read_yaml(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(_read_text(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise DataError(f"{file} is damaged: not YAML{where}") from None
    if not isinstance(document, dict):
        raise DataError(f"{file} is damaged: expected a mapping of settings")
    return document


def _read_lines(file: Path, done: bool, notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    """Read JSON lines. The last line of an unfinished run may be torn: left out, with a note."""
    if not file.is_file():
        return ()
    rows: list[Mapping[str, Any]] = []
    lines = _read_text(file).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number == len(lines) and not done:
            notes.append(f"the last line of {file.name} was cut off and is left out")
        else:
            raise DataError(f"{file} is damaged: line {number} is no JSON object")
    return tuple(rows)


def _read_predictions(file: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}") from None
    if "student_logits" not in arrays:
        raise DataError(f"{file} is damaged: it has no 'student_logits'")
    shape = arrays["student_logits"].shape
    targets, teacher = arrays.get("targets"), arrays.get("teacher_logits")
    if len(shape) != 2 or (targets is not None and targets.shape[:1] != shape[:1]):
        found = "none" if targets is None else targets.shape
        raise DataError(
            f"{file} is damaged: student_logits {shape} and targets {found} do not belong together"
        )
    if teacher is not None and teacher.shape != shape:
        raise DataError(
            f"{file} is damaged: teacher_logits {teacher.shape}, student_logits {shape}"
        )
    return arrays
