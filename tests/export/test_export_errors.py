"""What cannot be exported is one clear line, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.cli import main
from limbeck.engine.run_folder import RunFolder
from limbeck.errors import CheckpointError, ExportError, StorageError
from limbeck.export import FORMATS, export_run
from limbeck.export import running as export_running
from limbeck.export.check import TOLERANCE, Check, refuse_if_different
from limbeck.export.formats import Written
from limbeck.export.telling import cost_line
from limbeck.export.to_torch_export import refuse_pickles

SILENT: dict[str, Any] = {"say": lambda line: None, "samples": 20}


def test_an_unknown_format_names_the_nearest(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^to: unknown format 'onx': did you mean 'onnx'\?"):
        export_run(run_folder, "onx", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").create({"version": 1}, "half")
    with pytest.raises(CheckpointError, match=r"not finished; go on with: limbeck resume"):
        export_run(tmp_path / "run", "onnx")


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such run folder"):
        export_run(tmp_path / "nothing", "onnx")


def test_an_output_that_is_there(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ExportError, match=r"is there already; remove it or choose another"):
        export_run(run_folder, "safetensors", output=tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ({"onnxscript"}, "export to onnx needs onnxscript, which is not installed: pip install"),
        ({"onnx", "onnxruntime"}, "needs onnx and onnxruntime, which are not installed: pip ins"),
    ],
)
def test_missing_packages(
    missing: set[str], line: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find(name)
    )
    with pytest.raises(ExportError, match=line):
        export_run(run_folder, "onnx")


@pytest.mark.parametrize("name", ["samples", "calibration"])
def test_no_samples(name: str, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"{name}: expected at least 1 sample, got 0"):
        export_run(run_folder, "onnx", output=tmp_path / "out", **{name: 0})


def test_weights_alone_take_no_preprocessing(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="safetensors hold weights and no graph"):
        export_run(
            run_folder, "safetensors", output=tmp_path / "o", with_preprocessing=True, **SILENT
        )
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_answers_otherwise_is_not_kept(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS["safetensors"]

    def off(subject: Any, folder: Path) -> Written:
        written = form.write(subject, folder)
        return Written(written.file, lambda inputs: written.ask(inputs) + 0.01)

    changed = dataclasses.replace(form, write=off)
    monkeypatch.setitem(export_running.FORMATS, "safetensors", changed)
    with pytest.raises(ExportError, match=r"outputs differ by up to 0\.01, .*nothing was kept"):
        export_run(run_folder, "safetensors", output=tmp_path / "out", **SILENT)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_does_not_answer(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS["safetensors"]

    def mute(inputs: Any) -> Tensor:
        raise RuntimeError("no kernel\nfor this")

    changed = dataclasses.replace(
        form, write=lambda subject, folder: Written(form.write(subject, folder).file, mute)
    )
    monkeypatch.setitem(export_running.FORMATS, "safetensors", changed)
    with pytest.raises(ExportError, match="does not answer: no kernel for this"):
        export_run(run_folder, "safetensors", output=tmp_path / "out", **SILENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("relative", [2 * TOLERANCE, float("nan")])
def test_the_limit_is_relative_and_nan_is_beyond_it(relative: float) -> None:
    check = Check("test", 1, 100 * relative, 100.0, 1.0, "accuracy", 0.5, 0.5)
    with pytest.raises(ExportError, match="does not answer as the student does"):
        refuse_if_different(check, FORMATS["onnx"])
    refuse_if_different(check, FORMATS["int8"])
    refuse_if_different(Check("test", 1, 9e-4, 100.0, 1.0, "", None, None), FORMATS["onnx"])


def test_int8_says_what_it_costs() -> None:
    scores = {"metric": "accuracy", "before": 0.9, "after": 0.87}
    assert cost_line(scores).startswith("warning: int8 costs 3.00 points of accuracy, more than 1:")
    assert cost_line({**scores, "after": 0.895}) == "int8 costs 0.50 points of accuracy"
    assert cost_line({**scores, "after": 0.91}) == "int8 gains 1.00 points of accuracy"
    assert cost_line({**scores, "after": 0.9}) == "int8 keeps the accuracy"
    assert cost_line({**scores, "metric": ""}).startswith("int8: the samples have no labels")


@pytest.mark.parametrize("to", ["safetensors", "torch-export"])
def test_a_full_disk(
    to: str, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="no space left on the device"):
        export_run(run_folder, to, output=tmp_path / "out", **SILENT)
    assert list(tmp_path.iterdir()) == []


def _archive(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"archive/{name}", content)
    return path


RAW = {"path_name": "weight_0", "use_pickle": False}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"data/weights/m_weights_config.json": {"w": {**RAW, "use_pickle": True}}}, "w"),
        ({"data/constants/m_constants_config.json": {"c": {"path_name": "opaque_obj_0"}}}, "c"),
        ({"data/sample_inputs/model.pt": b"x"}, "data/sample_inputs/model.pt"),
    ],
)
def test_pickles_in_a_pt2_are_refused(files: dict[str, Any], named: str, tmp_path: Path) -> None:
    contents = {
        name: value if isinstance(value, bytes) else json.dumps({"config": value}).encode()
        for name, value in files.items()
    }
    with pytest.raises(ExportError, match=rf"would hold pickled parts \({named}\)"):
        refuse_pickles(_archive(tmp_path, contents))


def test_a_plain_program_of_torch_holds_a_pickle_and_is_seen(tmp_path: Path) -> None:
    """The guard is no formality: torch's own archive pickles its example inputs."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    held = io.BytesIO()
    torch.export.save(program, held)
    (tmp_path / "theirs.pt2").write_bytes(held.getvalue())
    with pytest.raises(ExportError, match="sample_inputs"):
        refuse_pickles(tmp_path / "theirs.pt2")


def test_loading_our_pt2_unpickles_nothing(exports: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr("pickle.loads", never)
    module = torch.export.load(exports("torch-export").exported.file).module()
    assert module(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_the_command(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["export", str(run_folder), *words])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    code, out, err = run("--to", "safetensors", "--samples", "30", "-o", "here")
    assert (code, err) == (0, "")
    assert out.startswith("checked on 30 test samples: outputs differ by at most 0 ")
    assert out.endswith("written: here/model.safetensors\n")
    assert run("--to", "safetensors", "-q", "-o", "there", "data.num_train=100")[1:] == ("", "")
    code, out, err = run("--to", "torch", "-o", "x")
    assert code == 2
    assert err.startswith("error: to: unknown format 'torch': did you mean 'torch-export'?")
