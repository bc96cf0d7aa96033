"""``--to safetensors``: the weights, and the code that builds their network without Limbeck."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import ExportError
from limbeck.export import standalone
from limbeck.export.formats import Format, Written, hushed
from limbeck.export.served import Served
from limbeck.export.subject import Subject
from limbeck.files import write_text
from limbeck.models import save_model

FILE = "model.safetensors"


def _write(subject: Subject, folder: Path) -> Written:
    if subject.baked:
        raise ExportError(
            "with_preprocessing: safetensors hold weights and no graph to build it into; "
            "preprocessing.json says what the inputs are (or export to onnx or torch-export)"
        )
    again = _save(subject, folder)
    # A fresh network, filled from the file: not the student that is in memory anyway.
    served = Served(again, subject.forward).eval()
    return Written(folder / FILE, served, {"code": _code(subject)})


def _save(subject: Subject, folder: Path) -> nn.Module:
    """Write weights and code; return a network that was rebuilt from them."""
    from safetensors.torch import load_model

    student = subject.student
    if _is_transformer(student):
        with hushed():
            student.save_pretrained(folder)  # type: ignore[operator]
            found: nn.Module = type(student).from_pretrained(folder)  # type: ignore[attr-defined]
        return found.eval()
    save_model(student, folder, subject.spec, _described(subject))
    text = _source(subject)
    if text is not None:
        write_text(folder / standalone.FILE, text)
        return _from_file(folder / standalone.FILE)()
    fresh = copy.deepcopy(student)
    for tensor in (*fresh.parameters(), *fresh.buffers()):
        tensor.zero_()
    load_model(fresh, str(folder / FILE))
    return fresh.eval()


def _described(subject: Subject) -> dict[str, Any]:
    return {key: subject.spec.get(key) for key in ("class_names", "normalisation")}


def _source(subject: Subject) -> str | None:
    return None if subject.spec["model"] is None else standalone.standalone_source(subject.spec)


def _from_file(path: Path) -> Callable[[], nn.Module]:
    """Return ``load_student`` of a model.py that was just written here."""
    spec = importlib.util.spec_from_file_location("limbeck_exported_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load: Callable[[], nn.Module] = module.load_student
    return load


def _is_transformer(student: nn.Module) -> bool:
    """Whether this is a module that transformers saves and loads itself."""
    own = (hasattr(student, name) for name in ("save_pretrained", "from_pretrained", "config"))
    return all(own)


def _code(subject: Subject) -> str:
    if _is_transformer(subject.student):
        return "transformers"
    return standalone.FILE if _source(subject) is not None else "the student's own"


def _usage(subject: Subject) -> str:
    name = type(subject.student).__name__
    asked = "logits = model(**inputs).logits" if subject.input_names else "logits = model(inputs)"
    code = _code(subject)
    if code == "transformers":
        return (
            f"from transformers import {name}\n\n"
            f'model = {name}.from_pretrained(".").eval()\n{asked}'
        )
    if code == standalone.FILE:
        return f"from model import load_student\n\nmodel = load_student()\n{asked}"
    return (
        "from safetensors.torch import load_model\n\n"
        f"model = {_how_it_was_built(subject)}\n"
        f'load_model(model, "{FILE}")\nmodel.eval()\n{asked}'
    )


def _how_it_was_built(subject: Subject) -> str:
    spec = subject.spec
    if spec["model"] is None:
        kind = type(subject.student)
        return f"...  # build your {kind.__module__}.{kind.__qualname__} as you did for training"
    return f"...  # {spec['model']!r} with {spec['arguments']}"


SAFETENSORS = Format(name="safetensors", runtime="torch", write=_write, usage=_usage, graph=False)
