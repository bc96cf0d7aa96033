"""Sources on the real files: digits (bundled) and, where they are, the development data."""

import hashlib
import threading
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from limbeck.data import DataBundle, load_data
from limbeck.data.sources.blocks import NUM_STUDENT_PAIRS, PairSamples, half_size
from limbeck.data.sources.idx import PARTS, SHA256, load_idx_set
from limbeck.errors import DataError, RecipeError

idx_set = cache(load_idx_set)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_digits() -> None:
    bundle = load_data("digits", labels_per_class=10)
    assert bundle.describe() == (
        "digits: classification, 10 classes, input 1x8x8; train 1,069 (100 labelled + 969 "
        "unlabelled); validation 189; test 539; validation and test cut from train"
    )
    test = bundle.splits["test"]
    assert torch.equal(test.indices, load_data("digits", seed=5).splits["test"].indices)
    counts = torch.bincount(test.targets)
    assert int(counts.max() - counts.min()) <= 3
    pixels = torch.cat([v.fetch(torch.arange(len(v))).inputs for v in bundle.splits.values()])
    stats = bundle.normalization
    assert stats is not None
    assert float(pixels.mean()) == pytest.approx(stats.mean[0], abs=1e-4)
    assert float(pixels.std()) == pytest.approx(stats.std[0], abs=1e-4)
    assert (float(pixels.min()), float(pixels.max())) == (0, 1)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_sets_are_whole_and_their_statistics_right(shared_data: Path, name: str) -> None:
    bundle = load_data(name, root=str(shared_data))
    sizes = {part: len(view) for part, view in bundle.splits.items()}
    assert sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    (images, labels), (_, test_labels) = idx_set(name, str(shared_data))
    assert images.shape == (60_000, 1, 28, 28)
    assert images.dtype == torch.uint8
    pixels = images.numpy()
    assert bundle.normalization is not None
    assert pixels.mean() / 255 == pytest.approx(bundle.normalization.mean[0], abs=1e-4)
    assert pixels[::7].std() / 255 == pytest.approx(bundle.normalization.std[0], abs=1e-3)
    if name == "mnist":
        assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
        assert test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    else:
        assert torch.bincount(labels).tolist() == [6000] * 10
        assert bundle.class_names[int(test_labels[0])] == "Ankle boot"


def test_halving_is_the_mean_of_four_pixels() -> None:
    images = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    expected = torch.nn.functional.avg_pool2d(images.double(), 2)
    assert float((half_size(images).double() - expected).abs().max()) <= 0.5
    assert half_size(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).item() == 255


@pytest.fixture(scope="module")
def small(shared_data: Path) -> DataBundle:
    return load_data("p100", root=str(shared_data))


def test_p100_is_the_protocols_block(shared_data: Path, small: DataBundle) -> None:
    root, bundle = str(shared_data), small
    sizes = {part: len(view) for part, view in bundle.splits.items()}
    assert sizes == {"train": 5_000, "validation": 5_000, "test": 20_000}
    assert bundle.input_shape == (1, 14, 28)
    teacher = bundle.extra["teacher_pairs"]
    assert len(teacher) == 60_000
    (digits, digit_labels), _ = idx_set("mnist", root)
    (items, item_labels), _ = idx_set("fashion-mnist", root)
    parts = [bundle.splits["train"], bundle.splits["validation"], teacher]
    for view, low, high in zip(parts, (0, 50_000, 0), (50_000, 60_000, 50_000), strict=True):
        assert isinstance(view.samples, PairSamples)
        pairs = view.samples.pairs[view.indices]
        assert low <= int(pairs.min())
        assert int(pairs.max()) < high
        batch = view.fetch(torch.arange(20))
        for row, (left, right) in enumerate(pairs[:20].tolist()):
            expected = torch.cat([half_size(digits[left]), half_size(items[right])], dim=2)
            assert torch.equal(batch.inputs[row], expected)
            label = 10 * int(digit_labels[left]) + int(item_labels[right])
            assert int(view.targets[row]) == label
            assert int(bundle.superclasses["digit"][label]) == int(digit_labels[left])
            assert int(bundle.superclasses["item"][label]) == int(item_labels[right])
    assert len(bundle.splits["test"].targets.unique()) == 100
    assert bundle.class_names[37] == "3 & Sneaker"


def test_p100s_teacher_never_sees_a_students_pair(shared_data: Path, small: DataBundle) -> None:
    root = str(shared_data)
    largest = load_data("p100", root=root, num_train=NUM_STUDENT_PAIRS)
    teacher = load_data("p100", root=root, pairs="teacher")

    def pairs(view: object) -> list[tuple[int, ...]]:
        assert isinstance(view.samples, PairSamples)  # type: ignore[attr-defined]
        return [tuple(pair) for pair in view.samples.pairs[view.indices].tolist()]  # type: ignore[attr-defined]

    student_pairs, teacher_pairs = pairs(largest.splits["train"]), pairs(teacher.splits["train"])
    assert len(set(student_pairs)) == 20_000
    assert len(set(teacher_pairs)) == 60_000
    assert not set(student_pairs) & set(teacher_pairs)
    assert pairs(small.splits["train"]) == student_pairs[:5_000]
    assert pairs(small.extra["teacher_pairs"]) == teacher_pairs
    assert torch.equal(small.splits["validation"].targets, teacher.splits["validation"].targets)
    with pytest.raises(RecipeError, match="expected 1 to 20000"):
        load_data("p100", root=root, num_train=20_001)
    with pytest.raises(RecipeError, match="unknown pairs"):
        load_data("p100", root=root, pairs="teachers")


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("f14", (1, 14, 14), [10_000, 5_000, 10_000]),
        ("f28", (1, 28, 28), [10_000, 5_000, 10_000]),
        ("m5", (1, 28, 28), [50_000, 10_000, 10_000]),
        ("m14", (1, 14, 14), [10_000, 5_000, 10_000]),
    ],
)
def test_single_blocks(
    shared_data: Path, name: str, shape: tuple[int, ...], sizes: list[int]
) -> None:
    bundle = load_data(name, root=str(shared_data), labels_per_class=20)
    assert bundle.input_shape == shape
    assert [len(view) for view in bundle.splits.values()] == sizes
    assert int(bundle.splits["train"].labelled.sum()) == 200
    assert bundle.record.bases == ("train", "validation", "test")
    assert len(bundle.splits["train"].samples) == 50_000


def test_cifar_jpeg(shared_data: Path) -> None:
    pytest.importorskip("PIL")
    bundle = load_data("cifar10-jpeg", root=str(shared_data), num_train=300, validation=200)
    assert [len(view) for view in bundle.splits.values()] == [300, 200, 10_000]
    assert torch.bincount(bundle.splits["train"].targets).tolist() == [30] * 10
    assert bundle.input_shape == (3, 32, 32)
    test = bundle.splits["test"]
    pixels = test.fetch(torch.arange(10_000)).inputs.double() / 255
    assert bundle.normalization is not None
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(bundle.normalization.mean, abs=0.01)
    assert "not comparable" in bundle.describe()
    # channels are not swapped: the sky of class 0 (airplane) is blue
    assert bundle.class_names[0] == "airplane"
    planes = pixels[test.targets == 0].mean((0, 2, 3))
    assert planes[2] > planes[0]


def test_adult_table(shared_data: Path) -> None:
    pytest.importorskip("pandas")
    folder = shared_data / "tabular" / "adult"
    options = {"header": False, "target": -1, "strip": "."}
    bundle = load_data(
        "table", path=str(folder / "train.csv.gz"), test_path=str(folder / "test.csv.gz"), **options
    )
    assert bundle.class_names == ("<=50K", ">50K")
    assert [len(view) for view in bundle.splits.values()] == [29_305, 3_256, 16_281]
    assert len(bundle.feature_names) == bundle.input_shape[0]
    train = bundle.splits["train"]
    x = train.fetch(torch.arange(len(train))).inputs.double()
    age = bundle.feature_names.index("0")
    assert float(x[:, age].mean()) == pytest.approx(0, abs=1e-5)
    assert float(x[:, age].std()) == pytest.approx(1, abs=1e-3)
    sexes = [k for k, name in enumerate(bundle.feature_names) if name.startswith("9=")]
    assert (x[:, sexes].sum(1) == 1).all()
    assert len(sexes) == 2


def test_a_missing_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    for root in (None, str(tmp_path)):
        with pytest.raises(DataError) as caught:
            load_data("mnist", **({} if root is None else {"root": root}))
        text = str(caught.value)
        assert "\n" not in text
        assert str(tmp_path) in text
        assert "train-images-idx3-ubyte.gz" in text
        assert "data.root=" in text
        assert "data.download=true" in text


def test_published_checksums_are_those_of_the_published_files(
    shared_data: Path, tmp_path: Path
) -> None:
    """A download of the real files, over loopback, passes the checksums written in the library."""
    httpd = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(shared_data / "mnist"))
    )
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{httpd.server_port}"
    options = {"download": True, "mirror": url}
    try:
        bundle = load_data("mnist", root=str(tmp_path), **options)
        with pytest.raises(DataError, match="wrong checksum"):  # MNIST is not Fashion-MNIST
            load_data("fashion-mnist", root=str(tmp_path / "other"), **options)
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
    assert not (tmp_path / "other").exists()
    assert len(list(tmp_path.iterdir())) == 4
    assert len(bundle.splits["train"].samples) == 60_000
    for name in ("mnist", "fashion-mnist"):
        for part, checksum in zip(PARTS, SHA256[name], strict=True):
            content = (shared_data / name / f"{part}-ubyte.gz").read_bytes()
            assert hashlib.sha256(content).hexdigest() == checksum


@pytest.mark.parametrize("name", ["f28", "m5"])
def test_single_blocks_share_no_image(shared_data: Path, name: str) -> None:
    """Parts come from source images 0-49,999, 50,000-59,999 and the test file, in that order."""
    bundle = load_data(name, root=str(shared_data))
    (images, labels), (test_images, test_labels) = idx_set(
        "mnist" if name == "m5" else "fashion-mnist", str(shared_data)
    )
    bases = {
        "train": (images[:50_000], labels[:50_000]),
        "validation": (images[50_000:], labels[50_000:]),
        "test": (test_images, test_labels),
    }
    for part, (pixels, classes) in bases.items():
        view = bundle.splits[part]
        batch = view.fetch(torch.arange(len(view)))
        assert batch.index is not None
        assert len(batch.index.unique()) == len(view)
        assert torch.equal(batch.inputs, pixels[batch.index])
        assert batch.targets is not None
        assert torch.equal(batch.targets, classes[batch.index])


def test_p100s_test_pairs_are_of_the_test_files(shared_data: Path, small: DataBundle) -> None:
    _, (digits, digit_labels) = idx_set("mnist", str(shared_data))
    _, (items, item_labels) = idx_set("fashion-mnist", str(shared_data))
    view = small.splits["test"]
    assert isinstance(view.samples, PairSamples)
    pairs = view.samples.pairs[view.indices]
    assert torch.equal(view.targets, 10 * digit_labels[pairs[:, 0]] + item_labels[pairs[:, 1]])
    rows = torch.arange(0, 20_000, 50)
    sides = half_size(digits)[pairs[rows, 0]], half_size(items)[pairs[rows, 1]]
    assert torch.equal(view.fetch(rows).inputs, torch.cat(sides, dim=3))


def test_a_teacher_of_fewer_pairs(shared_data: Path, small: DataBundle) -> None:
    few = load_data("p100", root=str(shared_data), pairs="teacher", num_train=3_000)
    samples = few.splits["train"].samples
    assert isinstance(samples, PairSamples)
    teacher = small.extra["teacher_pairs"]
    assert isinstance(teacher.samples, PairSamples)
    assert torch.equal(samples.pairs, teacher.samples.pairs[teacher.indices[:3_000]])
    with pytest.raises(RecipeError, match="num_train=60001: expected 1 to 60000 pairs"):
        load_data("p100", root=str(shared_data), pairs="teacher", num_train=60_001)


def test_adult_is_encoded_by_its_train_rows_alone(shared_data: Path, tmp_path: Path) -> None:
    """Other people in the test file (older, richer, of unknown places) change no train input."""
    pd = pytest.importorskip("pandas")
    folder = shared_data / "tabular" / "adult"
    table = pd.read_csv(folder / "train.csv.gz", header=None, skipinitialspace=True)
    table.iloc[:3000].to_csv(tmp_path / "train.csv", header=False, index=False)
    later = table.iloc[3000:3200].reset_index(drop=True)
    later.to_csv(tmp_path / "test.csv", header=False, index=False)
    bundles = []
    for _ in range(2):
        bundle = load_data(
            "table",
            path=str(tmp_path / "train.csv"),
            test_path=str(tmp_path / "test.csv"),
            header=False,
            target=-1,
            test=0.2,
        )
        bundles.append(bundle)
        later[0] += 1000
        later[13] = "Atlantis"
        later.to_csv(tmp_path / "test.csv", header=False, index=False)
    a, b = bundles
    assert a.feature_names == b.feature_names
    for part in ("train", "validation"):
        rows = torch.arange(len(a.splits[part]))
        assert torch.equal(a.splits[part].fetch(rows).inputs, b.splits[part].fetch(rows).inputs)
    rows = torch.arange(200)
    first, second = a.splits["test"].fetch(rows).inputs, b.splits["test"].fetch(rows).inputs
    age = a.feature_names.index("0")
    assert (second[:, age] > first[:, age] + 10).all()
    places = [k for k, name in enumerate(a.feature_names) if name.startswith("13=")]
    assert (second[:, places] == 0).all()
