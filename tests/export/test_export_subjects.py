"""Students of every kind leave: ensembles, grown ones, the user's own, timm's, transformers'."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from digit_runs import train
from torch import Tensor, nn
from torch.utils.data import Dataset

import limbeck as lb
from limbeck.errors import ExportError
from limbeck.export import export_run
from limbeck.export.standalone import standalone_source
from limbeck.models import build_model, model_spec, save_model

SILENT: dict[str, Any] = {"say": lambda line: None, "samples": 40}
ALL = ("safetensors", "torch-export", "onnx", "int8")


class Own(nn.Module):
    """A student of the user's, in the loose style of one: ``len(x)`` in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(x).relu().reshape(len(x), 12))}


class Fixed(Own):
    """One that only ever computes batches of the size it sees first."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.stack([self.head(self.body(row).relu()) for row in x])}


def samples(count: int = 96) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(dim=1)


def distilled(student: Any, folder: Path, **more: Any) -> lb.Run:
    more = {"data": samples(), "method": "plain", **more}
    return lb.distill(student=student, epochs=1, output=folder, quiet=True, **more)


@pytest.mark.parametrize("to", ALL)
def test_a_module_of_the_users(to: str, tmp_path: Path) -> None:
    run = distilled(Own(), tmp_path / "run")
    exported = run.export(to, tmp_path / "out", quiet=True)
    assert exported.facts["check"]["agreement"] > 0.9
    assert run.student.training is False
    assert all(p.requires_grad for p in run.student.parameters())
    assert not (exported.folder / "model.py").exists()
    if to == "safetensors":
        card = (exported.folder / "README.md").read_text()
        assert "build your " in card
        assert ".Own as you did for training" in card
        from safetensors.torch import load_model

        again = Own()
        load_model(again, exported.file)
        assert torch.equal(again.head.weight, run.student.head.weight)


def test_a_run_from_python_is_loaded_again_and_exported(tmp_path: Path) -> None:
    first = distilled(Own(), tmp_path / "run")
    run = lb.load_run(tmp_path / "run", student=Own(), data=samples())
    assert torch.equal(run.student.head.weight, first.student.head.weight)
    assert run.export("safetensors", quiet=True).folder == tmp_path / "run/export/safetensors"
    with pytest.raises(lb.LimbeckError, match=r"pass data=\.\.\. to limbeck\.load_run"):
        lb.load_run(tmp_path / "run", student=Own()).export("onnx")


def test_a_batch_size_that_is_fixed_is_said(tmp_path: Path) -> None:
    run = distilled(Fixed(), tmp_path / "run")
    with pytest.raises(ExportError, match=r"fixes the batch size.*write x\.shape\[0\]"):
        run.export("torch-export", tmp_path / "out", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


class Untraceable(Own):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        said = self.body(x).relu()
        return {"logits": self.head(said if said.sum() > 0 else said + 1)}


def test_a_forward_that_cannot_be_followed_is_said(tmp_path: Path) -> None:
    run = distilled(Untraceable(), tmp_path / "run")
    with pytest.raises(ExportError, match=r"cannot follow the student's forward.*--to safetensors"):
        run.export("onnx", tmp_path / "out", quiet=True)
    run.export("safetensors", tmp_path / "out", quiet=True)


def test_a_forward_of_the_users(tmp_path: Path) -> None:
    def forward(model: nn.Module, batch: Any) -> Any:
        return model(batch.inputs)["logits"]

    run = distilled(Own(), tmp_path / "run", forward=forward)
    assert run.export("torch-export", quiet=True).facts["check"]["max_difference"] < 1e-6


@pytest.mark.parametrize("to", ["safetensors", "onnx"])
def test_an_ensemble_leaves_as_one(to: str, tmp_path: Path, elsewhere: Any) -> None:
    students = [{"model": "cnn", "channels": [4]}, {"model": "resnet8"}]
    cohort = {"models": students, "deploy": "ensemble"}
    folder = train(tmp_path / "run", cohort, method="dml")
    exported = export_run(folder, to, output=tmp_path / "out", **SILENT)
    assert exported.facts["check"]["relative_difference"] <= 1e-5
    if to == "safetensors":  # the two classes have a function `_stage` each
        code = "from model import load_student\nprint(type(load_student()).__name__)"
        assert elsewhere(exported.folder, code) == "CohortMean"


class Taller(nn.Module):
    """A student with a layer more than it was given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.extra = inner, nn.Linear(10, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        said: Tensor = self.extra(self.inner(inputs))
        return said


def test_a_grown_student_leaves_from_python(tmp_path: Path) -> None:
    """What a method adds and deploys has no name; its computation is in the graph."""
    folder = train(tmp_path / "run", "mlp")
    taller = Taller(build_model("mlp", num_classes=10, input_shape=(1, 8, 8)))
    save_model(taller, folder / "student", None)  # as the engine does where a card says "grown"
    with pytest.raises(ExportError, match=r"has no name.*in Python: run = limbeck\.load_run"):
        export_run(folder, "torch-export", **SILENT)
    run = lb.load_run(folder, student=taller)
    exported = run.export("torch-export", quiet=True)
    assert exported.facts["check"]["relative_difference"] <= 1e-5
    model = torch.export.load(exported.file).module()
    assert "extra.weight" in "".join(name for name, _ in model.named_parameters())


def test_timm(tmp_path: Path, elsewhere: Any) -> None:
    pytest.importorskip("timm")
    folder = train(tmp_path / "run", {"model": "timm/test_resnet.r160_in1k", "pretrained": False})
    exported = export_run(folder, "safetensors", output=tmp_path / "out", **SILENT)
    assert "timm.create_model('test_resnet.r160_in1k'" in (exported.folder / "model.py").read_text()
    code = "from model import load_student\nprint(type(load_student()).__module__)"
    assert elsewhere(exported.folder, code).startswith("timm")


def test_weights_are_not_fetched_again() -> None:
    spec = model_spec("timm/x", num_classes=2, input_shape=[3, 8, 8], pretrained=True)
    assert "pretrained=False" in str(standalone_source(spec))


class Sentences(Dataset[dict[str, Tensor]]):
    """Tokens by name, as data sets of transformers give them."""

    def __init__(self, count: int = 60) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(5, 50, (count, 12), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self.tokens[index]
        label = (tokens[0] > 27).long()
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": label}


def small_bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=2,
    )
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    """A small BERT, trained a little."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = tmp_path_factory.mktemp("text") / "run"
        return distilled(small_bert(), folder, data=Sentences())


@pytest.mark.parametrize(
    "to",
    [to if to == "onnx" else pytest.param(to, marks=pytest.mark.slow) for to in ALL],
)
def test_text(to: str, text_run: lb.Run, tmp_path: Path) -> None:
    exported = text_run.export(to, tmp_path / "out", quiet=True)
    assert exported.facts["check"]["agreement"] > 0.9
    if to == "safetensors":
        import transformers

        kind = transformers.BertForSequenceClassification
        again = kind.from_pretrained(exported.folder)
        assert torch.equal(again.classifier.weight, text_run.student.classifier.weight)
        assert "from_pretrained" in (exported.folder / "README.md").read_text()
    if to == "int8":
        assert exported.facts["notes"]["quantisation"].startswith("dynamic")
    if to == "onnx":
        import onnx

        names = [value.name for value in onnx.load(exported.file).graph.input]
        assert names == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("name", ["cnn", "mlp", "vit", "resnet14", "resnet8x4"])
def test_code_of_every_network_stands_alone(
    name: str, tmp_path: Path, elsewhere: Callable[[Path, str], str]
) -> None:
    shape = [3, 8, 8]
    source = standalone_source(model_spec(name, num_classes=4, input_shape=shape))
    assert source is not None
    assert "limbeck." not in source.split('"""')[2].split("class ")[0]
    (tmp_path / "model.py").write_text(source)
    model = build_model(name, num_classes=4, input_shape=shape).eval()
    save_model(model, tmp_path)
    code = (
        "import torch\nfrom model import load_student\nmodel = load_student()\n"
        "torch.manual_seed(3)\nprint(model(torch.randn(2, 3, 8, 8)).double().sum().item())"
    )
    torch.manual_seed(3)
    with torch.no_grad():
        wanted = model(torch.randn(2, 3, 8, 8)).double().sum().item()
    assert float(elsewhere(tmp_path, code)) == pytest.approx(wanted, rel=1e-5)


def test_the_code_is_the_same_each_time() -> None:
    spec = model_spec("vit", num_classes=4, input_shape=[3, 8, 8])
    assert standalone_source(spec) == standalone_source(spec)


def test_networks_of_others_are_not_copied() -> None:
    spec = model_spec("py:some.where:build", num_classes=4, input_shape=[3])
    assert standalone_source(spec) is None


def test_a_tables_columns_leave_with_the_student(tmp_path: Path) -> None:
    import csv
    import json

    with (tmp_path / "people.csv").open("w", newline="") as file:
        rows = ([20 + k, ("Graz", "Wien")[k % 2], ("no", "yes")[k % 3 == 0]] for k in range(60))
        csv.writer(file).writerows([["age", "city", "buys"], *rows])
    data = lb.load_data("table", path=str(tmp_path / "people.csv"), target="buys")
    run = distilled("mlp", tmp_path / "run", data=data)
    exported = run.export("safetensors", tmp_path / "out", quiet=True)
    contract = json.loads((exported.folder / "preprocessing.json").read_text())
    assert contract["columns"] == json.loads(json.dumps(data.encoding))
    assert [one["column"] for one in contract["columns"]] == ["age", "city"]
    assert "`columns` in preprocessing.json" in (exported.folder / "README.md").read_text()
