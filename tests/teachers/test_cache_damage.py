"""Damage of every kind, done to a cache before it is opened: all refused, none served."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_worlds import bytes_in, cached, capture_all, digits, epoch, network, visits

from limbeck.data import DataBundle, Normalize, bundle_from
from limbeck.errors import CacheError
from limbeck.teachers import LiveTeacher
from limbeck.teachers.cache import Manifest, read_manifest, shards

QUICK, SLOW = 60, 1000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    before, shards.SHARD_ROWS = shards.SHARD_ROWS, 64
    folder = capture_all(cached(tmp_path_factory.mktemp("whole") / "c"))
    shards.SHARD_ROWS = before
    return folder


# Damage to files. Each gets the cache's folder and a source of randomness.


def _shard(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.rglob("*.safetensors")))


def flip_bits(folder: Path, rng: random.Random) -> None:
    path = rng.choice([_shard(folder, rng), folder / "manifest.json"])
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(folder: Path, rng: random.Random) -> None:
    path = rng.choice([_shard(folder, rng), folder / "manifest.json"])
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def lengthen(folder: Path, rng: random.Random) -> None:
    with _shard(folder, rng).open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 64)))


def swap(folder: Path, rng: random.Random) -> None:
    one, other = rng.sample(sorted(folder.rglob("*.safetensors")), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def lose(folder: Path, rng: random.Random) -> None:
    _shard(folder, rng).unlink()


def edit_manifest(folder: Path, rng: random.Random) -> None:
    path = folder / "manifest.json"
    found = json.loads(path.read_text())
    view = found["views"][rng.choice(["0", "1"])]
    shard = rng.choice(view["shards"])
    edits: list[Any] = [
        lambda: found["key"].update(teacher="0" * 64),
        lambda: found["key"].update(seed=rng.randint(1, 99)),
        lambda: found.update(rows=found["rows"] - 1),
        lambda: found.update(format=rng.choice([0, 2, "1"])),
        lambda: shard.update(sha256=rng.randbytes(32).hex()),
        lambda: shard.update(rows=shard["rows"] + 1),
        lambda: view["measured"].update(kl=0.5),
        lambda: view["conditions"].update(threads=99),
        lambda: found["views"].pop("0"),
        lambda: view["shards"].reverse(),
    ]
    rng.choice(edits)()
    path.write_text(json.dumps(found, indent=1) + "\n")


def exchange_views(folder: Path, rng: random.Random) -> None:
    """Signed anew: only the shards themselves can tell."""
    found = read_manifest(folder)
    views = {"0": found.views["1"], "1": found.views["0"]}
    Manifest(found.key, found.about, found.rows, found.classes, views).write(folder)


def exchange_shards(folder: Path, rng: random.Random) -> None:
    """Likewise, within a view."""
    found = read_manifest(folder)
    shards = list(found.views["0"]["shards"])
    i, j = rng.sample(range(3), 2)  # full ones
    shards[i], shards[j] = shards[j], shards[i]
    views = {**found.views, "0": {**found.views["0"], "shards": shards}}
    Manifest(found.key, found.about, found.rows, found.classes, views).write(folder)


FILES = (exchange_views, exchange_shards, flip_bits, truncate, lengthen, swap, lose, edit_manifest)


# Another question to a whole cache.


def other_weights(rng: random.Random) -> dict[str, Any]:
    module = network()
    parameter = rng.choice([p for p in module.parameters() if p.numel()])
    with torch.no_grad():
        parameter.view(-1)[rng.randrange(parameter.numel())] += 1e-3
    return {"teacher": LiveTeacher(module)}


def other_normalisation(rng: random.Random) -> dict[str, Any]:
    return {"teacher": LiveTeacher(network(), normalization=Normalize((rng.random(),), (0.5,)))}


def _changed(change: Any) -> DataBundle:
    """The digits again, raw, with something changed in samples or labels."""
    train, steps = digits().splits["train"], ["flip", {"crop": 1}]
    x, y = train.samples.fetch(torch.arange(len(train.samples)))
    x, y = change(x.clone(), y.clone())
    data = digits()
    return bundle_from(
        (x, y), splits=data.record, augment=steps, normalization=data.normalization, num_classes=10
    )


def reordered(rng: random.Random) -> dict[str, Any]:
    def change(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, j = rng.sample(range(len(x)), 2)
        x[[i, j]], y[[i, j]] = x[[j, i]], y[[j, i]]
        return x, y

    return {"data": _changed(change)}


def other_label(rng: random.Random) -> dict[str, Any]:
    place = int(rng.choice(digits().splits["train"].indices.tolist()))

    def change(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y[place] = (y[place] + rng.randint(1, 9)) % 10
        return x, y

    return {"data": _changed(change)}


def other_pixel(rng: random.Random) -> dict[str, Any]:
    def change(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.view(-1)
        place = rng.randrange(len(flat))
        flat[place] = flat[place] + 1 if flat[place] < 10 else flat[place] - 1
        return x, y

    return {"data": _changed(change)}


def other_augmentation(rng: random.Random) -> dict[str, Any]:
    return {"data": digits(augment=rng.choice([("flip",), ("flip", {"crop": 2}), ({"crop": 1},)]))}


def other_seed(rng: random.Random) -> dict[str, Any]:
    return {"look": visits(seed=rng.randint(1, 2**31))}


QUESTIONS = (
    other_weights, other_normalisation, reordered, other_label, other_pixel, other_augmentation,
    other_seed,
)  # fmt: skip


def refused(folder: Path, **options: Any) -> str:
    """Ask everything of every view; return the refusal. A damaged view answers nothing."""
    teacher = cached(folder, **options)
    data, seed = options.get("data") or digits(), options.get("look", visits()).seed
    answers: dict[int, int] = {0: 0, 1: 0}

    def ask_all() -> None:
        for number in answers:
            for batch in epoch(data, number, seed=seed):
                teacher.ask(batch)
                answers[number] += 1

    with pytest.raises(CacheError) as refusal:
        ask_all()
    assert answers in ({0: 0, 1: 0}, {0: 8, 1: 0})  # view 0 whole, or nothing
    return str(refusal.value)


def _damage(whole: Path, place: Path, trial: int) -> None:
    rng = random.Random(trial)
    kinds = FILES + QUESTIONS
    kind = kinds[trial % len(kinds)]
    if kind in QUESTIONS:
        before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
        said = refused(whole, **kind(rng))
        assert "differs" in said
        assert "this run has" in said
        assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
        return
    folder = place / "c"
    shutil.copytree(whole, folder)
    kind(folder, rng)
    said = refused(folder)
    assert "\n" not in said
    assert "capture anew" in said
    shutil.rmtree(folder)


@pytest.mark.parametrize("trial", range(QUICK))
def test_damage_is_refused(trial: int, whole: Path, tmp_path: Path) -> None:
    _damage(whole, tmp_path, trial)


@pytest.mark.slow
def test_a_thousand_kinds_of_damage_are_refused(whole: Path, tmp_path: Path) -> None:
    for trial in range(SLOW):
        _damage(whole, tmp_path, trial)


def test_the_whole_one_is_served_and_the_changed_data_differ_in_the_change_alone(
    whole: Path,
) -> None:
    live = LiveTeacher(network())
    for data in (digits(), _changed(lambda x, y: (x, y))):
        teacher = cached(whole, data=data)
        batch = epoch(data)[0]
        assert torch.equal(teacher.ask(batch).logits, live.ask(batch).logits)


def test_a_key_that_was_signed_anew_serves_no_other_teacher(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "c"))
    found, other = read_manifest(folder), LiveTeacher(network(2))
    key = {**found.key, "teacher": other.fingerprint()}
    Manifest(key, found.about, found.rows, found.classes, found.views).write(folder)
    teacher = cached(folder, other)
    with pytest.raises(CacheError, match=r"00000\.safetensors is of another place: its cache is"):
        teacher.ask(epoch(digits())[0])


@pytest.mark.parametrize("damage", [lose, flip_bits, truncate])
def test_a_repair_asks_about_damaged_shards_alone(
    damage: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    folder = Path(shutil.copytree(whole, tmp_path / "c"))
    rng = random.Random(1)
    while bytes_in(folder)["manifest.json"] != bytes_in(whole)["manifest.json"] or (
        bytes_in(folder) == bytes_in(whole)
    ):  # until it hits a shard
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        damage(folder, rng)
    teacher, asked = cached(folder), []
    monkeypatch.setattr(
        teacher.inner,
        "ask",
        lambda batch, **k: asked.append(batch) or LiveTeacher.ask(inner, batch),
    )
    inner = teacher.inner
    assert len(teacher.repair()) == 1
    assert len(read_manifest(folder).views) == 1
    capture_all(teacher)
    assert bytes_in(folder) == bytes_in(whole)
    assert len(asked) <= 4  # two questions of the probe; two batches a shard
    assert teacher.repair() == []


def test_a_manifest_that_was_signed_anew_reaches_nothing_outside(
    whole: Path, tmp_path: Path
) -> None:
    folder, victim = Path(shutil.copytree(whole, tmp_path / "c")), tmp_path / "victim.txt"
    victim.write_text("precious")
    found = read_manifest(folder)
    for change in ({"file": "../victim.txt"}, None):
        listed = list(found.views["0"]["shards"])
        listed = listed[:-1] if change is None else [{**listed[0], **change}, *listed[1:]]
        views = {**found.views, "0": {**found.views["0"], "shards": listed}}
        Manifest(found.key, found.about, found.rows, found.classes, views).write(folder)
        for use in (cached(folder).repair, lambda: cached(folder).ask(epoch(digits())[0])):
            with pytest.raises(CacheError, match="lists other shards than view 0 has"):
                use()
    assert victim.read_text() == "precious"


def test_a_repair_under_other_conditions_says_what_it_asks_about(
    whole: Path, tmp_path: Path
) -> None:
    folder, lines = Path(shutil.copytree(whole, tmp_path / "c")), []
    lose(folder, random.Random(0))
    teacher = cached(folder, look=visits(rows=16), say=lines.append)
    assert len(teacher.repair()) == 1
    assert "captured with batch 32 (now 16)" in lines[0]
    assert "all of it is asked about again" in lines[0]


def test_an_older_or_newer_format_says_what_to_do(whole: Path, tmp_path: Path) -> None:
    for format, advice in ((0, "capture anew"), (2, "upgrade Limbeck")):
        found = json.loads((whole / "manifest.json").read_text())
        (tmp_path / "manifest.json").write_text(json.dumps({**found, "format": format}))
        with pytest.raises(CacheError, match=f"format {format}, expected 1.*{advice}"):
            read_manifest(tmp_path)
    with pytest.raises(CacheError, match=r"has no manifest.json"):
        read_manifest(tmp_path / "nothing")


def test_a_damaged_shard_of_an_unfinished_view_is_captured_again(tmp_path: Path) -> None:
    folder = capture_all(cached(tmp_path / "a"))
    other = capture_all(cached(tmp_path / "b"))
    manifest = read_manifest(other)
    unfinished = Manifest(manifest.key, manifest.about, manifest.rows, manifest.classes)
    unfinished.write(other)
    for seed in range(3):
        flip_bits_of_shard = _shard(other, random.Random(seed))
        content = bytearray(flip_bits_of_shard.read_bytes())
        content[-5] ^= 4
        flip_bits_of_shard.write_bytes(content)
    capture_all(cached(other))
    assert (other / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()
