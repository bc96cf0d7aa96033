"""The model card, and its way to the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import binomtest

import limbeck as lb
from limbeck.errors import ExportError
from limbeck.export import hub_api, model_card, push_folder
from limbeck.export.hub import check_login


def test_the_card_says_what_the_run_did(run_folder: Path, exports: Callable[[str], Any]) -> None:
    card = (exports("onnx").exported.folder / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["library_name"] == "onnx"
    assert said["license"] == "unknown"
    assert said["pipeline_tag"] == "image-classification"
    run = lb.load_run(run_folder)
    assert f"| accuracy | {run.metrics['accuracy']:.4g} |" in text
    assert f"{run.summary['student']['parameters']:,} parameters" in text
    assert "`plain(weight=1.0)`" in text
    assert "seed: 0 (one run)" in text
    assert "train 1,069; validation 189; test 539" in text
    right = round(run.metrics["accuracy"] * 539)
    interval = binomtest(right, 539).proportion_ci(0.95, method="wilson")
    assert f"{interval.low:.4f} to {interval.high:.4f} (95 %, Wilson)" in text
    assert "mean [0.3053], std [0.3761]" in text
    assert "Classes in order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in text


def test_the_card_says_what_the_teachers_were() -> None:
    big = {"what": "CNN, 94,186 parameters", "metrics": {"test": {"accuracy": 0.98765, "nll": 1}}}
    assert model_card._teachers({"teachers": {"big": big, "black": {"what": "a forest"}}}) == (
        "big (CNN, 94,186 parameters, test accuracy 0.9877); black (a forest)"
    )
    assert model_card._teachers({"teachers": {}}) == "none that looks at inputs"


@pytest.mark.parametrize("to", ["safetensors", "torch-export", "onnx"])
def test_the_cards_code_runs_as_it_stands(
    to: str, exports: Callable[[str], Any], elsewhere: Callable[[Path, str], str]
) -> None:
    folder = exports(to).exported.folder
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    make = "import torch\ninputs = torch.zeros(2, 1, 8, 8)\n"
    if to == "onnx":
        make = "import numpy\ninputs = numpy.zeros((2, 1, 8, 8), 'float32')\n"
    assert elsewhere(folder, make + code + "\nprint(tuple(logits.shape))") == "(2, 10)"
    assert len([line for line in code.splitlines() if line]) <= 3


class FakeApi:
    """Remembers what it was asked to do."""

    def __init__(self, refusal: str = "") -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.refusal = refusal

    def create_repo(self, repository: str, **options: Any) -> str:
        self.asked.append((f"create {repository}", options))
        return f"https://hub.example/{repository}"

    def upload_folder(self, **options: Any) -> None:
        if self.refusal:
            raise PermissionError(self.refusal)
        options["names"] = sorted(path.name for path in Path(options["folder_path"]).iterdir())
        self.asked.append(("upload", options))


def test_a_run_is_pushed(run_folder: Path, tmp_path: Path) -> None:
    api = FakeApi()
    address = lb.load_run(run_folder).push_to_hub(
        "me/small", private=True, api=api, output=tmp_path / "out", samples=20, quiet=True
    )
    assert address == "https://hub.example/me/small"
    (created, options), (_, upload) = api.asked
    assert created == "create me/small"
    assert options == {"private": True, "exist_ok": True, "repo_type": "model"}
    assert upload["repo_id"] == "me/small"
    assert {"README.md", "model.py", "model.safetensors"} <= set(upload["names"])


def test_the_hub_refuses(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"me/x was refused: no right; the export is in "):
        push_folder(tmp_path, "me/x", FakeApi("no right"))


def test_not_logged_in() -> None:
    class Nobody:
        def whoami(self) -> None:
            raise OSError("Token is required")

    with pytest.raises(ExportError, match=r"not logged in \(Token is required\); run `hf auth"):
        check_login(Nobody())


def test_a_name_without_owner() -> None:
    with pytest.raises(ExportError, match="push_to_hub: expected OWNER/NAME, got 'small'"):
        hub_api("small")


def test_no_hub_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ExportError, match="pip install huggingface_hub"):
        hub_api("me/small")
