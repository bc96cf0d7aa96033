"""A cached teacher: what it answers from the cache, what it asks anew, what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_worlds import ROWS, bytes_in, cached, capture_all, digits, epoch, network, visits
from sklearn.ensemble import RandomForestClassifier
from teacher_worlds import batch_of

from limbeck.data import Batch, bundle_from
from limbeck.engine.checking import refuse_gradients, refuse_temperature
from limbeck.errors import CacheError, LimbeckError, TeacherError
from limbeck.methods.e2kd import E2KD
from limbeck.methods.kd import KD
from limbeck.teachers import (
    BlackBoxTeacher,
    CachedTeacher,
    CalibratedTeacher,
    EmaTeacher,
    EnsembleTeacher,
    LiveTeacher,
    SnapshotTeacher,
    Visits,
)
from limbeck.teachers.cache import Manifest, explain, read_manifest, shards
from limbeck.teachers.cache.reader import open_part
from limbeck.teachers.visits import ask_padded
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))


class Counting(LiveTeacher):
    """Counts how often it is asked."""

    asked = 0

    def ask(self, batch, **options):  # type: ignore[no-untyped-def]
        self.asked += 1
        return super().ask(batch, **options)


def test_every_batch_of_every_epoch_has_the_live_answer_bit_for_bit(tmp_path: Path) -> None:
    live, teacher = LiveTeacher(network()), cached(tmp_path / "c")
    for number in range(4):
        for batch in epoch(digits(), number):
            expected = ask_padded(live.ask, batch, ROWS).logits
            assert torch.equal(teacher.ask(batch).logits, expected)


def test_it_keeps_the_contract_of_teachers(tmp_path: Path) -> None:
    batch = epoch(digits())[0]
    check_teacher(cached(tmp_path / "a", taps=("stages.1",)), batch, taps=("stages.1",))
    check_teacher(cached(tmp_path / "b", codec="float16"), batch, tolerance=1e-3)


def test_the_teacher_is_asked_once_and_not_at_all_by_a_later_run(tmp_path: Path) -> None:
    inner = Counting(network())
    first = cached(tmp_path / "c", inner)
    capture_all(first)
    asked = inner.asked
    assert asked <= 2 * (8 + 3)  # eight batches a view, and what the first batch is tried for
    later = Counting(network())
    second = cached(tmp_path / "c", later)
    for number in range(4):
        for batch in epoch(digits(), number):
            assert torch.equal(second.ask(batch).logits, first.ask(batch).logits)
    assert inner.asked == asked
    assert later.asked == 0


def test_what_is_no_training_sample_is_put_to_the_teacher(tmp_path: Path) -> None:
    live, teacher, data = LiveTeacher(network()), cached(tmp_path / "c"), digits()
    batch = epoch(data)[0]
    others = {
        "evaluation": batch_of(data, "test"),
        "replaced": batch.replace(inputs=batch.inputs + 1),
        "mixed": dataclasses.replace(
            batch, inputs=batch.inputs * 0.5, changed=torch.arange(len(batch)) == 3
        ),
        "a view for the teacher": batch.replace(teacher_inputs=batch.inputs * 2, draw=batch.draw),
        "no index": batch.replace(index=None),
    }
    for name, other in others.items():
        assert torch.equal(teacher.ask(other).logits, live.ask(other).logits), name
    assert not (tmp_path / "c").exists()
    linked = teacher.ask(batch, taps=("stages.1",), require_grad=True)
    assert linked.logits.requires_grad


def test_clean_answers_are_about_the_sample_without_augmentation(tmp_path: Path) -> None:
    data = digits()
    teacher = cached(tmp_path / "c", inputs="clean", look=visits(views=None))
    live = LiveTeacher(network())
    for number in (0, 5):
        for batch in epoch(data, number, views=None)[:2]:
            raw = data.splits["train"].at(batch.index)
            clean = batch.replace(inputs=data.augment_eval(raw.inputs, batch.index))
            assert torch.equal(teacher.ask(batch).logits, live.ask(clean).logits)
    assert list(read_manifest(tmp_path / "c").views) == ["0"]
    with pytest.raises(TeacherError, match=r"inputs: method kcd changes samples"):
        cached(tmp_path / "d", inputs="clean", look=visits(changing=("kcd",)))


def test_without_randomness_there_is_one_view_whatever_the_epoch(tmp_path: Path) -> None:
    data = digits(augment=())
    teacher = cached(tmp_path / "c", data=data, look=visits(views=None, epochs=9, seed=7))
    assert teacher.num_views == 1
    for number in (0, 6):
        batch = epoch(data, number, views=None, seed=7)[0]
        assert torch.equal(teacher.ask(batch).logits, LiveTeacher(network()).ask(batch).logits)
    assert read_manifest(tmp_path / "c").key["seed"] is None


def test_features_are_kept_beside_the_logits(tmp_path: Path) -> None:
    live = LiveTeacher(network())
    live.set_taps(("stages.0", "stages.1"))
    exact = cached(tmp_path / "a", taps=("stages.0", "stages.1"), codec={"features": "float32"})
    small = cached(tmp_path / "b", taps=("stages.0", "stages.1"), codec={"features": "int8"})
    for batch in epoch(digits(), 1):
        said = ask_padded(live.ask, batch, ROWS)
        for name, value in said.features.items():
            assert torch.equal(exact.ask(batch).features[name], value)
            gap = (small.ask(batch).features[name] - value).abs().max()
            assert gap <= value.abs().max() / 127
    assert not exact.ask(batch, taps=()).features
    assert list(exact.ask(batch, taps=("stages.1",)).features) == ["stages.1"]
    assert small.access == exact.access == "features"


@pytest.mark.parametrize("codec", ["topk", "sampled"])
def test_sparse_answers_come_without_dense_rows(tmp_path: Path, codec: str) -> None:
    teacher = cached(tmp_path / "c", codec={"name": codec, "k": 3, "rounds": 9})
    batch = epoch(digits())[0]
    said = teacher.ask(batch)
    assert said.logits.shape == (ROWS, 0)
    student = torch.randn(ROWS, 10, requires_grad=True)
    term = KD(temperature=1.0)(student, said, batch)["kd"]
    term.backward()
    assert term > 0
    assert torch.isfinite(student.grad).all()
    with pytest.raises(LimbeckError, match="keeps probabilities at temperature 1"):
        KD(temperature=2.0)(student, said, batch)
    assert teacher.ask(batch_of(digits())).logits.shape == (8, 10)  # evaluation is dense
    assert not teacher.can_give("outputs")
    assert teacher.can_give("sparse")
    with pytest.raises(TeacherError, match="keeps no features"):
        teacher.set_taps(("stages.1",))
    with pytest.raises(LimbeckError, match=r"set method.temperature=1, or the cache's codec"):
        refuse_temperature(KD(), teacher.only_temperature, "big")


def test_mapped_shards_give_what_memory_gives(tmp_path: Path) -> None:
    rows = torch.randperm(230)[:70]
    for codec in ("float32", "topk", "sampled"):
        teacher = cached(tmp_path / codec, codec=codec)
        folder = capture_all(teacher)
        manifest = read_manifest(folder)
        assert len(manifest.views["0"]["shards"]) == 4
        held = open_part(folder, manifest, 1, teacher.codec).gather(rows)
        mapped = open_part(folder, manifest, 1, teacher.codec, in_memory=0).gather(rows)
        assert torch.equal(held.logits, mapped.logits)
        if held.sparse is not None:
            assert torch.equal(held.sparse.ids, mapped.sparse.ids)
            assert torch.equal(held.sparse.log_probs, mapped.sparse.log_probs)


def test_black_boxes_and_ensembles_are_kept_too(tmp_path: Path) -> None:
    data = digits()
    few = batch_of(data, size=200)
    forest = RandomForestClassifier(5, random_state=0)
    forest.fit(few.inputs.flatten(1).numpy(), few.targets.numpy())
    calls = []

    def rule(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return np.full((len(x), 10), 0.1)

    teachers = {
        "forest": BlackBoxTeacher(forest),
        "rule": BlackBoxTeacher(rule),
        "ensemble": EnsembleTeacher([network(), network(2)], merge="probabilities"),
        "calibrated": CalibratedTeacher(LiveTeacher(network()), temperature=2.0),
    }
    batch = epoch(data, 1)[0]
    for name, inner in teachers.items():
        teacher = cached(tmp_path / name, inner)
        expected = inner.ask(batch).logits
        assert torch.equal(teacher.ask(batch).logits, expected), name
        made = len(calls)
        teacher.ask(batch)
        assert len(calls) == made
    assert cached(tmp_path / "forest", forest).access == "outputs"


def test_found_by_content_where_no_folder_is_given(tmp_path: Path) -> None:
    lines: list[str] = []
    one = cached(None, say=lines.append)
    capture_all(one)
    assert one.folder.parent == tmp_path / "home" / "caches"
    assert cached(None).folder == one.folder
    other = cached(None, look=visits(seed=1), say=lines.append)
    assert other.folder != one.folder
    other.capture()
    assert any("is another cache, it differs in seed" in line for line in lines)
    assert all(line.startswith("teacher: ") for line in lines)


def test_a_second_run_adds_the_views_that_are_missing(tmp_path: Path) -> None:
    capture_all(cached(tmp_path / "c", look=visits(views=1)))
    before = bytes_in(tmp_path / "c")
    capture_all(cached(tmp_path / "c", look=visits(views=3)))
    after = bytes_in(tmp_path / "c")
    assert list(read_manifest(tmp_path / "c").views) == ["0", "1", "2"]
    assert all(after[name] == value for name, value in before.items() if "view" in name)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"teacher": LiveTeacher(network(2))}, "teacher"),
        ({"data": digits(num_train=229)}, "data"),
        ({"data": digits(augment=("flip",))}, "augmentation"),
        ({"look": visits(seed=1)}, "seed"),
        ({"taps": ("stages.1",)}, "outputs"),
        ({"codec": "float16"}, "codec"),
        ({"inputs": "clean"}, "inputs"),
    ],
)
def test_any_other_key_is_refused_with_both_values(tmp_path: Path, change: dict, key: str) -> None:
    capture_all(cached(tmp_path / "c"))
    other = cached(tmp_path / "c", **change)
    with pytest.raises(CacheError) as refused:
        other.ask(epoch(change.get("data") or digits(), seed=1 if key == "seed" else 0)[0])
    said = str(refused.value)
    assert f"{key} differs" in said or f"({key}" in said
    assert "it was captured with" in said
    assert "this run has" in said
    assert "or capture anew into another folder" in said


def test_other_conditions_are_said_and_the_answers_equal_to_1e_6(tmp_path: Path) -> None:
    capture_all(cached(tmp_path / "c"))
    lines: list[str] = []
    other = cached(tmp_path / "c", look=visits(rows=16), say=lines.append)
    batch = epoch(digits())[0]
    gap = (other.ask(batch).logits - LiveTeacher(network()).ask(batch).logits).abs().max()
    assert gap <= 1e-6
    assert "captured with batch 32 (now 16)" in lines[-1]
    assert "about 1e-6 of the largest logit, not bit for bit" in lines[-1]
    rounded = cached(
        tmp_path / "d", taps=("stages.1",), codec={"name": "float32", "features": "int8"}
    )
    capture_all(rounded)
    lines.clear()
    options = {"look": visits(rows=16), "taps": ("stages.1",), "say": lines.append}
    cached(tmp_path / "d", codec=rounded.codec, **options).ask(batch)
    assert lines == []  # nothing is claimed of what is not kept as it was


def test_a_batch_drawn_otherwise_is_refused(tmp_path: Path) -> None:
    teacher, data = cached(tmp_path / "c"), digits()
    with pytest.raises(CacheError, match="drawn with seed 3, the cache is for seed 0"):
        teacher.ask(epoch(data, seed=3)[0])
    with pytest.raises(CacheError, match="is of view 5, but 2 views are cycled"):
        teacher.ask(epoch(data, 5, views=None)[0])
    other = dataclasses.replace(data, augment_train=digits(augment=("flip",)).augment_train)
    with pytest.raises(CacheError, match="the batch was augmented by"):
        teacher.ask(epoch(other)[0])
    raw = data.splits["train"].fetch(torch.arange(4))
    stranger = torch.tensor([int(data.splits["test"].indices[0])])
    with pytest.raises(CacheError, match="is not in the training part"):
        teacher.ask(Batch(raw.inputs[:1], index=stranger, draw=epoch(data)[0].draw))


@pytest.mark.parametrize("codec", ["float32", "float16", "topk", "sampled"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_stranger_among_others_is_refused_in_every_form(
    codec: str, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr("limbeck.teachers.cache.teacher.IN_MEMORY", -1)
    teacher, data = cached(tmp_path / "c", codec=codec), digits()
    batch = epoch(data)[0]
    assert teacher.ask(batch) is not None
    index = batch.index.clone()
    index[1] = stranger = int(data.splits["test"].indices[0])
    other = batch.replace(index=index, draw=batch.draw)
    with pytest.raises(CacheError, match=f"sample {stranger} is not in the training part"):
        teacher.ask(other)


def test_what_cannot_be_cached_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"there is nothing to save.*train.views=4.*clean"):
        cached(tmp_path / "c", look=visits(views=None))
    for inner in (EmaTeacher(), SnapshotTeacher()):
        with pytest.raises(TeacherError, match="changes during the run"):
            CachedTeacher(inner)
    with pytest.raises(TeacherError, match="a cache around a cache"):
        CachedTeacher(CachedTeacher(network()))
    sparse = CachedTeacher(network(), codec="topk")
    with pytest.raises(TeacherError, match="put the cache around the calibrated teacher"):
        CalibratedTeacher(sparse)
    with pytest.raises(TeacherError, match="put the cache around the ensemble"):
        EnsembleTeacher([sparse])
    with pytest.raises(CacheError, match="did you mean 'clean'"):
        CachedTeacher(network(), inputs="clear")  # type: ignore[arg-type]
    table = bundle_from((torch.randn(60, 3), torch.randn(60, 1)), task="regression")
    with pytest.raises(TeacherError, match="regression needs float32 or float16"):
        CachedTeacher(torch.nn.Linear(3, 1), codec="topk").bind(table, torch.device("cpu"))
    with pytest.raises(TeacherError, match="bind the cache to data first"):
        CachedTeacher(network()).capture()


def test_the_budget_is_kept_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = cached(tmp_path / "c", budget="10kB")
    with pytest.raises(CacheError, match=r"needs 31\.9 kB \(2 x 230 .*the budget is 10 kB; choose"):
        teacher.capture()
    assert list(tmp_path.iterdir()) == []
    folder = capture_all(cached(tmp_path / "c", budget="32kB"))
    assert sum(path.stat().st_size for path in folder.rglob("*.*")) <= 32_000
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(CacheError, match="the disk has 100 B free"):
        cached(tmp_path / "d").capture()


def test_what_info_says(tmp_path: Path) -> None:
    folder = capture_all(cached(tmp_path / "c"))
    said = "\n".join(explain(folder, read_manifest(folder)))
    for part in ("float32", "bit for bit", "mean 0, largest 0", "bytes a sample", "views 0, 1"):
        assert part in said
    folder = capture_all(cached(tmp_path / "d", codec={"name": "sampled", "rounds": 9}))
    said = "\n".join(explain(folder, read_manifest(folder)))
    for part in ("unbiased", "variance of the gradient 0.0", "keeps less", "rounds=9"):
        assert part in said


def test_shards_that_another_batch_size_left_are_gone_in_the_end(tmp_path: Path) -> None:
    folder = capture_all(cached(tmp_path / "a"))
    stray = folder / "view-0000" / "00009.safetensors"
    manifest = read_manifest(folder)
    stray.write_bytes((folder / "view-0000" / "00000.safetensors").read_bytes())
    Manifest(manifest.key, manifest.about, manifest.rows, manifest.classes).write(folder)
    capture_all(cached(folder))
    assert not stray.exists()
    assert read_manifest(folder) == manifest


def test_a_method_that_asks_for_gradients_is_refused(tmp_path: Path) -> None:
    teacher = CalibratedTeacher(cached(tmp_path / "c"), temperature=2.0)
    assert not teacher.gives_gradients
    with pytest.raises(LimbeckError, match="asks teacher 'big' for gradients, which a cache does"):
        refuse_gradients(E2KD(), teacher.gives_gradients, "big")
    refuse_gradients(KD(), teacher.gives_gradients, "big")


def test_visits_are_handed_on_and_rows_are_those_of_the_run() -> None:
    inner = CachedTeacher(network())
    look = Visits(seed=3, views=2)
    CalibratedTeacher(EnsembleTeacher([inner])).foresee(look)
    assert inner._visits is look


def test_a_missing_shard_of_a_later_view_is_told_at_once(tmp_path: Path) -> None:
    folder = capture_all(cached(tmp_path / "c"))
    (folder / "view-0001" / "00000.safetensors").unlink()
    with pytest.raises(CacheError, match=r"view-0001/00000\.safetensors is missing"):
        cached(tmp_path / "c").ask(epoch(digits())[0])  # of view 0


def test_a_capture_that_goes_on_needs_no_room_for_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = capture_all(cached(tmp_path / "c", look=visits(views=1)))
    first = folder / "view-0000"
    half = sum(path.stat().st_size for path in first.iterdir())
    manifest = read_manifest(folder)
    Manifest(manifest.key, manifest.about, manifest.rows, manifest.classes).write(folder)
    (first / "00003.safetensors").unlink()
    gone = half - sum(path.stat().st_size for path in first.iterdir())
    room = type("Usage", (), {"free": 230 * 40 + 8192 - half + gone})
    monkeypatch.setattr("shutil.disk_usage", lambda path: room)
    cached(tmp_path / "c", look=visits(views=1)).capture()
    assert list(read_manifest(folder).views) == ["0"]
