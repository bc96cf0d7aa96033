"""The public surface is small, and changes on purpose only."""

from pathlib import Path

import limbeck

SNAPSHOT = Path(__file__).parent / "public_surface.txt"


def _listed() -> list[str]:
    lines = SNAPSHOT.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_public_names_are_those_of_the_snapshot() -> None:
    assert sorted(limbeck.__all__) == _listed(), f"a change of surface: edit {SNAPSHOT.name} too"


def test_every_public_name_is_there_and_documented() -> None:
    for name in limbeck.__all__:
        value = getattr(limbeck, name)
        assert name.startswith("__") or value.__doc__, f"limbeck.{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(limbeck, "no_such_name")
