"""Hugging Face data sets: saved, in files, by id, and handed over in Python."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from door_worlds import COUNT, hf_digits, png, scans

from limbeck.data import IGNORE, encoded, from_hf, load_data
from limbeck.data.encoded import EncodedImages
from limbeck.data.samples import in_chunks
from limbeck.errors import DataError, RecipeError

datasets: Any = pytest.importorskip("datasets")
pytest.importorskip("PIL")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What datasets prepares of files goes to the test's folder; nothing is asked of a network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def check_digits(bundle: Any, names: bool = True) -> None:
    """Sample by sample, what comes out is what was put in."""
    pixels, labels = scans()
    inputs, targets = bundle.splits["train"].samples.fetch(torch.arange(COUNT))
    assert inputs.dtype == torch.uint8
    assert torch.equal(inputs[:, 0], torch.from_numpy(pixels))
    assert targets.tolist() == labels.tolist()
    assert bundle.class_names == (tuple(f"digit {k}" for k in range(10)) if names else ())
    assert bundle.input_shape == (1, 8, 8)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    hf_digits().save_to_disk(str(tmp_path / "saved"))
    bundle = load_data("hf-dataset", path=str(tmp_path / "saved"), mode="L")
    check_digits(bundle)
    said = bundle.describe()
    assert said.startswith("saved: classification, 10 classes, input 1x8x8; train 72; validation 8")
    assert "6.25 KiB of pixels in memory; validation and test cut from train" in said


def test_splits_are_recognised(tmp_path: Path) -> None:
    rows = hf_digits()
    splits = datasets.DatasetDict(train=rows, dev=rows.select(range(9)), extra=rows)
    splits.save_to_disk(str(tmp_path / "saved"))
    path = str(tmp_path / "saved")
    bundle = load_data("hf-dataset", path=path, mode="L", test=10)
    assert [len(view) for view in bundle.splits.values()] == [90, 9, 10]
    assert "splits not used: extra" in bundle.describe()
    assert "test cut from train" in bundle.describe()
    named = load_data("hf-dataset", path=path, mode="L", test_split="extra", validation=5)
    assert [len(view) for view in named.splits.values()] == [100, 5, 100]
    more = load_data("hf-dataset", path=path, mode="L", test=10, unlabelled_split="extra")
    assert "train 190 (90 labelled + 100 unlabelled)" in more.describe()
    with pytest.raises(DataError, match="unknown split 'extr': did you mean 'extra'"):
        load_data("hf-dataset", path=path, train_split="extr")


def test_parquet_and_arrow_files(tmp_path: Path) -> None:
    rows = hf_digits()
    folder = tmp_path / "files"
    folder.mkdir()
    rows.to_parquet(str(folder / "train-00000.parquet"))
    rows.select(range(12)).to_parquet(str(folder / "test-00000.parquet"))
    bundle = load_data("hf-dataset", path=str(folder), mode="L")
    check_digits(bundle)
    assert len(bundle.splits["test"]) == 12
    check_digits(load_data("hf-dataset", path=str(folder / "train-*.parquet"), mode="L"))
    rows.save_to_disk(str(tmp_path / "saved"))
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    check_digits(load_data("hf-dataset", path=str(arrow), mode="L"))


def test_parquet_of_others_with_bytes_and_paths(tmp_path: Path) -> None:
    """The image layout of the hub, written by pyarrow with no word on what it means."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pixels, labels = scans()
    images = [{"bytes": png(p), "path": f"{row}.png"} for row, p in enumerate(pixels)]
    raw = [png(p) for p in pixels]
    table = pa.table({"image": images, "raw": raw, "label": labels.tolist()})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    check_digits(load_data("hf-dataset", path=path, mode="L"), names=False)
    check_digits(load_data("hf-dataset", path=path, mode="L", image="raw"), names=False)


def test_images_that_are_files(tmp_path: Path) -> None:
    pixels, labels = scans()
    for row, image in enumerate(pixels):
        (tmp_path / f"{row}.png").write_bytes(png(image))
    paths = [str(tmp_path / f"{row}.png") for row in range(COUNT)]
    rows = datasets.Dataset.from_dict({"file": paths, "label": labels.tolist()})
    check_digits(from_hf(rows, image="file", mode="L"), names=False)
    check_digits(from_hf(rows.cast_column("file", datasets.Image()), mode="L"), names=False)
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match=r"train, sample 3 \(.*3\.png\) cannot be read: No such"):
        from_hf(rows, image="file", mode="L")


def test_read_lazily_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    held = from_hf(hf_digits(), mode="L")
    lazy = from_hf(hf_digits(), mode="L", memory=False, num_workers=1)
    check_digits(lazy)
    assert isinstance(lazy.splits["train"].samples, EncodedImages)
    assert held.fingerprint() == lazy.fingerprint()
    read = torch.cat([x for x, _ in in_chunks(lazy.splits["train"].samples, 30)])
    assert torch.equal(read, held.splits["train"].samples.inputs)
    monkeypatch.setattr(encoded, "HELD", 100)
    assert "decoded as they are read" in from_hf(hf_digits(), mode="L").describe()


def test_shuffled_rows_keep_their_labels() -> None:
    pixels, labels = scans()
    order = np.random.default_rng(0).permutation(COUNT)
    bundle = from_hf(hf_digits().select(order.tolist()), mode="L")
    inputs, targets = bundle.splits["train"].samples.fetch(torch.arange(COUNT))
    assert torch.equal(inputs[:, 0], torch.from_numpy(pixels[order]))
    assert targets.tolist() == labels[order].tolist()


def table() -> Any:
    generator = np.random.default_rng(0)
    return datasets.Dataset.from_dict(
        {
            "age": generator.normal(40, 9, 60).tolist(),
            "children": generator.integers(0, 4, 60).tolist(),
            "flat": [3] * 60,
            "sells": [bool(k % 2) for k in range(60)],
        }
    )


def test_columns_of_numbers_are_standardised_by_train() -> None:
    rows = table()
    bundle = from_hf(rows, label="sells")
    assert bundle.feature_names == ("age", "children", "flat")
    train = bundle.record.train.numpy()
    for column, name in enumerate(("age", "children")):
        values = np.array(rows[name][:])
        expected = (values - values[train].mean()) / values[train].std()
        found = bundle.splits["train"].samples.inputs[:, column].numpy()
        assert found == pytest.approx(expected, abs=1e-5)
    assert bundle.splits["train"].samples.inputs[:, 2].abs().max() == 0
    assert bundle.splits["train"].samples.targets.tolist() == [k % 2 for k in range(60)]
    assert "1.17 KiB of numbers in memory; columns standardised by the train part" in (
        bundle.describe()
    )
    assert "columns standardised by the train part; validation and test cut" in bundle.describe()
    other = from_hf({"train": rows, "test": rows.select(range(7))}, label="sells", columns=["age"])
    assert other.feature_names == ("age",)
    assert len(other.splits["test"]) == 7
    assert "columns not used: children, flat" in other.describe()


def test_regression_by_a_real_label() -> None:
    bundle = from_hf(table(), label="age")
    assert bundle.task == "regression"
    assert bundle.splits["train"].samples.targets[:, 0].numpy() == pytest.approx(
        np.array(table()["age"][:]), rel=1e-6
    )
    assert from_hf(table(), label="children", task="regression").task == "regression"
    with pytest.raises(DataError, match=r"sample 0: label .* is not a whole number \(data\.task="):
        from_hf(table(), label="age", task="classification")


def test_lists_become_tensors() -> None:
    pixels, labels = scans()
    features = datasets.Features(
        {"scan": datasets.Array2D((8, 8), "uint8"), "label": datasets.Value("int64")}
    )
    rows = datasets.Dataset.from_dict({"scan": pixels, "label": labels.tolist()}, features)
    inputs, targets = from_hf(rows).splits["train"].samples.fetch(torch.arange(COUNT))
    assert inputs.dtype == torch.uint8
    assert torch.equal(inputs, torch.from_numpy(pixels))
    assert targets.tolist() == labels.tolist()
    flat = datasets.Dataset.from_dict({"x": pixels.reshape(-1, 64) / 255, "label": labels.tolist()})
    bundle = from_hf(flat)
    assert bundle.splits["train"].samples.inputs.dtype == torch.float32
    assert bundle.input_shape == (64,)


def test_several_lists_are_inputs_by_name() -> None:
    rows = datasets.Dataset.from_dict(
        {
            "input_ids": [[k, 1, 2] for k in range(30)],
            "attention_mask": [[1, 1, 0]] * 30,
            "labels": [k % 2 for k in range(30)],
            "note": ["text"] * 30,
        }
    ).with_format("torch", columns=["input_ids", "attention_mask", "labels"])
    bundle = from_hf(rows)
    inputs, targets = bundle.splits["train"].samples.fetch(torch.tensor([4, 7]))
    assert inputs["input_ids"].tolist() == [[4, 1, 2], [7, 1, 2]]
    assert inputs["attention_mask"].dtype == torch.int64
    assert targets.tolist() == [0, 1]


def test_several_classes_a_sample() -> None:
    names = ["a", "b", "c"]
    features = datasets.Features(
        {"x": datasets.Value("float32"), "label": [datasets.ClassLabel(names=names)]}
    )
    labels = [[0], [1, 2], []] * 10
    rows = datasets.Dataset.from_dict({"x": [0.5, 1, 2] * 10, "label": labels}, features)
    bundle = from_hf(rows)
    assert (bundle.task, bundle.class_names) == ("multilabel", ("a", "b", "c"))
    hot = bundle.splits["train"].samples.targets[:3].tolist()
    assert hot == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    plain = datasets.Dataset.from_dict({"x": [0.5, 1] * 15, "label": [[1, 0], [1, 1]] * 15})
    assert from_hf(plain).task == "multilabel"
    real = datasets.Dataset.from_dict({"x": [0.5, 1] * 15, "label": [[1.5, 0], [1, 1]] * 15})
    assert from_hf(real).task == "regression"


def test_text_labels_and_missing_ones() -> None:
    labels = ["cat", "dog", None] * 20
    rows = datasets.Dataset.from_dict({"x": [[0.1, 0.2]] * 60, "label": labels})
    bundle = from_hf(rows)
    assert bundle.class_names == ("cat", "dog")
    assert bundle.splits["train"].samples.targets[:3].tolist() == [0, 1, IGNORE]
    view = bundle.splits["train"]
    expected = [{"cat": 0, "dog": 1, None: IGNORE}[labels[int(k)]] for k in view.indices]
    assert view.targets.tolist() == expected
    assert "20 unlabelled" in bundle.describe()


@pytest.mark.parametrize("hidden", [-1, None])
def test_a_split_that_hides_its_labels_is_not_used(hidden: int | None) -> None:
    features = datasets.Features(
        {
            "x": datasets.List(datasets.Value("float32")),
            "label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    rows = [
        datasets.Dataset.from_dict({"x": [[0.5]] * 40, "label": labels}, features)
        for labels in ([0, 1] * 20, [hidden] * 40)
    ]
    bundle = from_hf({"train": rows[0], "test": rows[1]})
    assert "the test split hides its labels and is not used" in bundle.describe()
    assert len(bundle.splits["test"]) == 8
    more = from_hf({"train": rows[0], "test": rows[1]}, unlabelled_split="test")
    assert "(29 labelled + 40 unlabelled)" in more.describe()


def numbers(**columns: Any) -> Any:
    return datasets.Dataset.from_dict({"x": [[0.1, 0.2]] * 12, "label": [0, 1, 2] * 4} | columns)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: numbers(label=[0, -1] * 6), {}, r"train, sample 1: label -1 is negative"),
        (
            lambda: numbers(x=["text"] * 12),
            {},
            r"column 'x' holds text: data: \{name: text\} reads",
        ),
        (lambda: numbers(), {"columns": ["y"]}, r"unknown column 'y'.* \(choices: label, x\)"),
        (lambda: numbers(), {"label": "labl"}, "unknown column 'labl': did you mean 'label'"),
        (lambda: numbers(), {"image": "imag"}, "unknown column 'imag'"),
        (lambda: numbers(), {"image": "x"}, "column 'x' holds no images: it is of type List"),
        (lambda: numbers(), {"columns": "label"}, "columns: 'label' is the label"),
        (
            lambda: numbers(),
            {"image": "x", "columns": "x"},
            r"either data\.image= or data\.columns=, got both",
        ),
        (
            lambda: numbers().rename_column("label", "class"),
            {},
            r"one label column, found none: call it 'label', or say data\.label= \(columns: x, cla",
        ),
        (
            lambda: numbers(x=[[0.1, 0.2]] * 11 + [[1.0]]),
            {},
            "train, sample 11: column 'x' has lists of different lengths",
        ),
        (
            lambda: numbers(x=[0.5] * 5 + [None] + [0.5] * 6),
            {},
            "train, sample 5: column 'x' has no value",
        ),
        (
            lambda: numbers(x=[[0.5]] * 5 + [None] + [[0.5]] * 6),
            {},
            "train, sample 5: column 'x' has no value",
        ),
        (lambda: numbers(x=[[float("inf")]] * 12), {}, "the input contains inf"),
        (lambda: numbers().remove_columns("x"), {}, "no column beside the label 'label'"),
        (lambda: numbers(label=[[0], [0, 1]] * 6), {}, "sample 1: column 'label' has 2 entries"),
        (lambda: numbers(x=[b"a"] * 12), {}, "column 'x' is of type Value: expected images, num"),
        (lambda: numbers(), {"task": "clas"}, "unknown task 'clas': did you mean 'classification'"),
        (lambda: numbers().select([]), {}, "the train split is empty"),
        (lambda: numbers().to_iterable_dataset(), {}, "load it without streaming=True"),
        (
            lambda: {"train": numbers(), "test": numbers().rename_column("x", "z")},
            {},
            "the test split lacks the column 'x' that train has",
        ),
        (
            lambda: {"one": numbers(), "two": numbers()},
            {},
            r"no split named train \(splits: one, two\): say which \(data\.train_split=\)",
        ),
        (
            lambda: {
                "train": numbers(label=["a", "b", "b"] * 4),
                "test": numbers(label=["d"] * 12),
            },
            {},
            "test, sample 0: class 'd' does not occur in train",
        ),
    ],
)
def test_misuse_is_one_clear_line(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, RecipeError), match=message) as caught:
        from_hf(make(), **options)
    assert "\n" not in str(caught.value)


def test_faulty_images_are_named() -> None:
    good = {"bytes": png(scans()[0][0]), "path": None}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

    def made(other: Any) -> Any:
        rows = {"image": [good, good, other, good], "label": [0, 1, 0, 1]}
        return datasets.Dataset.from_dict(rows, features)

    for other, message in (
        ({"bytes": b"no", "path": "cat.png"}, r"train, sample 2 \(cat\.png\) cannot be read as an"),
        (None, "train, sample 2: column 'image' has no image"),
        (
            {"bytes": png(scans()[0][0][:4]), "path": None},
            r"sample 2: 4 x 8 pixels where the first",
        ),
    ):
        with pytest.raises(DataError, match=message):
            from_hf(made(other), mode="L")
    two = made(good).add_column("more", [1] * 4)
    both = datasets.concatenate_datasets(
        [two, made(good).select_columns("image").rename_column("image", "back")], axis=1
    )
    with pytest.raises(
        DataError, match=r"several columns hold images \(image, back\): say data\.im"
    ):
        from_hf(both, mode="L")


def test_places_with_nothing_to_read(tmp_path: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises((DataError, RecipeError), match=message) as caught:
            load_data("hf-dataset", **options)
        assert "\n" not in str(caught.value)

    (tmp_path / "saved").mkdir()
    refused(r"no file or folder .*savd \(did you mean 'saved'\?\)", path=str(tmp_path / "savd"))
    refused(
        r"saved holds no data set: expected what save_to_disk wrote", path=str(tmp_path / "saved")
    )
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    refused(r"expected \.parquet or \.arrow files, got a\.csv", path=str(tmp_path / "a.csv"))
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    refused(r"a\.parquet cannot be read as a data set: ", path=str(tmp_path / "a.parquet"))
    hf_digits().save_to_disk(str(tmp_path / "full"))
    next((tmp_path / "full").glob("*.arrow")).write_bytes(b"no arrow")
    refused(r"full cannot be read as a data set: ", path=str(tmp_path / "full"))
    refused(r"expected either data\.path= \(on disk\) or data\.id=")
    refused(r"expected either data\.path= \(on disk\) or data\.id=", path="a", id="b")
    refused(r"config: belongs to data\.id=", path=str(tmp_path / "full"), config="plain")
    refused(r"'no/such' cannot be had from the hub, nor from the cache of a download", id="no/such")


def test_from_the_hub_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is played by a function; what is asked of it is held."""
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return datasets.DatasetDict(train=hf_digits())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    bundle = load_data("hf-dataset", id="some/digits", config="plain", revision="v1", mode="L")
    check_digits(bundle)
    assert asked == [(("some/digits", "plain"), {"revision": "v1"})]
    assert bundle.name == "some/digits"


def test_the_tries_to_reach_the_hub_are_not_told_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = logging.getLogger("huggingface_hub")
    level = client.level

    def load_dataset(*_: Any, **__: Any) -> Any:
        client.warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("Couldn't reach it\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = "'a/b' cannot be had from the hub, nor .*: Couldn't reach it on the Hub$"
    with pytest.raises(DataError, match=message):
        load_data("hf-dataset", id="a/b")
    assert not caplog.records
    assert client.level == level


def test_without_datasets_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs datasets: pip install 'limbeck\[data\]'"):
        load_data("hf-dataset", path="anywhere")


def test_no_bar_is_drawn_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf_digits().to_parquet(str(tmp_path / "a.parquet"))
    datasets.enable_progress_bars()
    capsys.readouterr()
    load_data("hf-dataset", path=str(tmp_path / "a.parquet"), mode="L")
    assert capsys.readouterr() == ("", "")
    assert datasets.is_progress_bar_enabled()


def test_numbers_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "_free_memory", lambda: 50)
    with pytest.raises(DataError, match="96 bytes of numbers do not fit into the 50 bytes of mem"):
        from_hf(numbers())
