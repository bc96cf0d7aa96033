"""``--to torch-export``: one .pt2 file that plain torch runs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ExportError
from limbeck.export.formats import Format, Written, hushed
from limbeck.export.graph import capture
from limbeck.export.subject import Subject
from limbeck.files import write_bytes

FILE = "model.pt2"


def _write(subject: Subject, folder: Path) -> Written:
    held = io.BytesIO()
    with hushed():
        torch.export.save(capture(subject), held)
    path = folder / FILE
    write_bytes(path, held.getvalue())
    refuse_pickles(path)
    with hushed():
        module = torch.export.load(path).module()

    def ask(inputs: Any) -> Tensor:
        logits: Tensor = module(inputs) if isinstance(inputs, Tensor) else module(**inputs)
        return logits

    return Written(path, ask, {"torch": torch.__version__})


def refuse_pickles(path: Path) -> None:
    """Raise ExportError where loading the .pt2 file would unpickle anything.

    ``torch.export.load`` believes the archive about that. What is written here holds raw weights
    and a graph in JSON; tensor subclasses, custom objects and example inputs would be pickled.
    """
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            inside = name.split("/", 1)[-1]
            if inside.endswith("_config.json"):
                entries = json.loads(archive.read(name))["config"].items()
                found += [key for key, entry in entries if _is_pickled(entry)]
            elif inside.endswith(".pt") and archive.getinfo(name).file_size:
                found.append(inside)
    if found:
        raise ExportError(
            f"{path.name} would hold pickled parts ({', '.join(found[:3])}), which Limbeck neither "
            "writes nor reads; export to onnx or safetensors"
        )


def _is_pickled(entry: dict[str, Any]) -> bool:
    raw = str(entry.get("path_name", "")).startswith(("weight_", "tensor_"))
    return bool(entry.get("use_pickle")) or not raw


def _usage(subject: Subject) -> str:
    asked = "**inputs" if subject.input_names else "inputs"
    return f'import torch\n\nmodel = torch.export.load("{FILE}").module()\nlogits = model({asked})'


TORCH_EXPORT = Format(
    name="torch-export",
    runtime="torch.export",
    write=_write,
    usage=_usage,
    waits="torch.export follows the student: a few seconds",
)
