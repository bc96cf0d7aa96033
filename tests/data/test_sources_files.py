"""Sources on generated files in the official formats, and downloads over loopback."""

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.data import load_data
from limbeck.data.sources import cifar, idx
from limbeck.data.sources.files import RemoteFile, fetch
from limbeck.errors import DataError, StorageError

RANDOM = np.random.default_rng(0)


def idx_bytes(array: Any) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, sizes: tuple[int, int] = (60, 20)) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, size in zip(("train", "t10k"), sizes, strict=True):
        arrays[f"{part}-images-idx3"] = RANDOM.integers(0, 256, (size, 5, 4), dtype=np.uint8)
        arrays[f"{part}-labels-idx1"] = (np.arange(size) % 10).astype(np.uint8)
    for name, array in arrays.items():
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array), mtime=0))
    return arrays


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "published"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def publish(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    digests = tuple(
        hashlib.sha256((folder / f"{part}-ubyte.gz").read_bytes()).hexdigest() for part in idx.PARTS
    )
    monkeypatch.setitem(idx.SHA256, "mnist", digests)


@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_idx_files_are_found_and_read(tmp_path: Path, place: str) -> None:
    arrays = write_mnist(tmp_path / place)
    bundle = load_data("mnist", root=str(tmp_path), validation=10)
    assert [len(view) for view in bundle.splits.values()] == [50, 10, 20]
    test = bundle.splits["test"].fetch(torch.arange(20))
    assert torch.equal(test.inputs[:, 0], torch.from_numpy(arrays["t10k-images-idx3"]))
    assert bundle.splits["test"].targets.tolist() == arrays["t10k-labels-idx1"].tolist()


def test_unpacked_files_serve_too(tmp_path: Path) -> None:
    arrays = write_mnist(tmp_path)
    for file in tmp_path.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    (images, _), _ = idx.load_idx_set("mnist", tmp_path)
    assert torch.equal(images[:, 0], torch.from_numpy(arrays["train-images-idx3"]))


def test_the_environment_names_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "mnist")
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    assert len(load_data("mnist", validation=10).splits["test"]) == 20


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b[: len(b) // 2], "damaged or unreadable"),
        (lambda b: gzip.compress(gzip.decompress(b)[:-7]), "do not fit its header"),
        (lambda b: gzip.compress(b"nothing of the kind, at all"), "not an idx file"),
        (lambda b: b"", "not an idx file"),
        (lambda b: b[:200] + b"x" * 200 + b[400:], "damaged or unreadable"),
        (
            lambda b: gzip.compress(idx_bytes(np.zeros((0, 5, 4), np.uint8))),
            r"images \[0, 5, 4\] and labels \[60\] do not fit",
        ),
        (
            lambda b: gzip.compress(idx_bytes(np.zeros((59, 5, 4), np.uint8))),
            r"images \[59, 5, 4\] and labels \[60\] do not fit",
        ),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    write_mnist(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError, match=message):
        load_data("mnist", root=str(tmp_path))


def test_download_into_the_cache_once(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    write_mnist(folder)
    publish(monkeypatch, folder)
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    bundle = load_data("mnist", download=True, mirror=url, validation=10)
    names = sorted(path.name for path in (tmp_path / "cache" / "data" / "mnist").iterdir())
    assert names == sorted(f"{part}-ubyte.gz" for part in idx.PARTS)
    for file in folder.iterdir():
        file.unlink()
    again = load_data("mnist", validation=10)  # no download: found in the cache
    assert again.fingerprint() == bundle.fingerprint()


def test_a_wrong_checksum_leaves_nothing_behind(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    write_mnist(folder)
    target = tmp_path / "deep" / "er"
    with pytest.raises(DataError) as caught:
        load_data("mnist", root=str(target), download=True, mirror=url)
    text = str(caught.value)
    assert "\n" not in text
    for part in ("train-images-idx3-ubyte.gz", "wrong checksum: sha256", "nothing was kept"):
        assert part in text
    assert idx.SHA256["mnist"][0] in text
    assert not (tmp_path / "deep").exists()


def test_what_was_there_before_a_failed_download_stays(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("kept")
    with pytest.raises(DataError, match=r"cannot download http://127.*: Not Found|File not found"):
        load_data("mnist", root=str(target), download=True, mirror=server[0])
    assert [path.name for path in target.iterdir()] == ["notes.txt"]


class CutShort(Quiet):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)


def test_a_broken_connection_is_one_line(tmp_path: Path) -> None:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), CutShort)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    file = RemoteFile("a.bin", f"http://127.0.0.1:{httpd.server_port}", "0" * 64)
    try:
        with pytest.raises(DataError, match=r"a\.bin broke off after 10 of 1,000 bytes"):
            fetch(file, tmp_path / "new")
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
    assert not (tmp_path / "new").exists()
    closed = RemoteFile("a.bin", f"http://127.0.0.1:{httpd.server_port}", "0" * 64)
    with pytest.raises(DataError, match="cannot download"):
        fetch(closed, tmp_path / "new")
    with pytest.raises(DataError, match=r"expected an http\(s\) address"):
        fetch(RemoteFile("passwd", "file:///etc", "0" * 64), tmp_path / "new")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*a part of the path is a file"):
        fetch(RemoteFile("a", "http://127.0.0.1:9", "0"), tmp_path / "file" / "sub")


def cifar_records(size: int, header: int) -> tuple[bytes, Any, Any]:
    labels = np.stack([np.arange(size) % k for k in (20, 100)[2 - header :]], axis=1)
    if header == 1:
        labels = (np.arange(size) % 10)[:, None]
    pixels = RANDOM.integers(0, 256, (size, 3072), dtype=np.uint8)
    return np.hstack([labels.astype(np.uint8), pixels]).tobytes(), labels, pixels


def cifar_files(name: str) -> tuple[dict[str, bytes], Any, Any]:
    header = 2 if name == "cifar100" else 1
    files, labels, pixels = {}, [], []
    for file in cifar.TRAIN[name]:
        files[file], y, x = cifar_records(100, header)
        labels.append(y)
        pixels.append(x)
    files[cifar.TEST[name]], _, _ = cifar_records(100, header)
    return files, np.concatenate(labels), np.concatenate(pixels)


def archive(path: Path, folder: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["archive", "folder", "nested folder"])
def test_cifar_in_its_binary_format(tmp_path: Path, name: str, form: str) -> None:
    files, labels, pixels = cifar_files(name)
    if form == "archive":
        archive(tmp_path / cifar.ARCHIVES[name].name, cifar.FOLDERS[name], files)
    else:
        folder = tmp_path / (cifar.FOLDERS[name] if form == "nested folder" else "")
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
    bundle = load_data(name, root=str(tmp_path), validation=0.5)
    samples = bundle.splits["train"].samples
    inputs, targets = samples.fetch(torch.arange(len(samples)))
    assert torch.equal(inputs, torch.from_numpy(pixels).view(-1, 3, 32, 32))
    assert targets.tolist() == labels[:, -1].tolist()
    assert bundle.num_outputs == (100 if name == "cifar100" else 10)
    if name == "cifar100":
        assert bundle.superclasses["coarse"][targets].tolist() == labels[:, 0].tolist()


def test_damaged_cifar_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    files, _, _ = cifar_files("cifar10")
    archive(path, "x", {name: files[name] for name in list(files)[:-1]})
    with pytest.raises(DataError, match=r"lacks test_batch\.bin: is it the binary version"):
        load_data("cifar10", root=str(tmp_path))
    archive(path, "x", {**files, "test_batch.bin": b"1234"})
    with pytest.raises(DataError, match=r"test_batch\.bin: 4 bytes are not whole records of 3073"):
        load_data("cifar10", root=str(tmp_path))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="damaged or unreadable"):
        load_data("cifar10", root=str(tmp_path))


def test_cifar_jpeg_file_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10_jpeg\.npz not found in .*data\.root=FOLDER"):
        load_data("cifar10-jpeg", root=str(tmp_path))
    (tmp_path / "cifar10_jpeg.npz").write_bytes(b"not an npz")
    with pytest.raises(DataError, match="damaged or not an npz"):
        load_data("cifar10-jpeg", root=str(tmp_path))


def test_cifar_labels_out_of_range_and_damaged_bytes(tmp_path: Path) -> None:
    for name, label, classes in (("cifar10", 12, 10), ("cifar100", 200, 100)):
        files, _, _ = cifar_files(name)
        header = 2 if name == "cifar100" else 1
        first = cifar.TRAIN[name][0]
        content = bytearray(files[first])
        content[header - 1] = label
        path = tmp_path / cifar.ARCHIVES[name].name
        archive(path, "x", {**files, first: bytes(content)})
        message = f"train, sample 0: label {label} is out of range; expected 0 to {classes - 1}"
        with pytest.raises(DataError, match=message):
            load_data(name, root=str(tmp_path))
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2 : len(whole) // 2 + 400] = b"x" * 400
        path.write_bytes(whole)
        with pytest.raises(DataError, match=r"damaged or unreadable|lacks"):
            load_data(name, root=str(tmp_path))


def test_cifar_is_found_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, labels, _ = cifar_files("cifar10")
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    assert len(load_data("cifar10", validation=0.5).splits["train"].samples) == len(labels)


def test_cifar_is_downloaded_and_checked(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    published = cifar.ARCHIVES["cifar100"]
    files, labels, _ = cifar_files("cifar100")
    archive(folder / published.name, cifar.FOLDERS["cifar100"], files)
    target = tmp_path / "mine"
    options: dict[str, Any] = {"root": str(target), "download": True, "mirror": url}
    with pytest.raises(DataError, match=f"wrong checksum: md5 .*expected {published.checksum}"):
        load_data("cifar100", **options)
    assert not target.exists()
    md5 = hashlib.md5((folder / published.name).read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(cifar.ARCHIVES, "cifar100", replace(published, checksum=md5))
    bundle = load_data("cifar100", validation=0.5, **options)
    assert len(bundle.splits["train"].samples) == len(labels)
    assert [path.name for path in target.iterdir()] == [published.name]


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    import resource

    url, folder = server
    (folder / "a.bin").write_bytes(b"x" * 300_000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(
            StorageError, match=r"cannot write .*a\.bin: the file-size limit"
        ) as got:
            fetch(RemoteFile("a.bin", url, "0" * 64), tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "\n" not in str(got.value)
    assert not (tmp_path / "new").exists()


def npz(path: Path, **changes: Any) -> None:
    """Four train and two test images in the form of the published file."""
    image = pytest.importorskip("PIL.Image")
    arrays: dict[str, Any] = {"class_names": np.array(["dark", "light"])}
    for part, size in (("train", 8), ("test", 2)):
        pieces = []
        for number in range(size):
            stream = io.BytesIO()
            image.new("RGB", (32, 32), (200 * (number % 2), 9, 30 * number)).save(stream, "JPEG")
            pieces.append(stream.getvalue())
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(pieces), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, pieces)])
        arrays[f"{part}_labels"] = np.arange(size) % 2
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_cifar_jpeg_in_small(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_jpeg.npz"
    npz(path)
    bundle = load_data("cifar10-jpeg", root=str(tmp_path), validation=2, num_train=4, seed=3)
    assert [len(view) for view in bundle.splits.values()] == [4, 2, 2]
    assert bundle.class_names == ("dark", "light")
    for view in bundle.splits.values():  # red says the class, in its own channel
        batch = view.fetch(torch.arange(len(view)))
        red = batch.inputs[:, 0].float().mean((1, 2))
        assert torch.equal(red > 100, view.targets == 1)
    npz(path, test_labels=None)
    with pytest.raises(DataError, match=r"does not hold the arrays train_jpeg, .*test_labels"):
        load_data("cifar10-jpeg", root=str(path))
    npz(path, train_jpeg=np.zeros(9000, np.uint8))
    with pytest.raises(DataError, match=r"train image \d cannot be read"):
        load_data("cifar10-jpeg", root=str(path), validation=2)
    npz(path, train_labels=np.array(["a"] * 8, dtype=object))
    with pytest.raises(DataError, match="damaged or not an npz"):  # it would have to be unpickled
        load_data("cifar10-jpeg", root=str(path))
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or not an npz"):
        load_data("cifar10-jpeg", root=str(path))


def test_short_label_files_are_read(tmp_path: Path) -> None:
    for size in range(1, 12):
        path = tmp_path / "labels"
        path.write_bytes(idx_bytes(np.arange(size, dtype=np.uint8)))
        assert idx.read_idx(path).tolist() == list(range(size))
    path.write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(DataError, match="6 bytes do not fit its header"):
        idx.read_idx(path)
