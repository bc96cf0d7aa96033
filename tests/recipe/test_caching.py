"""`limbeck cache`, and caches in recipes: what is captured, told, read again and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import LimbeckError
from limbeck.recipe import build_plan, load_recipe
from limbeck.recipe.caching import cache_recipe
from limbeck.recipe.resolved import recipe_digest, resolved
from limbeck.recipe.running import run_recipe
from limbeck.teachers import CachedTeacher, CalibratedTeacher
from limbeck.teachers.cache import read_manifest

NET = {"model": "cnn", "channels": [2, 4], "weights": "random"}
BASE: dict[str, Any] = {
    "name": "cached",
    "data": {"name": "digits", "num_train": 100, "augment": ["flip"]},
    "teacher": {"cache": NET},
    "student": {"model": "mlp", "widths": [8]},
    "method": "kd",
    "train": {"epochs": 3, "batch_size": 50, "views": 2, "log_every": 1},
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def recipe(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


def captured(source: Any, overrides: Any = (), **options: Any) -> tuple[list[Path], list[str]]:
    lines: list[str] = []
    return cache_recipe(source, overrides, say=lines.append, **options), lines


def losses(run: Path) -> list[Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


def test_captured_by_the_command_and_read_by_the_run(tmp_path: Path) -> None:
    (folder,), lines = captured(recipe())
    assert list(read_manifest(folder).views) == ["0", "1"]
    assert any(line.startswith("bits ") and "bit for bit" in line for line in lines)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    said: list[str] = []
    run_recipe(recipe(), output="cached", quiet=False, say=said.append)
    run_recipe(recipe(teacher=NET), output="live", quiet=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")
    assert not any("asks the teacher" in line for line in said)


def test_the_first_run_captures_and_says_so() -> None:
    said: list[str] = []
    run_recipe(recipe(), output="first", say=said.append)
    asked = [line for line in said if "asks the teacher about view" in line]
    assert len(asked) == 2
    assert (
        "teacher: asks the teacher about view 1 (2 of 2): 100 samples, kept as float32" in asked[1]
    )
    _, lines = captured(recipe(), info=True)
    assert any("views 0, 1 of seed 0" in line for line in lines)


def test_a_plain_teacher_is_captured_and_the_recipe_told_how_to_read_it() -> None:
    (plain,), lines = captured(recipe(teacher=NET))
    assert lines[-1] == "a run reads it where its recipe says: teacher: {cache: <the teacher>}"
    (written,), _ = captured(recipe())
    assert written == plain


def test_features_that_the_methods_tap_are_captured_too() -> None:
    (folder,), lines = captured(recipe(method="fitnet", student="cnn"))
    assert len(read_manifest(folder).key["outputs"]) == 2
    assert any("features of" in line and "as float16" in line for line in lines)


def test_each_cache_of_several_teachers_nested_ones_too() -> None:
    two = {"big": {"calibrated": {"cache": NET}}, "small": {"cache": NET, "codec": "float16"}}
    methods = [{"name": "kd", "teacher": "big"}, {"name": "kd", "teacher": "small"}]
    given = {key: value for key, value in BASE.items() if key != "teacher"}
    folders, _ = captured({**given, "teachers": two, "method": methods})
    assert len(set(folders)) == 2
    plan = build_plan(load_recipe({**given, "teachers": two, "method": methods}))
    assert isinstance(plan.teachers["big"], CalibratedTeacher)
    assert isinstance(plan.teachers["small"], CachedTeacher)


def test_verify_and_info_look_and_capture_nothing(tmp_path: Path) -> None:
    for options in ({"info": True}, {"check": True}):
        with pytest.raises(LimbeckError, match="not captured yet"):
            captured(recipe(), **options)
    assert not (tmp_path / "home").exists()
    (folder,), _ = captured(recipe())
    _, lines = captured(recipe(), check=True)
    assert lines == [
        f"view {view}: 1 shard, {size(folder, view)} bytes, as written" for view in (0, 1)
    ]
    assert captured(folder, check=True)[1] == lines
    shard = folder / "view-0001" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(LimbeckError, match=r"view-0001/00000.safetensors is damaged"):
        captured(folder, check=True)
    with pytest.raises(LimbeckError, match="a folder is not captured"):
        captured(folder)
    with pytest.raises(LimbeckError, match=r"has no manifest.json"):
        captured(tmp_path, info=True)


def test_the_command_sees_damage_and_repairs_it(tmp_path: Path) -> None:
    (folder,), _ = captured(recipe())
    before = {path.name: path.read_bytes() for path in folder.rglob("*.*")}
    _, lines = captured(recipe(), repair=True)
    assert lines[0] == "teacher: nothing is damaged"
    shard = folder / "view-0001" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(LimbeckError, match=r"is damaged: .*--repair"):
        captured(recipe())
    _, lines = captured(recipe(), repair=True)
    assert lines[0] == "teacher: captures again: view-0001/00000.safetensors"
    assert {path.name: path.read_bytes() for path in folder.rglob("*.*")} == before
    with pytest.raises(LimbeckError, match="leave out --info and --verify"):
        captured(recipe(), repair=True, check=True)


def size(folder: Path, view: int) -> str:
    return f"{(folder / f'view-{view:04d}' / '00000.safetensors').stat().st_size:,}"


def test_the_place_of_a_cache_changes_nothing_about_the_recipe() -> None:
    one = recipe(teacher={"cache": NET, "folder": "here", "budget": "1GB"})
    loaded = load_recipe(one)
    assert Path(loaded.teacher.folder).is_absolute()
    digest = recipe_digest(resolved(loaded))
    assert digest == recipe_digest(resolved(load_recipe(recipe())))
    other = recipe(teacher={"cache": NET, "codec": "float16"})
    assert digest != recipe_digest(resolved(load_recipe(other)))


def test_the_summary_of_a_plan_and_of_a_report_say_it() -> None:
    from limbeck.recipe.summary import describe_plan
    from limbeck.reports.describe import _teacher_source

    lines = describe_plan(build_plan(load_recipe(recipe())))
    assert any("asked once about each view, kept as float32: CNN" in line for line in lines)
    assert _teacher_source({"cache": {"model": "cnn"}}) == "cnn, cached"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"views": None}}, "nothing to save.*train.views=4"),
        ({"teacher": {"cache": {"snapshot": {}}}}, "teacher.cache: this teacher changes"),
        ({"teacher": {"cache": {"ema": {}}}}, "teacher.cache: this teacher changes"),
        ({"teacher": {"cache": {"cache": NET}}}, "teacher.cache: a cache around a cache"),
        ({"teacher": {"cache": NET, "codec": "topk"}}, "temperature 4, but the cache of teacher"),
        ({"teacher": {"cache": NET, "codec": "topkk"}}, "codec.name: .*did you mean 'topk'"),
        (
            {"teacher": {"cache": NET, "codec": {"name": "topk", "k": 0}}},
            "codec.k: expected a whole",
        ),
        ({"teacher": {"cache": NET, "codec": {"kk": 0}}}, "unknown key 'kk': did you mean 'k'"),
        ({"teacher": {"cache": NET, "budget": "much"}}, "teacher.budget: expected bytes or a size"),
        (
            {"teacher": {"cache": {"train": {"method": "plain"}, "inputs": "clean"}}},
            "teacher.cache.inputs: unknown key 'inputs': did you mean teacher.inputs, further out",
        ),
        ({"teacher": {"cache": NET, "inputs": "clear"}}, "teacher.inputs: .*did you mean 'clean'"),
        ({"method": "e2kd", "student": "cnn"}, "for gradients, which a cache does not keep"),
        (
            {"teacher": {"calibrated": {"cache": NET, "codec": "topk"}}},
            "teacher.calibrated: a cache that keeps some classes only",
        ),
        (
            {"teacher": {"ensemble": [{"cache": NET, "codec": "sampled"}]}},
            "teacher.ensemble.0: a cache that keeps some classes only",
        ),
        (
            {"teacher": {"cache": NET, "inputs": "clean"}, "method": ["kd", "kcd"]},
            "teacher.inputs: method kcd changes samples",
        ),
        (
            {"teacher": {"cache": NET, "codec": "topk"}, "method": "fitnet", "student": "cnn"},
            "asks for features of teacher 'teacher', which gives sparse only",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(LimbeckError, match=message) as refused:
        build_plan(load_recipe(recipe(**changes)))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "home").exists()


def test_a_recipe_without_a_teacher_to_ask_is_refused() -> None:
    given = {key: value for key, value in BASE.items() if key != "teacher"}
    with pytest.raises(LimbeckError, match="names none to ask"):
        captured({**given, "method": "plain"})
    with pytest.raises(LimbeckError, match="changes during the run"):
        captured(recipe(teacher={"snapshot": {}}))


def test_classes_that_are_none_cannot_be_kept_sparsely() -> None:
    table = {"name": "table", "path": _table(), "target": "y", "task": "regression"}
    teacher = {"cache": {"model": "mlp", "weights": "random"}, "codec": "topk"}
    method = {"name": "kd", "temperature": 1}
    with pytest.raises(LimbeckError, match="a distribution over classes; regression needs float32"):
        build_plan(load_recipe(recipe(data=table, teacher=teacher, method=method)))


def _table() -> str:
    path = Path("table.csv").absolute()
    rows = "\n".join(f"{i / 7},{i * 0.31}" for i in range(40))
    path.write_text(f"x,y\n{rows}\n")
    return str(path)
