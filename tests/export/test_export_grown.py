"""Students with parts that a method added leave in every form, and are rebuilt without Limbeck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from digit_runs import train

from limbeck.export import export_run
from limbeck.models import load_model

SILENT: dict[str, Any] = {"say": lambda line: None, "samples": 40}
METHODS: dict[str, dict[str, Any]] = {
    "letkd2": {"name": "letkd2", "codewords": 8, "subclasses": 2},
    "simkd": {"name": "simkd"},
}


@pytest.fixture(scope="module", params=METHODS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    teacher = train(folder / "teacher", {"model": "cnn", "channels": [6, 8]}) / "student"
    student = {"model": "cnn", "channels": [4, 6]}
    method = METHODS[request.param]
    return train(folder / "run", student, teacher={"model": str(teacher)}, method=method)


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_as_a_graph(to: str, run: Path, tmp_path: Path) -> None:
    exported = export_run(run, to, output=tmp_path / "out", **SILENT)
    assert exported.facts["check"]["relative_difference"] <= 1e-5
    assert exported.facts["check"]["agreement"] == 1


def test_as_weights_and_code_for_torch_alone(run: Path, tmp_path: Path, elsewhere: Any) -> None:
    exported = export_run(run, "safetensors", output=tmp_path / "out", **SILENT)
    assert exported.facts["check"]["max_difference"] == 0
    code = (
        "import torch\nfrom model import load_student\n"
        f"torch.set_num_threads({torch.get_num_threads()})\ntorch.set_grad_enabled(False)\n"
        "model = load_student()\nprint(model(torch.ones(2, 1, 8, 8)).flatten().tolist())"
    )
    said = torch.tensor([float(v) for v in elsewhere(exported.folder, code)[1:-1].split(",")])
    with torch.no_grad():
        expected = load_model(run / "student")(torch.ones(2, 1, 8, 8)).flatten()
    assert torch.equal(said, expected)
