"""Image folders."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.data import DatasetSamples, TensorSamples, load_data
from limbeck.data.sources import images as source
from limbeck.errors import DataError, RecipeError

Image: Any = pytest.importorskip("PIL.Image")
COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def write(folder: Path, count: int = 10, names: tuple[str, ...] = tuple(COLOURS)) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((6, 8, 3), COLOURS.get(name, (9, 9, 9)), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")


def test_one_folder_a_class(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "red" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    bundle = load_data("images", root=str(tmp_path), size=4)
    assert bundle.class_names == ("blue", "green", "red")
    assert bundle.input_shape == (3, 4, 4)
    assert [len(view) for view in bundle.splits.values()] == [22, 2, 6]
    for view in bundle.splits.values():
        batch = view.fetch(torch.arange(len(view)))
        assert batch.inputs.dtype == torch.uint8
        brightest = batch.inputs.float().mean((2, 3)).argmax(1)
        assert torch.equal(brightest, 2 - view.targets)


def test_parts_in_folders(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        write(tmp_path / part, count)
    bundle = load_data("images", root=str(tmp_path), size=[4, 6], mode="L")
    assert [len(view) for view in bundle.splits.values()] == [15, 9, 6]
    assert bundle.input_shape == (1, 4, 6)
    assert bundle.record.bases == ("train", "validation", "test")


def test_a_large_set_is_decoded_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    held = load_data("images", root=str(tmp_path), size=4)
    monkeypatch.setattr(source, "MEMORY", 100)
    lazy = load_data("images", root=str(tmp_path), size=4)
    assert isinstance(held.splits["train"].samples, TensorSamples)
    assert isinstance(lazy.splits["train"].samples, DatasetSamples)
    rows = torch.arange(6)
    a, b = held.splits["test"].fetch(rows), lazy.splits["test"].fetch(rows)
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(held.splits["test"].targets, lazy.splits["test"].targets)


def test_misuse_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*gone"):
        load_data("images", root=str(tmp_path / "gone"))
    with pytest.raises(DataError, match="has no folders: expected one for each class"):
        load_data("images", root=str(tmp_path))
    (tmp_path / "red").mkdir()
    with pytest.raises(DataError, match="no images in"):
        load_data("images", root=str(tmp_path))
    (tmp_path / "red" / "a.png").write_bytes(b"no png")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image"):
        load_data("images", root=str(tmp_path))
    with pytest.raises(RecipeError, match="unknown mode 'CMYK'"):
        load_data("images", root=str(tmp_path), mode="CMYK")


def test_a_class_that_train_has_not(tmp_path: Path) -> None:
    write(tmp_path / "train")
    write(tmp_path / "test", 2, ("red", "violet"))
    with pytest.raises(DataError, match="a class 'violet' that train has not"):
        load_data("images", root=str(tmp_path))


def test_a_folder_of_images_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    write(tmp_path / "unlabelled" / "anywhere", 4)
    for memory in (1 << 20, 100):  # held in memory, and decoded as it is read
        monkeypatch.setattr(source, "MEMORY", memory)
        bundle = load_data("images", root=str(tmp_path), size=4)
        assert bundle.class_names == ("blue", "green", "red")
        assert "train 34 (22 labelled + 12 unlabelled); validation 2; test 6" in bundle.describe()
        train = bundle.splits["train"]
        batch = train.fetch((~train.labelled).nonzero()[:, 0])
        assert batch.inputs.float().mean((2, 3)).argmax(1).tolist() == [2] * 4 + [1] * 4 + [0] * 4
        assert batch.labelled is not None
        assert not batch.labelled.any()


@pytest.mark.parametrize("size", [0, [8], [8, 0], [1, 2, 3], "ab", 2.5])
def test_sizes_that_are_none(tmp_path: Path, size: Any) -> None:
    write(tmp_path, 1)
    with pytest.raises(RecipeError, match=r"size: expected pixels, or \(height, width\)"):
        load_data("images", root=str(tmp_path), size=size)


def test_without_pillow_the_line_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name in ("images", "cifar10-jpeg"):
        with pytest.raises(DataError, match=r"needs Pillow: pip install 'limbeck\[vision\]'"):
            load_data(name, root=str(tmp_path))
