"""Every door from end to end: a recipe on the command line, interrupted, resumed, the same bits."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from door_worlds import hf_digits, scans, write_folders, write_shards

import limbeck as lb
from limbeck.api import _as_bundle
from limbeck.cli import main
from limbeck.engine import distiller
from limbeck.errors import DataError

datasets: Any = pytest.importorskip("datasets")
pytest.importorskip("webdataset")

DOORS = ("images", "webdataset", "saved", "parquet", "lists")
CNN = {"model": "cnn", "channels": [2, 4]}


@pytest.fixture
def limbeck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in an empty folder; give its exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return run


def door(name: str, folder: Path) -> dict[str, Any]:
    """Write the scans for a door; return the recipe's data, with paths relative to the folder."""
    if name == "images":
        write_folders(folder / "photos")
        return {"name": "images", "root": "photos", "mode": "L"}
    if name == "webdataset":
        write_shards(folder / "shards")
        return {"name": "webdataset", "path": "shards/train-{000000..000002}.tar", "mode": "L"}
    if name == "saved":
        datasets.DatasetDict(train=hf_digits()).save_to_disk(str(folder / "saved"))
        return {"name": "hf-dataset", "path": "saved", "mode": "L"}
    if name == "parquet":
        (folder / "files").mkdir()
        hf_digits().to_parquet(str(folder / "files" / "train-0.parquet"))
        return {"name": "hf-dataset", "path": "files", "mode": "L"}
    pixels, labels = scans()
    features = datasets.Features(
        {"scan": datasets.Array3D((1, 8, 8), "float32"), "label": datasets.Value("int64")}
    )
    rows = {"scan": (pixels[:, None] / 255).astype(np.float32), "label": labels.tolist()}
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(folder / "lists"))
    return {"name": "hf-dataset", "path": "lists"}


def write_recipe(folder: Path, data: dict[str, Any]) -> None:
    data = data | {"augment": [{"crop": {"padding": 1}}, "flip"]}
    training = {"epochs": 1, "batch_size": 16}
    teacher = {"data": data, "student": CNN, "method": "plain", "train": training}
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "data": data,
                "teacher": {"train": teacher},
                "student": CNN,
                "method": "kd",
                "train": training,
            }
        )
    )


def evidence(run: Path) -> dict[str, bytes]:
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    files = {
        "student": run / "student" / "model.safetensors",
        "metrics": run / "metrics.jsonl",
        "predictions": run / "predictions.safetensors",
        "tensors": last / "tensors.safetensors",
    }
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.mark.parametrize("name", DOORS)
def test_train_stop_resume_held_and_lazy(
    name: str,
    limbeck: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that decodes as it reads, stopped and resumed, equals an undisturbed one in memory.

    The teacher, which is found by the content of the data, is trained once for both.
    """
    write_recipe(tmp_path, door(name, tmp_path))
    capsys.readouterr()  # what writing the scans said
    code, out, err = limbeck("run", "recipe.yaml", "-o", "whole")
    assert code == 0, err
    assert err == ""
    if name != "lists":
        assert "of pixels in memory" in out
    lazily = [] if name == "lists" else ["data.memory=false"]
    lazily += ["data.num_workers=1"] if name == "webdataset" else []
    steps = [0]
    step = distiller.Distiller._train_step

    def interrupted(self: Any, *arguments: Any) -> None:
        step(self, *arguments)
        steps[0] += 1
        if steps[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(distiller.Distiller, "_train_step", interrupted)
        code, _, err = limbeck("run", "recipe.yaml", *lazily, "-o", "parts", "-q")
    assert code == 130, err
    assert err == "interrupted; go on with: limbeck resume parts\n"
    assert limbeck("resume", "parts", "-q")[0] == 0
    whole, parts = evidence(tmp_path / "whole"), evidence(tmp_path / "parts")
    assert [key for key in whole if whole[key] != parts[key]] == []
    assert len([p for p in (tmp_path / "home" / "teachers").iterdir() if p.is_dir()]) == 1
    assert limbeck("evaluate", "parts")[0] == 0
    assert json.loads((tmp_path / "parts" / "summary.json").read_text())["status"] == "done"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{name: webdataset, path: 'none-{0..1}.tar'}", "no shard "),
        ("{name: hf-dataset, path: none}", "no file or folder "),
        ("{name: hf-dataset, path: none, colums: x}", "unknown key 'colums': did you mean 'colu"),
        ("{name: webdataset, paths: x}", "unknown key 'paths': did you mean 'path'"),
        ("{name: webdatasets, path: x}", "unknown data source 'webdatasets': did you mean 'webd"),
        ("{name: images, root: none, memory: maybe}", "data.memory: expected true or false"),
        ("{name: hf-dataset}", "expected either data.path= (on disk) or data.id= (on the hub)"),
    ],
)
def test_mistakes_on_the_command_line(
    data: str, message: str, limbeck: Any, tmp_path: Path
) -> None:
    write_recipe(tmp_path, {"name": "digits"})
    code, _, err = limbeck("run", "recipe.yaml", f"data={data}", "-o", "out")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# In Python.


def run(data: Any, folder: Path, **options: Any) -> Any:
    return lb.distill(
        student=options.pop("student", "cnn"),
        data=data,
        method="plain",
        epochs=1,
        batch_size=16,
        output=folder,
        quiet=True,
        **options,
    )


def test_distill_takes_data_sets_of_the_hub(tmp_path: Path) -> None:
    rows = hf_digits()
    splits = rows.train_test_split(test_size=20, seed=0)
    loader = torch.utils.data.DataLoader(rows, batch_size=16)
    for number, data in enumerate(
        (rows, splits, (splits["train"], splits["test"]), rows.with_format("torch"), loader)
    ):
        done = run(data, tmp_path / str(number))
        assert 0 <= done.metrics["accuracy"] <= 1


def test_distill_sees_the_columns_of_a_format(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict(
        {"a": [0.1, 0.9] * 20, "b": [1.0, 2.0] * 20, "name": ["x"] * 40, "label": [0, 1] * 20}
    )
    with pytest.raises(DataError, match="column 'name' holds text"):
        run(rows, tmp_path / "none", student="mlp")
    done = run(
        rows.with_format("torch", columns=["a", "b", "label"]), tmp_path / "a", student="mlp"
    )
    assert done.student is not None


def test_a_transform_decides_what_an_item_is(tmp_path: Path) -> None:
    def transform(rows: dict[str, Any]) -> dict[str, Any]:
        pixels = [torch.tensor(np.array(image)).flatten() / 255 for image in rows["image"]]
        return {"x": pixels, "label": rows["label"]}

    class OfName(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.line(x)

    rows = hf_digits().with_transform(transform)
    assert run(rows, tmp_path / "a", student=OfName(), num_classes=10).student is not None
    splits = datasets.DatasetDict(train=rows, test=rows.select(range(30)))
    sizes = [len(view) for view in _as_bundle(splits, None, 10, ()).splits.values()]
    assert sizes == [90, 10, 30]
    assert run(splits, tmp_path / "b", student=OfName(), num_classes=10).student is not None


def test_what_distill_refuses(tmp_path: Path) -> None:
    rows = hf_digits()
    with pytest.raises(DataError, match="load it without streaming=True"):
        run(rows.to_iterable_dataset(), tmp_path / "a")
    with pytest.raises(DataError, match="expected one DatasetDict, or data sets"):
        run((datasets.DatasetDict(train=rows), rows), tmp_path / "a")
    labels = [*rows["label"][:5], -1, *rows["label"][6:]]
    with pytest.raises(DataError, match="train, sample 5: label -1 is negative"):
        run(hf_digits(label=labels), tmp_path / "a")


def test_paths_of_shards_start_from_the_recipe(tmp_path: Path) -> None:
    from limbeck.recipe import load_recipe

    keys = ("path", "validation_path", "test_path", "unlabelled_path")
    shards = {key: f"shards/{key}-{{0..3}}.tar" for key in keys}
    write_recipe(tmp_path, {"name": "webdataset", **shards})
    options = load_recipe(tmp_path / "recipe.yaml").data.arguments
    assert {key: options[key] for key in keys} == {k: str(tmp_path / v) for k, v in shards.items()}
