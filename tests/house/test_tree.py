"""The tree as a stranger finds it: small files, no machine's names, everything that a house has."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 450  # lines of a source file; 40 to 150 are usual

# Spelled in pieces, so that this file does not find itself.
MACHINE = re.compile(r"(?<![\w.<])/(?:" + "|".join(["work", "root", "home", "Users"]) + r")/[\w.]")
INDEX = re.compile(
    "|".join(
        [
            "python" + "hosted",
            "pypi" + r"\.org/simple",
            "download" + r"\.pytorch",
            "index" + "-url",
            "arti" + "factory",
        ]
    ),
    re.I,
)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that git has, or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout: there is no list of files")
    names = [name for name in done.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def _texts(files: list[Path]) -> dict[Path, str]:
    found = {}
    for path in files:
        try:
            found[path.relative_to(ROOT)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


@pytest.mark.parametrize("pattern", [MACHINE, INDEX], ids=["paths", "indexes"])
def test_no_file_names_a_machine(files: list[Path], pattern: re.Pattern[str]) -> None:
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in _texts(files).items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "hit"),
    [
        ("x = '/" + "work/main'", True),
        ("see homework/x and net/work", False),
        ("/" + "root/.cache", True),
    ],
)
def test_the_pattern_for_paths_finds_paths(line: str, hit: bool) -> None:
    assert bool(MACHINE.search(line)) is hit


def test_source_files_are_short(files: list[Path]) -> None:
    sources = [path for path in files if path.suffix == ".py"]
    assert sources
    long = {str(p.relative_to(ROOT)): n for p in sources if (n := _length(p)) > LONGEST}
    assert not long


def _length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_large(files: list[Path]) -> None:
    large = {
        str(p.relative_to(ROOT)): p.stat().st_size for p in files if p.stat().st_size > 500_000
    }
    assert not large


def test_no_room_is_called_utils(files: list[Path]) -> None:
    dumps = {"utils", "util", "core", "helpers", "misc"}
    found = [p for p in files if "src" in p.parts and dumps & {p.stem, *p.relative_to(ROOT).parts}]
    assert not found


def test_tests_have_names_of_their_own(files: list[Path]) -> None:
    names = [p.name for p in files if p.name.startswith("test_") and p.suffix == ".py"]
    assert len(names) == len(set(names)), sorted({n for n in names if names.count(n) > 1})


def test_what_a_house_has() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:300]
    for name in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "SECURITY.md"]:
        assert (ROOT / name).stat().st_size > 200, name
    assert (ROOT / "src" / "limbeck" / "py.typed").is_file()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_contributing_is_one_page() -> None:
    assert _length(ROOT / "CONTRIBUTING.md") <= 75
