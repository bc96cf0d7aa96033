"""Paths in recipes: which values are paths, and where relative ones start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.models.from_torchvision import is_weights_name
from limbeck.recipe.arguments import is_path
from limbeck.recipe.nesting import with_inside

DATA_PATHS = ("root", "path", "validation_path", "test_path", "unlabelled_path")
"""Options of data sources that are paths where they are text."""


def resolve_paths(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return plain data with every relative path made absolute.

    Args:
        document: a recipe, not validated yet; what is malformed is left as it is.
        folder: where relative paths start from.
    """
    found = dict(document)
    if isinstance(found.get("output"), str):
        found["output"] = absolute(found["output"], folder)
    for part in ("data", "probe"):
        if isinstance(found.get(part), dict):
            found[part] = {
                key: _of_data(key, value, folder) if isinstance(value, str) else value
                for key, value in found[part].items()
            }
    if "student" in found:
        found["student"] = _student(found["student"], folder)
    if "teacher" in found:
        found["teacher"] = _teacher(found["teacher"], folder)
    if isinstance(found.get("teachers"), dict):
        found["teachers"] = {
            name: _teacher(teacher, folder) for name, teacher in found["teachers"].items()
        }
    return found


def absolute(path: str, folder: Path) -> str:
    """Return ``path`` as text, started from ``folder`` where it is relative."""
    if "\0" in path:
        return path
    try:
        return str(folder / Path(path).expanduser())
    except RuntimeError:  # "~nobody": no such user
        return path


def _of_data(key: str, value: str, folder: Path) -> str:
    if key in DATA_PATHS:
        return absolute(value, folder)
    return _hub_or_folder(value, folder) if key == "tokenizer" else value


def _hub_or_folder(name: str, folder: Path) -> str:
    """Resolve what may be a path or a hub id: a path where it looks like one, or is there."""
    if name.startswith((".", "~")) or ("/" in name and Path(absolute(name, folder)).is_dir()):
        return absolute(name, folder)
    return name


def _student(student: Any, folder: Path) -> Any:
    if isinstance(student, str) and student.startswith("hf/"):
        return "hf/" + _hub_or_folder(student.removeprefix("hf/"), folder)
    if isinstance(student, str):
        return absolute(student, folder) if is_path(student) else student
    if isinstance(student, list):
        return [_student(member, folder) for member in student]
    if not isinstance(student, dict):
        return student
    found = dict(student)
    if "models" in found:
        found["models"] = _student(found["models"], folder)
    if isinstance(found.get("model"), str):
        if "weights" in found:  # of timm and torchvision; others do not know the key
            found["weights"] = _weights(found["model"], found["weights"], folder)
        found["model"] = _student(found["model"], folder)
    return found


def _weights(model: Any, weights: Any, folder: Path) -> Any:
    """Resolve a file of weights; the names that stand for weights are no files."""
    if not isinstance(weights, str) or weights == "random":
        return weights
    named = str(model).startswith("torchvision/") and is_weights_name(weights)
    return weights if named else absolute(weights, folder)


def _teacher(teacher: Any, folder: Path) -> Any:
    """Resolve the paths of a teacher, but not those inside a recipe that it is trained by."""
    if not isinstance(teacher, dict):
        return teacher
    found = dict(teacher)
    if "weights" in found:
        found["weights"] = _weights(found.get("model"), found["weights"], folder)
    if isinstance(found.get("model"), str):
        found["model"] = _student(found["model"], folder)
    if "online" in found:
        found["online"] = _student(found["online"], folder)
    for key in ("run", "train", "onnx", "folder"):
        if isinstance(found.get(key), str):
            found[key] = absolute(found[key], folder)
    return with_inside(found, lambda _, inner: _teacher(inner, folder))
