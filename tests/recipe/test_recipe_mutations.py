"""300 good recipes, each damaged once: a clear line that names the key, never a traceback."""

import copy
import random
import string
from pathlib import Path
from typing import Any

import pytest
from good_recipes import GOOD

from limbeck.errors import LimbeckError
from limbeck.recipe import load_recipe
from limbeck.recipe.yaml_text import write_yaml

NUM_MUTATIONS = 300
JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    3,
    10**30,
    -(10**400),
    1e300,
    float("inf"),
    float("nan"),
    "",
    "text",
    "ünïcödé ✓ 汉字",
    "half \ud800 pair",
    "nul \0 byte",
    "line\nbreak",
    "x" * 5000,
    [],
    {},
    [1, "a", None],
    [[[[]]]],
    {"a": {"b": [1, {"c": None}]}},
    {"": 1},
    {1: 2},
    {None: 1},
    (1, 2),
    b"bytes",
    {1, 2},
]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _paths(item, (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            found += _paths(item, (*path, position))
    return found


def _holder(document: Any, path: tuple[Any, ...]) -> Any:
    for part in path[:-1]:
        document = document[part]
    return document


def _typo(name: str, rng: random.Random) -> str:
    position = rng.randrange(len(name))
    letter = rng.choice(string.ascii_lowercase + "éß_")
    edits = [
        name[:position] + name[position + 1 :],
        name[:position] + letter + name[position:],
        name[:position] + letter + name[position + 1 :],
        name.upper(),
        name + " ",
    ]
    return rng.choice([edit for edit in edits if edit not in ("", name)])


def _damage(rng: random.Random) -> tuple[dict[Any, Any], set[str]]:
    """Return a damaged recipe and the names of which one must be in the message."""
    document = copy.deepcopy(GOOD[rng.choice(list(GOOD))])
    path = rng.choice(_paths(document))
    holder, last = _holder(document, path), path[-1]
    names = [part for part in path if isinstance(part, str)]
    nearest = {names[-1]} if isinstance(last, str) else {names[-1], f"{names[-1]}.{last}"}
    kind = rng.choice(["replace", "delete", "typo", "rename", "nest", "wrap", "add"])
    if kind == "replace" or (kind in ("typo", "rename", "add") and not isinstance(last, str)):
        holder[last] = rng.choice(JUNK)
    elif kind == "delete":
        del holder[last]
        nearest.add(names[-2] if len(names) > 1 else names[-1])  # an empty list is the list's fault
    elif kind in ("typo", "rename"):
        new = _typo(last, rng) if kind == "typo" else rng.choice(["foo", "lr", "modle", "a.b", "é"])
        holder[new] = holder.pop(last)
        nearest = {new, repr(new)[1:-1]}
    elif kind == "nest":
        holder[last] = {"deeper": holder[last]}
        nearest.add("deeper")
    elif kind == "wrap":
        holder[last] = [holder[last]]
    else:
        holder["extra key"] = rng.choice(JUNK)
        nearest = {"extra key"}
    return document, nearest


def _complaint(source: Any, overrides: Any = ()) -> str | None:
    """Return what is said about a recipe; None where it is still one."""
    try:
        load_recipe(source, overrides)
    except LimbeckError as error:
        return str(error)
    return None


@pytest.mark.parametrize("part", range(10))
def test_damaged_recipes(part: int) -> None:
    refused = 0
    for seed in range(part * NUM_MUTATIONS // 10, (part + 1) * NUM_MUTATIONS // 10):
        document, names = _damage(random.Random(seed))
        message = _complaint(document)
        if message is None:
            continue
        refused += 1
        assert "\n" not in message, (seed, message)
        assert len(message) < 1000, (seed, message)
        assert any(name in message for name in names), (seed, names, message)
    assert refused > 15  # most damage is damage


def test_damaged_text(tmp_path: Path) -> None:
    """Bytes of YAML files changed at random: refused with the file's name, or still a recipe."""
    pieces = [":", "\t", "[", "}", "'", '"', "\n", "- ", "&a ", "*a", "!x ", "%", "\x00", "? ", "|"]
    path = tmp_path / "damaged.yaml"
    refused = 0
    for seed in range(100):
        rng = random.Random(1000 + seed)
        text = write_yaml(GOOD[rng.choice(list(GOOD))])
        position = rng.randrange(len(text))
        raw = (text[:position] + rng.choice(pieces) + text[position:]).encode()
        if rng.random() < 0.2:
            raw = raw[:position] + b"\xff" + raw[position:]
        path.write_bytes(raw)
        message = _complaint(path)
        refused += message is not None
        if message is not None:
            assert "\n" not in message
            assert message.startswith(str(path)), message
    assert refused > 50


def test_damaged_overrides() -> None:
    pieces = ["train", "epochs", "method", "0", "teacher", "..", "=", "[", "'", "é", "\ud800", "{a"]
    refused = 0
    for seed in range(100):
        rng = random.Random(2000 + seed)
        text = ".".join(rng.choices(pieces, k=rng.randint(1, 4))) + rng.choice(["=", "", "=3"])
        message = _complaint(GOOD[rng.choice(list(GOOD))], [text])
        refused += message is not None
        assert "\n" not in (message or "")
    assert refused > 80
