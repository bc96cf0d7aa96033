"""Every format, read back by a process without Limbeck, answers as the student does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import limbeck as lb
from limbeck.export import FORMATS, export_run
from limbeck.models import load_model

Elsewhere = Callable[[Path, str], str]

ASK = """
import torch
from safetensors.torch import load_file, save_file
x = load_file("asked.safetensors")["x"]
{code}
save_file({{"said": torch.as_tensor(logits).detach().contiguous()}}, "said.safetensors")
"""


def ask(elsewhere: Elsewhere, folder: Path, code: str, x: Tensor) -> Tensor:
    save_file({"x": x.contiguous()}, folder / "asked.safetensors")
    elsewhere(folder, ASK.format(code=code))
    return load_file(folder / "said.safetensors")["said"]


def normalised(count: int) -> tuple[Tensor, Tensor]:
    """Digits as the data set has them, and as the student sees them (mean and std by hand)."""
    raw = lb.load_data("digits").splits["test"].fetch(torch.arange(count)).inputs
    return raw, ((raw.double() - 0.3053) / 0.3761).float()


CODE = {
    "safetensors": "from model import load_student\nmodel = load_student()\nlogits = model(x)",
    "torch-export": "model = torch.export.load('model.pt2').module()\nlogits = model(x)",
    "onnx": "import onnxruntime\ns = onnxruntime.InferenceSession('model.onnx')\n"
    "logits = s.run(['logits'], {'inputs': x.numpy()})[0]",
}


@pytest.mark.parametrize("to", CODE)
def test_an_export_answers_as_the_student(
    to: str, run_folder: Path, exports: Callable[[str], Any], elsewhere: Elsewhere
) -> None:
    _, x = normalised(5)
    batch = ask(elsewhere, exports(to).exported.folder, CODE[to], x)
    alone = ask(elsewhere, exports(to).exported.folder, CODE[to], x[:1])
    with torch.no_grad():
        wanted = load_model(run_folder / "student")(x)
    atol = 1e-5 * float(wanted.abs().max())
    torch.testing.assert_close(batch, wanted, rtol=0, atol=atol)
    torch.testing.assert_close(alone, wanted[:1], rtol=0, atol=atol)


def test_preprocessing_in_the_graph(run_folder: Path, tmp_path: Path, elsewhere: Elsewhere) -> None:
    place, to = tmp_path / "out", "onnx"
    export_run(
        run_folder, to, output=place, samples=50, with_preprocessing=True, say=lambda line: None
    )
    raw, x = normalised(6)
    said = ask(elsewhere, place, CODE[to], raw)
    with torch.no_grad():
        wanted = load_model(run_folder / "student")(x)
    torch.testing.assert_close(said, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
    contract = json.loads((place / "preprocessing.json").read_text())
    assert contract["normalisation"]["in_the_model"] is True
    assert contract["takes"] == "raw values in [0, 1]"


def test_int8_is_small_and_close(exports: Callable[[str], Any]) -> None:
    exported = exports("int8").exported
    check, notes = exported.facts["check"], exported.facts["notes"]
    assert check["agreement"] > 0.97
    assert abs(check["before"] - check["after"]) < 0.01
    assert exported.facts["bytes"]["after"] < exports("onnx").exported.file.stat().st_size
    assert check["max_difference"] > 0
    assert notes["calibration_samples"] == 64
    errors = notes["validation_error"]
    assert errors[notes["ranges"]] == min(errors.values())
    import onnx

    kinds = {node.op_type for node in onnx.load(exported.file).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_what_is_said_and_written(exports: Callable[[str], Any]) -> None:
    exported, lines = exports("onnx").exported, exports("onnx").lines
    assert lines[0] == "ONNX export takes some seconds"
    assert re.match(
        r"checked on 200 test samples: outputs differ by at most \S+ \(\S+ of the largest output "
        r"\S+, at most 1e-05 is allowed\); 100.00 % of predictions agree$",
        lines[1],
    )
    assert lines[2].split() == [
        "accuracy",
        "size",
        "ms,",
        "batch",
        "1",
        "ms,",
        "batch",
        "64",
        "runs",
        "in",
    ]
    assert lines[3].startswith("student")
    assert lines[4].startswith("onnx")
    assert lines[-1] == f"written: {exported.file}"
    facts = json.loads((exported.folder / "export.json").read_text())
    assert facts == exported.facts
    assert facts["bytes"]["after"] == exported.file.stat().st_size
    assert facts["latency"]["threads"] == torch.get_num_threads()
    assert all(each["after"] > 0 for each in facts["latency"]["ms"].values())
    files = {path.name for path in exported.folder.iterdir()} - {"asked.safetensors"}
    files.discard("said.safetensors")  # both are those of the tests
    assert files == {"model.onnx", "export.json", "preprocessing.json", "README.md"}


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_a_file_holds_no_path_of_this_machine(to: str, exports: Callable[[str], Any]) -> None:
    import zipfile

    exported = exports(to).exported
    contents = [exported.file.read_bytes()]
    if zipfile.is_zipfile(exported.file):
        with zipfile.ZipFile(exported.file) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
    here = str(Path(lb.__file__).parent.parent).encode()
    assert not any(here in content or b'stack_trace"' in content for content in contents)


def test_the_onnx_batch_is_free_and_named(exports: Callable[[str], Any]) -> None:
    import onnx

    graph = onnx.load(exports("onnx").exported.file).graph
    for value, rest in ((graph.input[0], [1, 8, 8]), (graph.output[0], [10])):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert [dim.dim_value for dim in others] == rest


def test_formats_are_those_of_the_help() -> None:
    assert list(FORMATS) == ["safetensors", "onnx", "torch-export", "int8"]


def test_limbeck_reads_its_own_safetensors_export(
    run_folder: Path, exports: Callable[[str], Any]
) -> None:
    again = load_model(exports("safetensors").exported.folder)
    first = load_model(run_folder / "student")
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), first.state_dict().values(), strict=True)
    )
