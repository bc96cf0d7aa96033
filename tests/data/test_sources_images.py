"""Image folders."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.data import TensorSamples, encoded, load_data
from limbeck.data.encoded import EncodedImages
from limbeck.data.samples import digest_of, in_chunks
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
    monkeypatch.setattr(encoded, "HELD", 100)
    lazy = load_data("images", root=str(tmp_path), size=4)
    assert isinstance(held.splits["train"].samples, TensorSamples)
    assert isinstance(lazy.splits["train"].samples, EncodedImages)
    rows = torch.arange(6)
    a, b = held.splits["test"].fetch(rows), lazy.splits["test"].fetch(rows)
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(held.splits["test"].targets, lazy.splits["test"].targets)
    assert held.fingerprint() == lazy.fingerprint()
    assert "1.41 KiB of pixels in memory" in held.describe()
    assert "decoded as they are read (1.41 KiB of pixels; num_workers=0)" in lazy.describe()


def test_misuse_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*gone"):
        load_data("images", root=str(tmp_path / "gone"))
    with pytest.raises(DataError, match="has no folders: expected one for each class"):
        load_data("images", root=str(tmp_path))
    (tmp_path / "red").mkdir()
    (tmp_path / "blue").mkdir()
    with pytest.raises(DataError, match=r"no images in .*blue: expected files ending in \.png"):
        load_data("images", root=str(tmp_path))
    (tmp_path / "red" / "a.png").write_bytes(b"no png")
    (tmp_path / "blue" / "b.png").write_bytes(b"no png")
    with pytest.raises(DataError, match=r"b\.png cannot be read as an image: not an image"):
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
        monkeypatch.setattr(encoded, "HELD", memory)
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


def test_unlike_images_become_one_kind(tmp_path: Path) -> None:
    """Grey, palette, alpha, 16 bits, CMYK, an animation, a rotated photograph: what each shows."""
    for name in ("kinds", "other"):
        (tmp_path / name).mkdir()
    grey = Image.new("L", (8, 6), 100)
    wide = np.zeros((6, 8, 3), np.uint8)
    wide[:, :4] = (250, 0, 0)
    palette = Image.fromarray(wide).quantize(4)
    palette.info["transparency"] = bytes([0, 255, 255, 255])
    deep = Image.fromarray(np.full((6, 8), 100 << 8, np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    folder = tmp_path / "kinds"
    grey.save(folder / "a.png")
    Image.merge("RGBA", (grey, grey, grey, Image.new("L", (8, 6), 0))).save(folder / "b.png")
    palette.save(folder / "c.png")
    deep.save(folder / "d.png")
    Image.fromarray(wide).convert("CMYK").save(folder / "e.tif")
    grey.save(folder / "f.gif", save_all=True, append_images=[Image.new("L", (8, 6), 7)])
    Image.fromarray(wide).save(folder / "g.png", exif=exif)
    Image.new("1", (8, 6), 1).save(folder / "h.png")
    grey.save(tmp_path / "other" / "a.png")
    bundle = load_data("images", root=str(tmp_path), validation=1, test=1)
    pixels = bundle.splits["train"].samples.fetch(torch.arange(8))[0].float()
    left, right = pixels[..., :4].mean((2, 3)), pixels[..., 4:].mean((2, 3))
    plain = [100.0] * 3
    for row in (0, 1, 3, 5):
        assert left[row].tolist() == right[row].tolist() == plain, row
    for row in (2, 4):
        assert left[row].tolist() == pytest.approx([250, 0, 0], abs=6), row
        assert right[row].tolist() == pytest.approx([0, 0, 0], abs=6), row
    assert right[6].tolist() == [250, 0, 0]
    assert left[7].tolist() == [255] * 3


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    Image.new("F", (8, 6), 1.0).save(tmp_path / "red" / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: pixels of 32 bits; expected 8 or 16"):
        load_data("images", root=str(tmp_path))


def test_sizes_that_differ_need_size(tmp_path: Path) -> None:
    write(tmp_path)
    Image.new("RGB", (5, 5)).save(tmp_path / "red" / "odd.png")
    message = r"odd\.png: 5 x 5 pixels where the first image has 6 x 8: say data\.size= to resize"
    with pytest.raises(DataError, match=message):
        load_data("images", root=str(tmp_path))
    lazy = load_data("images", root=str(tmp_path), memory=False)
    with pytest.raises(DataError, match=message):
        list(in_chunks(lazy.splits["train"].samples))
    assert load_data("images", root=str(tmp_path), size=4).input_shape == (3, 4, 4)


def test_deeper_folders_and_files_that_are_no_images(tmp_path: Path) -> None:
    write(tmp_path / "Train", 4)
    (tmp_path / "Train" / "red" / "more" / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(tmp_path / "Train" / "red" / "more" / "deep" / "x.PNG")
    (tmp_path / "Train" / "red" / "._000.png").write_bytes(b"left by a Mac")
    Image.new("RGB", (8, 6)).save(tmp_path / "Train" / "loose.png")
    bundle = load_data("images", root=str(tmp_path), validation=1, test=1)
    assert len(bundle.splits["train"].samples) == 13
    assert "1 image files beside the class folders are not used" in bundle.describe()


def test_folders_that_are_not_as_meant(tmp_path: Path) -> None:
    write(tmp_path / "photos", 2)
    with pytest.raises(
        DataError, match=r"one class folder only, 'photos'.*mean data\.root=.*photos"
    ):
        load_data("images", root=str(tmp_path))
    (tmp_path / "photos" / "red").rename(tmp_path / "red")
    write(tmp_path / "split" / "val", 2)
    write(tmp_path / "split" / "test", 2)
    with pytest.raises(DataError, match=r"split has no folders \(val, test but no train\)"):
        load_data("images", root=str(tmp_path / "split"))


def test_a_cut_or_empty_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, 2)
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "red" / "cut.jpg")
    whole = (tmp_path / "red" / "cut.jpg").read_bytes()
    (tmp_path / "red" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read as an image: .*truncated"):
        load_data("images", root=str(tmp_path), size=8)
    (tmp_path / "red" / "cut.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read as an image: it is empty"):
        load_data("images", root=str(tmp_path), size=8)
    (tmp_path / "red" / "cut.jpg").write_bytes(whole)
    lazy = load_data("images", root=str(tmp_path), size=8, memory=False)
    (tmp_path / "red" / "cut.jpg").unlink()
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read: No such file"):
        lazy.fingerprint()


def test_memory_is_said_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(encoded, "_free_memory", lambda: 1000)
    monkeypatch.setattr(EncodedImages, "in_memory", lambda *_: pytest.fail("decoded"))
    message = r"4\.22 KiB of pixels do not fit into the 1000 bytes of memory.*data\.memory=false"
    with pytest.raises(DataError, match=message):
        load_data("images", root=str(tmp_path), memory=True)
    assert "decoded as they are read" in load_data("images", root=str(tmp_path)).describe()


def test_workers_read_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    held = load_data("images", root=str(tmp_path)).splits["train"].samples
    lazy = load_data("images", root=str(tmp_path), memory=False, num_workers=1)
    samples = lazy.splits["train"].samples
    assert digest_of(samples) == digest_of(held)
    read = torch.cat([inputs for inputs, _ in in_chunks(samples, 7)])
    assert isinstance(held, TensorSamples)
    assert torch.equal(read, held.inputs)


def test_one_byte_changes_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path)
    before = load_data("images", root=str(tmp_path)).fingerprint()
    Image.new("RGB", (8, 6), (0, 0, 1)).save(tmp_path / "red" / "000.png")
    assert load_data("images", root=str(tmp_path)).fingerprint() != before
    assert load_data("images", root=str(tmp_path), size=4).fingerprint() != before


def test_free_memory_is_that_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 900 kB\nMemAvailable: 500 kB\n",
        "/sys/fs/cgroup/memory.max": "300000\n",
        "/sys/fs/cgroup/memory.current": "100000\n",
    }

    def copied(path: str) -> Path:
        for name, text in files.items():
            copy = tmp_path / name[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)
        return tmp_path / path[1:]

    monkeypatch.setattr(encoded, "Path", copied)
    assert encoded._free_memory() == 200_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert encoded._free_memory() == 500 * 1024
    files["/proc/meminfo"] = "something else\n"
    assert encoded._free_memory() is None


def test_a_bar_on_a_terminal_names_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    write(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    load_data("images", root=str(tmp_path))
    assert "decoding images into 4.22 KiB of memory" in terminal.getvalue()


def test_statistics_are_one_a_channel(tmp_path: Path) -> None:
    write(tmp_path, 4)
    message = r"mean: expected 1 number \(mode 'L'\), got 3"
    with pytest.raises(RecipeError, match=message):
        load_data("images", root=str(tmp_path), mode="L", mean=[0.1, 0.2, 0.3], std=[1, 1, 1])
    with pytest.raises(RecipeError, match=r"std: expected 3 numbers \(mode 'RGB'\), got 1"):
        load_data("images", root=str(tmp_path), mean=[0.1, 0.2, 0.3], std=[1])
