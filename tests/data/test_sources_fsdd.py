"""Spoken digits: spectrograms against naive loops, one content in two forms of files, errors."""

import math
import re
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.data import DataBundle, load_data
from limbeck.data.sources.mel import FLOOR, log_mel, mel_bands, num_samples
from limbeck.errors import DataError, RecipeError
from limbeck.models import CNN

ARCHIVE = "fsdd_8k_int16.npz"
PARTS = {"train": 2_400, "validation": 300, "test": 300}


# spectrograms, on made-up sounds


def naive_points() -> list[float]:
    """The 42 corners of the triangles in Hz, after HTK's scale."""
    highest = 2595 * math.log10(1 + 4000 / 700)
    return [700 * (10 ** (k * highest / 41 / 2595) - 1) for k in range(42)]


def naive_log_mel(sound: np.ndarray) -> np.ndarray:
    """Written from the definition alone: sums for the transform, triangles by cases, float64."""
    points, frames = naive_points(), 1 + (len(sound) - 200) // 80
    answer = np.zeros((40, frames))
    n = np.arange(200)
    for t in range(frames):
        shown = sound[80 * t : 80 * t + 200] * (0.5 - 0.5 * np.cos(2 * np.pi * n / 200))
        for k in range(129):
            real = sum(shown * np.cos(2 * np.pi * k * n / 256))
            imaginary = sum(shown * np.sin(2 * np.pi * k * n / 256))
            f = 31.25 * k
            for band in range(40):
                low, centre, high = points[band : band + 3]
                weight = 0.0
                if low < f <= centre:
                    weight = (f - low) / (centre - low)
                elif centre < f < high:
                    weight = (high - f) / (high - centre)
                answer[band, t] += weight * (real**2 + imaginary**2)
    return np.log(answer + 1e-6)


def test_a_spectrogram_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    sound = (3_000 * rng.standard_normal(num_samples(4) + 79)).astype(np.int16)
    expected = naive_log_mel(sound / 32_768)
    assert expected.shape == (40, 4)
    found = log_mel(torch.from_numpy(sound)[None])[0]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=1e-4)
    floats = log_mel(torch.from_numpy(sound / 32_768)[None])[0]
    assert torch.equal(floats, found)


def test_bands_are_triangles_that_add_up_to_one_between_the_first_and_last_centre() -> None:
    weights, points = mel_bands(), naive_points()
    assert weights.shape == (40, 129)
    assert float(weights.min()) == 0
    assert float(weights.max()) <= 1
    for k in range(129):
        if points[1] <= 31.25 * k <= points[-2]:
            assert float(weights[:, k].sum()) == pytest.approx(1, abs=1e-12)
    assert bool((weights.sum(dim=1) > 0).all())  # none falls between two frequencies


@pytest.mark.parametrize("amplitude", [0.5, 1e-3])
def test_a_tone_lands_in_the_band_whose_centre_it_has(amplitude: float) -> None:
    time = torch.arange(num_samples(3), dtype=torch.float64) / 8_000
    centres = torch.tensor(naive_points()[1:-1], dtype=torch.float64)
    tones = amplitude * (2 * math.pi * centres[:, None] * time).sin()
    assert torch.equal(log_mel(tones).mean(dim=2).argmax(dim=1), torch.arange(40))


def test_silence_is_the_floor_and_what_comes_before_it_stays() -> None:
    sound = torch.randint(-9_000, 9_000, (1, num_samples(5)), dtype=torch.int16)
    longer = torch.nn.functional.pad(sound, (0, 10 * 80))
    both = log_mel(longer)
    assert both.shape == (1, 40, 15)
    torch.testing.assert_close(both[:, :, :5], log_mel(sound))
    assert float(both[:, :, 6].min()) > math.log(FLOOR) + 1  # it still hears the sound's end
    torch.testing.assert_close(both[:, :, 7:], torch.full((1, 40, 8), math.log(FLOOR)))


# the data set: made-up recordings of two speakers


def write_wav(path: Path, sound: np.ndarray, rate: int = 8_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Takes 0, 5, 10 and 11 of two digits by two speakers, as the repository has them."""
    rng = np.random.default_rng(1)
    for digit in (0, 7):
        for speaker in ("theo", "anna"):
            for take in (0, 5, 10, 11):
                sound = rng.integers(-5_000, 5_000, 900 + 100 * take)
                write_wav(tmp_path / "recordings" / f"{digit}_{speaker}_{take}.wav", sound)
    return tmp_path


def load(folder: Path, **options: object) -> DataBundle:
    return load_data("fsdd", root=str(folder), **{"frames": 8, **options})


def whole(bundle: DataBundle, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    view = bundle.splits[part]
    batch = view.fetch(torch.arange(len(view)))
    assert batch.targets is not None
    return batch.inputs, batch.targets


def logarithms(bundle: DataBundle, part: str) -> np.ndarray:
    """The part's inputs before they were standardised, by what ``describe`` says, float64."""
    told = re.search(r"mean (\S+), std (\S+) in train", bundle.describe())
    assert told is not None
    mean, spread = map(float, told.groups())
    return whole(bundle, part)[0][:, 0].double().numpy() * spread + mean


def test_a_folder_of_wav_files(folder: Path) -> None:
    bundle = load(folder)
    line = bundle.describe()
    assert line.startswith(
        "fsdd: classification, 10 classes, input 1x40x8; train 8; validation 4; test 4; "
        "log-mel power, standardised: mean "
    )
    assert line.endswith(" in train; 16 of 3,000 recordings")
    assert bundle.group_names == ("anna", "theo")
    assert whole(bundle, "train")[1].tolist() == [0, 0, 0, 0, 7, 7, 7, 7]
    assert bundle.groups["train"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    with wave.open(str(folder / "recordings" / "7_anna_0.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert len(sound) > num_samples(8)  # cut off at the end
    place = bundle.groups["test"].tolist().index(0, 2)
    expected = naive_log_mel(sound[: num_samples(8)] / 32_768)
    found = logarithms(bundle, "test")[place]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    padded = logarithms(load(folder, frames=30), "test")[place]
    np.testing.assert_allclose(padded[:, :8], expected, rtol=0, atol=1e-4)
    last = math.ceil(len(sound) / 80)
    np.testing.assert_allclose(padded[:, last:], math.log(1e-6), rtol=0, atol=1e-4)
    assert padded[:, last - 2].min() > math.log(1e-6) + 1


def test_classes_of_digit_and_speaker(folder: Path) -> None:
    bundle = load(folder, classes="digit-speaker")
    assert bundle.num_classes == 20
    assert bundle.class_names[:3] == ("0 anna", "0 theo", "1 anna")
    assert [bundle.class_names[k] for k in whole(bundle, "test")[1].tolist()] == [
        "0 anna",
        "0 theo",
        "7 anna",
        "7 theo",
    ]
    assert bundle.superclasses["digit"].tolist() == [k // 2 for k in range(20)]
    assert bundle.superclasses["speaker"].tolist() == [0, 1] * 10


def test_the_fingerprint_is_the_contents(folder: Path) -> None:
    found = load(folder).fingerprint()
    moved = folder / "elsewhere" / "free-spoken-digit-dataset"
    shutil.copytree(folder / "recordings", moved / "recordings")
    assert load(folder / "elsewhere").fingerprint() == found
    assert load(folder, frames=9).fingerprint() != found
    assert load(folder, classes="digit-speaker").fingerprint() != found
    write_wav(moved / "recordings" / "0_theo_10.wav", np.ones(1_900))
    assert load(folder / "elsewhere").fingerprint() != found


def test_options_of_every_source_reach_it(folder: Path) -> None:
    options = {"label_noise": 0.5, "num_train": 6, "validation": 2}
    bundle = load(folder, **options, augment=[{"noise": 0.1}, {"cutout": 3}, {"mixup": 0.2}])
    assert [len(view) for view in bundle.splits.values()] == [6, 2, 4]
    assert len(bundle.relabelled) == 3
    names = {next(iter(step)) for step in bundle.augment_train.spec}
    assert names == {"noise", "cutout", "mixup"}
    # statistics are those of all training takes, whatever is drawn from them
    all_of_them = load(folder)
    for part in PARTS:
        one, two = bundle.splits[part].samples, all_of_them.splits[part].samples
        assert torch.equal(one.inputs, two.inputs)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"classes": "digit-speeker"}, "unknown classes 'digit-speeker': did you mean 'digit-sp"),
        ({"classes": "speaker"}, "data.classes: unknown classes 'speaker'"),
        ({"frames": 0}, "data.frames: expected a number of at least 1, got 0"),
        ({"frames": True}, "data.frames: expected a number of at least 1, got True"),
        ({"frames": "64"}, "data.frames: expected a number of at least 1, got '64'"),
        ({"augment": ["flip"]}, "data.augment: 'flip' does not suit spectrograms; noise, cutout"),
        ({"augment": [{"crop": 4}]}, "data.augment: 'crop' does not suit spectrograms"),
        ({"augment": [{"rotate": 9}]}, "data.augment: 'rotate' does not suit spectrograms"),
        ({"augment": ["trim"]}, "data.augment: 'trim' does not suit spectrograms"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    folder: Path, options: dict[str, object], line: str
) -> None:
    with pytest.raises(RecipeError, match=line) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)


STEREO = r"1_anna_0\.wav: 8000 Hz, 2 channels, 16 bits; expected 8000 Hz, 1 channel, 16 bits"


@pytest.mark.parametrize(
    ("name", "form", "line"),
    [
        ("1_anna_0.wav", {"rate": 16_000}, r"1_anna_0\.wav: 16000 Hz, 1 channel, 16 bits; exp"),
        ("1_anna_0.wav", {"channels": 2}, STEREO),
        ("one.wav", {}, r"one\.wav: expected a name like 7_jackson_32\.wav"),
    ],
)
def test_sounds_of_another_form_are_named(
    folder: Path, name: str, form: dict[str, int], line: str
) -> None:
    write_wav(folder / "recordings" / name, np.zeros(800), **form)
    with pytest.raises(DataError, match=line) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"no sound at all, but text of some length", None]
)
def test_a_file_that_is_no_sound_is_named(folder: Path, content: bytes | None) -> None:
    whole_file = (folder / "recordings" / "0_anna_0.wav").read_bytes()
    wrong = whole_file[:-2] if content is None else content
    (folder / "recordings" / "1_anna_0.wav").write_bytes(wrong)
    with pytest.raises(DataError, match=r"1_anna_0\.wav cannot be read as a wav file: .+"):
        load(folder)


def test_missing_files_and_parts_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"not found \(looked in .*nowhere") as caught:
        load(tmp_path / "nowhere")
    assert "pass data.root=FOLDER, or set LIMBECK_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    with pytest.raises(DataError, match=r"looked in no folder"):
        load_data("fsdd")
    monkeypatch.setenv("LIMBECK_DATA", str(folder))
    assert len(load_data("fsdd").splits["train"]) == 8
    for file in (folder / "recordings").glob("*_5.wav"):
        file.unlink()
    with pytest.raises(DataError, match="no recording of takes 5 to 9, which are validation"):
        load(folder)


def archive(**changes: object) -> dict[str, object]:
    fields = {
        "wav": np.arange(60, dtype=np.int16),
        "offsets": np.array([0, 20, 40, 60]),
        "digit": np.array([3, 1, 2]),
        "speaker": np.array([0, 1, 0]),
        "take": np.array([0, 5, 10]),
        "speakers": np.array(["theo", "anna"]),
        "sample_rate": np.array(8_000),
    }
    return {key: value for key, value in {**fields, **changes}.items() if value is not None}


def test_an_archive_is_read_by_the_names_of_its_speakers(tmp_path: Path) -> None:
    np.savez(tmp_path / ARCHIVE, **archive())
    bundle = load(tmp_path)
    assert bundle.group_names == ("anna", "theo")
    assert [bundle.groups[part].tolist() for part in PARTS] == [[1], [0], [1]]
    assert [whole(bundle, part)[1].tolist() for part in PARTS] == [[2], [1], [3]]


def test_silence_alone_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / ARCHIVE, **archive(wav=np.zeros(60, np.int16)))
    with pytest.raises(DataError, match="all training recordings are silent"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"take": None}, "take is not a file in the archive"),
        ({"sample_rate": np.array(16_000)}, "16000 Hz, int16; expected 8000 Hz, int16"),
        ({"wav": np.zeros(60)}, "8000 Hz, float64; expected 8000 Hz, int16"),
        ({"digit": np.array([3, 1])}, "wav, offsets, digit, speaker and take do not fit"),
        ({"offsets": np.array([0, 20, 40, 59])}, "wav, offsets, digit, speaker and take do not"),
        ({"offsets": np.array([0, 40, 20, 60])}, "wav, offsets, digit, speaker and take do not"),
        ({"offsets": np.array([0.0, 20, 40, 60])}, "as rows of integers"),
        ({"digit": np.array([[3], [1], [2]])}, "as rows of integers"),
        ({"digit": np.array([3, 10, 2])}, "wav, offsets, digit, speaker and take do not fit"),
        ({"speaker": np.array([0, 2, 0])}, "wav, offsets, digit, speaker and take do not fit"),
        ({"speakers": np.array([{}, {}])}, "is damaged or unreadable: Object arrays cannot"),
    ],
)
def test_a_damaged_archive_is_told(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    np.savez(tmp_path / ARCHIVE, **archive(**changes))
    with pytest.raises(DataError, match=line):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut short", b"words"])
def test_a_file_that_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ARCHIVE).write_bytes(content)
    with pytest.raises(DataError, match=rf"{ARCHIVE} is damaged or unreadable: ."):
        load(tmp_path)


# the real recordings


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Path:
    path = shared_data / "audio-fsdd"
    if not (path / ARCHIVE).is_file():
        pytest.skip(f"no {ARCHIVE} in the data folder")
    return path


@pytest.fixture(scope="module")
def bundle(real: Path) -> DataBundle:
    return load_data("fsdd", root=str(real.parent), classes="digit-speaker")


def test_parts_are_whole_takes_of_every_class(bundle: DataBundle, real: Path) -> None:
    assert {part: len(view) for part, view in bundle.splits.items()} == PARTS
    assert bundle.input_shape == (1, 40, 64)
    assert bundle.describe().endswith(" in train")
    for part, size in PARTS.items():
        inputs, targets = whole(bundle, part)
        assert inputs.shape == (size, 1, 40, 64)
        assert torch.bincount(targets).tolist() == [size // 60] * 60
        assert torch.equal(bundle.groups[part], targets % 6)
    every = torch.cat([whole(bundle, part)[0].flatten(1) for part in PARTS])
    assert len(every.unique(dim=0)) == 3_000  # no recording is in two parts
    train = whole(bundle, "train")[0].double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-4)
    assert float(train.std()) == pytest.approx(1, abs=1e-4)
    assert bundle.normalization is None  # these are no pixels in [0, 1]


def test_a_wav_folder_and_the_archive_give_equal_samples(real: Path, tmp_path: Path) -> None:
    with np.load(real / ARCHIVE, allow_pickle=False) as z:
        fields = {key: z[key] for key in z.files}
    chosen = [row for row, take in enumerate(fields["take"]) if take in (0, 4, 5, 9, 10, 49)]
    pieces = [fields["wav"][slice(*fields["offsets"][row : row + 2])] for row in chosen]
    for row, piece in zip(chosen, pieces, strict=True):
        who = fields["speakers"][fields["speaker"][row]]
        name = f"{fields['digit'][row]}_{who}_{fields['take'][row]}.wav"
        write_wav(tmp_path / "fsdd" / "recordings" / name, piece)
    fields |= {key: fields[key][chosen] for key in ("digit", "speaker", "take")}
    fields |= {"wav": np.concatenate(pieces), "offsets": np.cumsum([0, *map(len, pieces)])}
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / ARCHIVE, **fields)
    folder, packed = load(tmp_path, frames=64), load(tmp_path / "other", frames=64)
    for part in PARTS:
        for one, two in zip(whole(folder, part), whole(packed, part), strict=True):
            assert torch.equal(one, two)
        assert len(folder.splits[part]) == 120
        assert torch.equal(folder.groups[part], packed.groups[part])
    assert folder.fingerprint() == packed.fingerprint()


def test_a_smaller_training_part_is_balanced_and_seeded(real: Path) -> None:
    few = {"root": str(real), "num_train": 200, "frames": 2}
    one, again, other = (load_data("fsdd", **few, seed=seed) for seed in (0, 0, 1))
    assert torch.bincount(whole(one, "train")[1]).tolist() == [20] * 10
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert torch.equal(one.splits["test"].targets, other.splits["test"].targets)


@pytest.mark.slow
def test_a_small_network_learns_the_digits(real: Path) -> None:
    run = lb.distill(
        student=CNN(10, (1, 40, 64), channels=(8, 16, 32, 64)),
        data=load_data("fsdd", root=str(real)),
        method="plain",
        epochs=4,
        batch_size=16,
        quiet=True,
    )
    assert run.metrics["accuracy"] > 0.8
    assert 0.5 < run.metrics["worst_group_accuracy"] <= run.metrics["accuracy"]
