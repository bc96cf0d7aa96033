"""WebDataset shards, written by webdataset itself."""

from __future__ import annotations

import gc
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from door_worlds import COUNT, png, scans, write_shards

from limbeck.data import load_data
from limbeck.data.samples import in_chunks
from limbeck.data.sources import tar_index
from limbeck.data.sources.shards import shards_of
from limbeck.errors import DataError, RecipeError

webdataset: Any = pytest.importorskip("webdataset")
pytest.importorskip("PIL")


def load(path: str, **options: Any) -> Any:
    return load_data("webdataset", path=path, mode="L", **options)


def tar_of(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def few(path: Path, **changes: bytes) -> str:
    """Four samples; ``changes`` replace files, named like ``s2_cls``."""
    files = {}
    for row in range(4):
        files[f"s{row}.png"] = png(scans()[0][row])
        files[f"s{row}.cls"] = str(row % 2).encode()
    files |= {name.replace("_", "."): content for name, content in changes.items()}
    return tar_of(path, files)


def test_every_sample_is_what_was_written(tmp_path: Path) -> None:
    bundle = load(write_shards(tmp_path))
    samples = bundle.splits["train"].samples
    pixels, labels = scans()
    inputs, targets = samples.fetch(torch.arange(COUNT))
    assert torch.equal(inputs[:, 0], torch.from_numpy(pixels))
    assert targets.tolist() == labels.tolist()
    assert bundle.input_shape == (1, 8, 8)
    assert "3 shards; 6.25 KiB of pixels in memory; validation and test cut" in bundle.describe()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves shards open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_webdataset_reads_is_what_limbeck_reads(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path)
    theirs = list(
        webdataset.WebDataset(pattern, shardshuffle=False).decode("l8").to_tuple("png", "cls")
    )
    samples = load(pattern, memory=False).splits["train"].samples
    gc.collect()  # what is left open is closed here, where that is no error
    assert len(theirs) == len(samples)
    inputs, targets = samples.fetch(torch.arange(COUNT))
    for row, (pixels, label) in enumerate(theirs):
        assert torch.equal(inputs[row, 0], torch.tensor(pixels)), row
        assert targets[row] == label


def test_any_sample_can_be_read_by_itself(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path)
    held, lazy = load(pattern), load(pattern, memory=False, num_workers=1)
    rows = torch.tensor([99, 0, 41, 40, 39, 41])
    a = held.splits["train"].samples.fetch(rows)
    b = lazy.splits["train"].samples.fetch(rows)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert held.fingerprint() == lazy.fingerprint()
    read = torch.cat([x for x, _ in in_chunks(lazy.splits["train"].samples, 30)])
    assert torch.equal(read, held.splits["train"].samples.inputs)


def test_the_index_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = write_shards(tmp_path)
    seen: list[str] = []
    read = tar_index.Sample.read

    def watched(sample: tar_index.Sample, ending: str) -> bytes:
        seen.append(ending)
        return read(sample, ending)

    monkeypatch.setattr(tar_index.Sample, "read", watched)
    load(pattern, memory=False)
    assert seen.count("cls") == COUNT
    assert seen.count("png") == 3  # the first, for size and check; one of test, for the form


def test_parts_names_and_samples_without_labels(tmp_path: Path) -> None:
    first = few(tmp_path / "a.tar", s0_cls=b"cat", s1_cls=b"dog\n", s2_cls=b"cat", s3_cls=b"dog")
    bundle = load(first, validation_path=first, test_path=first, unlabelled_path=first)
    assert bundle.class_names == ("cat", "dog")
    assert "train 8 (4 labelled + 4 unlabelled); validation 4; test 4" in bundle.describe()
    ordered = load(first, test_path=first, validation_path=first, class_names=["dog", "cat"])
    assert ordered.splits["test"].targets.tolist() == [1, 0, 1, 0]


def test_labels_in_json(tmp_path: Path) -> None:
    files = {f"s{k}.png": png(scans()[0][k]) for k in range(2)}
    files |= {f"s{k}.json": b'{"class": %d}' % k for k in range(2)}
    path = tar_of(tmp_path / "a.tar", dict(sorted(files.items())))
    bundle = load(path, label="json.class", validation_path=path, test_path=path)
    assert bundle.splits["test"].targets.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"a\.tar, sample 's0': label \.json: no entry 'clas'"):
        load(path, label="json.clas")


def test_shards_by_range_words_and_glob(tmp_path: Path) -> None:
    for name in ("a-08", "a-09", "a-10", "b-1"):
        (tmp_path / f"{name}.tar").write_bytes(b"")
    names = lambda pattern: [p.stem for p in shards_of(str(tmp_path / pattern))]  # noqa: E731
    assert names("a-{08..10}.tar") == ["a-08", "a-09", "a-10"]
    assert names("{a-09,b-1}.tar") == ["a-09", "b-1"]
    assert names("a-*.tar") == ["a-08", "a-09", "a-10"]
    with pytest.raises(DataError, match=r"no shard .*a-11\.tar"):
        names("a-{09..11}.tar")
    with pytest.raises(DataError, match=r"no shard .*c-\*\.tar"):
        names("c-*.tar")
    with pytest.raises(RecipeError, match=r"path: the range \{3\.\.1\} is empty"):
        names("a-{3..1}.tar")


def test_what_is_pickled_is_never_read(tmp_path: Path) -> None:
    pattern = write_shards(tmp_path, pyd={"a": 1}, pth=torch.zeros(2))
    bundle = load(pattern)
    said = bundle.describe()
    assert "100 pickled files (.pth) are never read; 100 pickled files (.pyd) are never" in said
    with pytest.raises(RecipeError, match=r"files ending in \.pyd are pickled, and are never read"):
        load(pattern, label="pyd")
    with pytest.raises(RecipeError, match=r"files ending in \.pth are pickled, and are never read"):
        load(pattern, image="png;pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s2_cls": b"-1"}, r"a\.tar, sample 's2': label -1 is negative; expected 0 or more"),
        ({"s2_cls": b"cat"}, r"a\.tar, sample 's2': label 'cat' among labels that are numbers"),
        ({"s2_cls": b"1.5"}, r"a\.tar, sample 's2': label '1.5' among labels that are numbers"),
        ({"s2_cls": b""}, r"a\.tar, sample 's2': label ''; expected a class's number or name"),
        ({"s2_cls": b"\xff"}, r"a\.tar, sample 's2': label \.cls: not readable as text"),
        ({"s2_png": b"no"}, r"a\.tar, sample 's2': \.png cannot be read as an image: not an im"),
        ({"s4_cls": b"1"}, r"a\.tar, sample 's4' has no image ending in \.jpg or .*: it has \.cls"),
        ({"s4_png": b"x"}, r"a\.tar, sample 's4' has no label ending in \.cls: it has \.png"),
        ({"s4_clss": b"1"}, r"a\.tar, sample 's4' has no label .*: did you mean 'clss'\?"),
        ({"s3_png": png(scans()[0][0][:4])}, r"'s3': \.png: 4 x 8 pixels where .* data\.size="),
    ],
)
def test_a_fault_names_shard_and_sample(
    change: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        load(few(tmp_path / "a.tar", **change))


def test_classes_that_do_not_fit(tmp_path: Path) -> None:
    named = few(tmp_path / "a.tar", s0_cls=b"cat", s1_cls=b"dog", s2_cls=b"cat", s3_cls=b"dog")
    other = few(tmp_path / "b.tar", s0_cls=b"cat", s1_cls=b"dgo", s2_cls=b"cat", s3_cls=b"dog")
    with pytest.raises(DataError, match=r"b\.tar, sample 's1': class 'dgo' does not occur in tr"):
        load(named, test_path=other)
    with pytest.raises(DataError, match="class 'cat' is not among class_names: did you mean 'cot'"):
        load(named, class_names=["cot", "dog"])
    numbers = few(tmp_path / "c.tar")
    with pytest.raises(DataError, match=r"b\.tar, sample 's0': label 'cat' among labels that are"):
        load(numbers, test_path=other)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    path = few(tmp_path / "a.tar")
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("s3.CLS")
        tar.addfile(member, io.BytesIO())
    with pytest.raises(DataError, match=r"a\.tar, sample 's3': two files end in \.cls"):
        load(path)


def test_damaged_shards(tmp_path: Path) -> None:
    path = Path(few(tmp_path / "a.tar"))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        starts = [member.offset for member in tar]
        last = tar.getmembers()[-1]

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            load(str(path))
        assert "\n" not in str(caught.value)

    refused(b"", r"a\.tar is empty: expected a tar of samples")
    refused(b"no tar" * 200, r"a\.tar is no tar that can be read")
    refused(b"\0" * 10240, r"a\.tar holds no sample: expected files such as 000000\.jpg")
    refused(whole[: last.offset_data], r"a\.tar is cut short in s3\.cls: 512 bytes are missing")
    refused(whole[: starts[6] + 100], r"a\.tar is (cut short|damaged) after s2\.cls")
    refused(whole[: starts[6]], r"a\.tar is cut short after s2\.cls: the mark of its end is miss")
    broken = whole[: starts[4]] + b"\x07" * 512 + whole[starts[4] + 512 :]
    refused(broken, r"a\.tar is damaged after s1\.cls: what follows is no file's header")
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match=r"b\.tar\.gz is compressed, .*: unpack it to \.tar"):
        load(str(tmp_path / "b.tar.gz"))


def test_a_shard_that_changes_while_it_is_used(tmp_path: Path) -> None:
    path = Path(few(tmp_path / "a.tar"))
    samples = load(str(path), memory=False).splits["train"].samples
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(DataError, match=r"'s3': \.png is cut short: the shard changed"):
        samples.fetch(torch.tensor([3]))
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar, sample 's3' cannot be read: No such file"):
        samples.fetch(torch.tensor([3]))


def test_links_and_folders_in_a_tar_are_passed_over(tmp_path: Path) -> None:
    path = few(tmp_path / "a.tar")
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("s9.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        folder = tarfile.TarInfo("more.d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("._s0.png"), io.BytesIO())
    assert len(load(path).splits["train"].samples) == 4
