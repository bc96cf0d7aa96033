"""What goes wrong for a user is one line that names it: exit code 2, and nothing half-written."""

import contextlib
import functools
import gzip
import json
import resource
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml

import limbeck as lb
from limbeck.cli import main
from limbeck.errors import DataError
from limbeck.models import build_model, save_model

Limbeck = Callable[..., str]
BASE = {
    "data": {"name": "digits", "num_train": 100},
    "student": {"model": "cnn", "channels": [2, 4]},
    "method": "plain",
    "train": {"epochs": 1, "batch_size": 100},
}
TEACHER = "teacher={model: cnn, channels: [3, 5], weights: random}"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LIMBECK_DEBUG", raising=False)
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Limbeck:
    """Run a command that must fail by its user's fault, and return its one line.

    No file may be new or changed afterwards, but for those below ``touched``.
    """

    def run(*arguments: str, touched: str | None = None) -> str:
        before = _files(tmp_path, touched)
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr()
        assert stop.value.code == 2, said.err
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert said.err.endswith("\n")
        assert "Traceback" not in said.out
        assert _files(tmp_path, touched) == before
        return said.err.removeprefix("error: ").rstrip()

    return run


def _files(folder: Path, touched: str | None) -> dict[str, bytes | None]:
    """Every file and folder with its content, those below ``touched`` left out."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: path.read_bytes() if path.is_file() else None
        for name, path in found.items()
        if touched is None or name.split("/")[0] != touched
    }


# Files.


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["run", "bsae.yaml"], "bsae.yaml: there is no such file: did you mean base.yaml?"),
        (["run", "base.yaml", "data={name: table, path: no.csv, target: y}"], "no.csv"),
        (["run", "base.yaml", "data={name: mnist, root: nowhere}"], "nowhere"),
        (["run", "base.yaml", "data={name: images, root: nowhere}"], "nowhere"),
        (["run", "base.yaml", "method=kd", "teacher={run: runs/none-0}"], "runs/none-0"),
        (["run", "base.yaml", "method=kd", "teacher={train: none.yaml}"], "none.yaml"),
        (["resume", "runs/none-0"], "runs/none-0"),
        (["evaluate", "runs/none-0"], "runs/none-0"),
        (["report", "runs/none-0"], "runs/none-0"),
        (["report", "base.yaml"], "base.yaml"),
    ],
)
def test_a_missing_file(arguments: list[str], name: str, refused: Limbeck) -> None:
    assert name in refused(*arguments)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine, and give its address."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_wrong_checksum(refused: Limbeck, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    _write_mnist(mirror, labels=bytes(20))
    with _served(mirror) as address:
        data = f"data={{name: mnist, root: here, download: true, mirror: '{address}'}}"
        line = refused("run", "base.yaml", data)
    assert f"{address}/train-images-idx3-ubyte.gz: wrong checksum" in line
    assert not (tmp_path / "here").exists()


def _write_mnist(folder: Path, labels: bytes) -> None:
    """Write files of MNIST's form with blank images and these labels."""
    folder.mkdir()
    for part in ("train", "t10k"):
        images = struct.pack(">IIII", 0x803, len(labels), 28, 28) + bytes(len(labels) * 784)
        answers = struct.pack(">II", 0x801, len(labels)) + labels
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(answers))


# Networks and layers.


def test_class_counts_that_differ(refused: Limbeck, tmp_path: Path) -> None:
    spec = {"model": "mlp", "num_classes": 7, "input_shape": [1, 8, 8], "arguments": {}}
    seven = build_model("mlp", num_classes=7, input_shape=(1, 8, 8))
    save_model(seven, tmp_path / "seven", spec)
    line = refused("run", "base.yaml", "method=kd", "teacher={run: seven}")
    assert "teacher" in line
    assert "7 classes" in line
    assert "10" in line


def test_shapes_of_paired_layers(refused: Limbeck) -> None:
    pairs = "method={name: fitnet, pairs: [['stages[0]', 'stages[0]']], projector: identity}"
    line = refused("run", "base.yaml", pairs, TEACHER)
    assert "student tap 'stages[0]' [2, 2, 8, 8]" in line
    assert "teacher tap 'stages[0]' [2, 3, 8, 8]" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method=kdd", "method.name: unknown method 'kdd': did you mean 'kd'?"),
        ("student=cnnn", "student.model: unknown model 'cnnn': did you mean 'cnn'?"),
        ("student=py:nowhere:net", "nowhere"),
        ("data=digit", "data.name: unknown data source 'digit': did you mean 'digits'?"),
        ("train.epoch=3", "train.epoch: unknown key 'epoch': did you mean 'epochs'?"),
    ],
)
def test_an_unknown_name(change: str, said: str, refused: Limbeck) -> None:
    assert said in refused("run", "base.yaml", change)


def test_a_timm_id_without_torchvision(
    refused: Limbeck, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = tmp_path / "stub" / "timm"  # as timm does: its first import asks for torchvision
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("import torchvision.transforms\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(stub.parent)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    line = refused("run", "base.yaml", "student=timm/resnet18")
    assert "timm/resnet18" in line
    assert "needs torchvision, which is not installed: pip install timm torchvision" in line


# Data.


def _table(tmp_path: Path, text: str) -> str:
    (tmp_path / "table.csv").write_text(text)
    return "data={name: table, path: table.csv, target: y}"


@pytest.mark.parametrize("text", ["x,y\n", ""])
def test_empty_data(text: str, refused: Limbeck, tmp_path: Path) -> None:
    assert "table.csv" in refused("run", "base.yaml", "student=mlp", _table(tmp_path, text))


def test_empty_image_folders(refused: Limbeck, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    assert "pictures" in refused("run", "base.yaml", "data={name: images, root: pictures}")


def test_numbers_that_are_not_finite(refused: Limbeck, tmp_path: Path) -> None:
    rows = "".join(f"{'inf' if i == 7 else i},{i % 2}\n" for i in range(40))
    line = refused("run", "base.yaml", "student=mlp", _table(tmp_path, "x,y\n" + rows))
    assert "column 'x', row 7: the value is infinite" in line


def test_nan_in_data() -> None:
    """Only Python can bring NaN: in a table it is a missing value, and pixels are whole numbers."""
    inputs, targets = torch.rand(40, 3), torch.arange(40) % 2
    inputs[7, 1] = torch.nan
    with pytest.raises(DataError, match=r"train.*sample 7.*nan") as caught:
        lb.distill(student=torch.nn.Linear(3, 2), data=(inputs, targets), method="plain")
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_a_label_out_of_range(refused: Limbeck, tmp_path: Path) -> None:
    _write_mnist(tmp_path / "odd", labels=bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 12] * 4))
    line = refused("run", "base.yaml", "data={name: mnist, root: odd}")
    assert "sample 9: label 12 is out of range; expected 0 to 9" in line


# Places.


@pytest.mark.parametrize("command", ["run", "dry-run", "report"])
def test_no_permission_to_write(command: str, refused: Limbeck, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    if command == "report":
        _finished(tmp_path)
        line = refused("report", "done", "--output", "file/page.html")
    else:
        extra = ["--dry-run"] if command == "dry-run" else []
        line = refused("run", "base.yaml", "--output", "file/run", *extra)
    assert "cannot write file/" in line
    assert (
        "a file is in the way" if command == "report" else "a part of the path is a file"
    ) in line


def test_a_place_is_checked_before_a_teacher_is_trained(refused: Limbeck, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "teacher.yaml").write_text((tmp_path / "base.yaml").read_text())
    train = "teacher={train: teacher.yaml}"
    assert "file/run" in refused("run", "base.yaml", "method=kd", train, "--output", "file/run")
    assert not (tmp_path / "home").exists()


@contextlib.contextmanager
def _files_no_larger_than(size: int) -> Iterator[None]:
    """Let every write beyond ``size`` bytes fail, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(refused: Limbeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with _files_no_larger_than(6000):
        line = refused("run", "base.yaml", "--output", "full", touched="full")
    assert "cannot write full/" in line
    assert "the file-size limit is reached" in line
    assert json.loads((tmp_path / "full" / "summary.json").read_text())["status"] == "failed"
    left = [path.name for path in (tmp_path / "full").rglob("*.tmp")]
    assert not left
    assert not (tmp_path / "full" / "student").exists()
    with pytest.raises(SystemExit) as stop:  # with room again, it goes on
        main(["resume", "full", "--quiet"])
    assert stop.value.code == 0


# Checkpoints.


def _finished(tmp_path: Path) -> Path:
    with pytest.raises(SystemExit) as stop:
        main(["run", "base.yaml", "--output", "done", "--quiet"])
    assert stop.value.code == 0
    return tmp_path / "done"


def test_a_checkpoint_of_another_format(refused: Limbeck, tmp_path: Path) -> None:
    run = _finished(tmp_path)
    states = list(run.glob("checkpoints/step-*/state.json"))
    assert states
    for file in states:
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    line = refused("resume", "done", touched="done")
    assert "done/checkpoints/step-" in line
    assert "format 99" in line


def test_a_run_of_another_format(refused: Limbeck, tmp_path: Path) -> None:
    run = _finished(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "format": 99}))
    for command in ("resume", "evaluate", "report"):
        line = refused(command, "done")
        assert "done" in line
        assert "format 99" in line
