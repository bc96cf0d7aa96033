"""Label noise, long tails and folds reach those sources too that cut their parts by themselves."""

import csv

import pytest
import torch

from limbeck.data import load_data


def rows():
    return [[k % 7 + k % 3, (k * 37) % 11, ("no", "yes", "maybe")[k % 3]] for k in range(300)]


@pytest.fixture
def options_of(tmp_path, request):
    """The options of a source of 300 rows of three classes."""
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([["a", "b", "label"], *rows()])
    if request.param == "table":
        return {"name": "table", "path": str(file), "target": "label"}
    if request.param == "text":
        pytest.importorskip("transformers")
        words = [[f"word{a} and word{b}", label] for a, b, label in rows()]
        with file.open("w", newline="") as opened:
            csv.writer(opened).writerows([["text", "label"], *words])
        return {"name": "text", "path": str(file), "vocab_size": 60}
    if request.param == "numbers":
        datasets = pytest.importorskip("datasets")
        columns = dict(zip("ab", list(zip(*rows(), strict=True)), strict=False))
        names = ["no", "yes", "maybe"]
        numbers = [names.index(row[2]) for row in rows()]
        kinds = datasets.Features(
            {
                "a": datasets.Value("int64"),
                "b": datasets.Value("int64"),
                "label": datasets.ClassLabel(names=names),
            }
        )
        columns = {key: list(values) for key, values in columns.items()} | {"label": numbers}
        datasets.Dataset.from_dict(columns, kinds).save_to_disk(str(tmp_path / "saved"))
        return {"name": "hf-dataset", "path": str(tmp_path / "saved")}
    return {"name": "digits"}


@pytest.mark.parametrize("options_of", ["table", "text", "numbers", "digits"], indirect=True)
def test_every_source_takes_them(options_of):
    clean = load_data(**options_of)
    size = len(clean.splits["train"])
    noisy = load_data(**options_of, label_noise=0.25)
    assert len(noisy.relabelled) == round(0.25 * size)
    assert f"{round(0.25 * size):,} of {size:,} training labels replaced" in noisy.describe()
    assert torch.equal(noisy.splits["test"].targets, clean.splits["test"].targets)
    tail = load_data(**options_of, imbalance=4)
    counts = torch.bincount(tail.splits["train"].targets)
    assert counts[0] / counts[-1] == pytest.approx(4, rel=0.1)
    assert "long tail 4:1" in tail.describe()
    fold = load_data(**options_of, leave_out={"fold": 0, "of": 4})
    assert len(fold.splits["train"]) == pytest.approx(0.75 * size, abs=1)
    assert "without fold 0 of 4" in fold.describe()
