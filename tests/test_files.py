"""Files are written whole or not at all."""

import json
from pathlib import Path

import pytest

from limbeck.errors import StorageError
from limbeck.files import digest, storage_errors, write_json, write_text, written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    with written_whole(path) as aside:
        aside.write_text("tw")
        assert path.read_text() == "one"
        assert aside.parent == path.parent
    assert path.read_text() == "tw"
    assert names(path.parent) == ["a.txt"]
    write_json(path, {"b": 1, "a": "ä"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": "ä"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_half_way_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "one")
    with pytest.raises(error), written_whole(path) as aside:  # noqa: PT012
        aside.write_text("half")
        raise error
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (28, "no space left on the device"),
        (13, "no permission to write there"),
        (30, "the file system is read-only"),
    ],
)
def test_system_errors_are_one_line_with_path_and_reason(
    tmp_path: Path, number: int, reason: str
) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path / "x", "Make room."):
        raise OSError(number, "words of the system")
    assert str(caught.value) == f"cannot write {tmp_path / 'x'}: {reason}. Make room."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="no space left"),
        written_whole(tmp_path / "a"),
        Path("/dev/full").open("w") as file,
    ):
        file.write("x")
    assert names(tmp_path) == []


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "a") == expected
