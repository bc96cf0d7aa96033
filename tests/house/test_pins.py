"""The pins: torch first, everything that is declared, exact, and no machine's addresses."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[0-9][0-9A-Za-z.]*)$")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_line_is_an_exact_pin_without_local_suffix() -> None:
    assert [line for line in _lines() if not PIN.match(line)] == []


def test_torch_is_first_and_nothing_is_pinned_twice() -> None:
    names = [_normal(line.split("==")[0]) for line in _lines()]
    assert names[0] == "torch"
    assert len(names) == len(set(names))


def test_everything_declared_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    declared = [*project["project"]["dependencies"], *groups["dev"], *groups["docs"]]
    names = {_normal(re.split(r"[\[<>=!~; ]", item)[0]) for item in declared}
    pinned = {_normal(line.split("==")[0]) for line in _lines()}
    assert names - pinned == set()


def test_bounds_are_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for group in project["optional-dependencies"].values() for item in group]
    assert [d for d in project["dependencies"] + extras if re.search(r"<|==|~=", d)] == []


def test_the_version_is_the_same_everywhere() -> None:
    import limbeck

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert project["version"] == limbeck.__version__
    assert f"\nversion: {limbeck.__version__}\n" in citation
