"""Students with parts that a method added leave in every form, and are rebuilt without Limbeck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from digit_runs import train

from limbeck.export import export_run
from limbeck.export.standalone import standalone_source
from limbeck.models import build_model, load_model, model_spec, save_model
from limbeck.models.assistant import cut_in_two, student_assistant_spec
from limbeck.taps import roles_of

SILENT: dict[str, Any] = {"say": lambda line: None, "samples": 40}
METHODS: dict[str, dict[str, Any]] = {
    "letkd2": {"name": "letkd2", "codewords": 8, "subclasses": 2},
    "simkd": {"name": "simkd"},
    "residual": {"name": "residual"},
}


SLOW = {"residual"}  # it is trained for half a minute of a busy machine; built alone below
PARAMS = [pytest.param(m, marks=pytest.mark.slow if m in SLOW else ()) for m in METHODS]


@pytest.fixture(scope="module", params=PARAMS)
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


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("cnn", {"channels": [4, 6]}, (1, 8, 8)),
        pytest.param("resnet8", {}, (3, 8, 8), marks=pytest.mark.slow),
    ],
)
def test_student_and_assistant_are_cut_again_without_limbeck(
    name: str, arguments: Any, shape: tuple[int, ...], tmp_path: Path, elsewhere: Any
) -> None:
    torch.manual_seed(5)
    given = build_model(name, num_classes=10, input_shape=shape, **arguments)
    head = str(roles_of(given)["head"])
    spec = model_spec(name, num_classes=10, input_shape=shape, **arguments)
    whole = student_assistant_spec(spec, (0.8, 0.45), head, features=7)
    example = torch.randn(2, *shape)
    both = cut_in_two(
        given, (0.8, 0.45), head=head, features=7, num_classes=10, example=example
    ).eval()
    torch.nn.init.normal_(both.lift_assistant.weight)
    save_model(both, tmp_path, whole)
    source = standalone_source(whole)
    assert source is not None
    (tmp_path / "model.py").write_text(source)
    (tmp_path / "x.txt").write_text(" ".join(map(repr, example.flatten().tolist())))
    code = (
        "import sys, torch\nfrom model import load_student\nmodel = load_student()\n"
        f"torch.set_num_threads({torch.get_num_threads()})\ntorch.set_grad_enabled(False)\n"
        "x = torch.tensor([float(v) for v in open('x.txt').read().split()])\n"
        "assert not any(name.startswith('limbeck') for name in sys.modules)\n"
        f"print(model(x.reshape(2, *{shape})).flatten().tolist())"
    )
    said = torch.tensor([float(v) for v in elsewhere(tmp_path, code)[1:-1].split(",")])
    with torch.no_grad():
        assert torch.equal(said, both(example).flatten())
        assert torch.equal(said, load_model(tmp_path)(example).flatten())
