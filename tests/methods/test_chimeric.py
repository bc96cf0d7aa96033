"""Chimeric samples: whose blocks they are made of, and what the teacher says of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import digits, log_of, make_cnn, make_explaining, make_plan, run, teacher_network

from limbeck.data.batch import IGNORE
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, fit_runtimes
from limbeck.errors import MethodError
from limbeck.methods import make_method
from limbeck.methods.chimeric import distinct_tuples
from limbeck.methods.context import Context
from limbeck.models.additive import EXPLANATIONS
from limbeck.taps import tapping
from limbeck.teachers.live import LiveTeacher

CHIMERIC = {"name": "chimeric", "samples": 200, "epochs": 2}


def parts_of(*methods: Any, **train: Any) -> Any:
    parts = assemble(make_plan(*methods, **{"epochs": 3, **train}), World())
    fit_runtimes(parts, digits())
    parts.module.face(0)
    (runtime,) = [one for one in parts.runtimes if one.method.name == "chimeric"]
    return parts, runtime


def shown(positions: torch.Tensor) -> torch.Tensor:
    raw = digits().splits["train"].fetch(positions)
    return digits().augment_eval(raw.inputs, raw.index)


def a_batch(positions: torch.Tensor) -> Any:
    raw = digits().splits["train"].fetch(positions)
    return raw.replace(inputs=digits().augment_eval(raw.inputs, raw.index))


@pytest.mark.parametrize(("count", "size", "length"), [(64, 4, 3), (30, 4, 3), (500, 60, 4)])
def test_no_two_tuples_are_the_same(count, size, length):
    found = distinct_tuples(count, size, length, torch.Generator().manual_seed(0))
    assert found.shape == (count, length)
    assert len({tuple(row) for row in found.tolist()}) == count
    assert found.min() >= 0
    assert found.max() < size


@pytest.mark.parametrize("size", [3, 40])  # from a list of all, and by drawing
def test_tuples_are_alike_likely(size):
    """Each donor stands as often at each place: within five deviations of its share."""
    found = torch.cat(
        [distinct_tuples(20, size, 3, torch.Generator().manual_seed(i)) for i in range(150)]
    )
    expected = len(found) / size
    for place in range(3):
        counts = torch.bincount(found[:, place], minlength=size)
        assert (counts - expected).abs().max() < 5 * expected**0.5


def test_blocks_are_those_of_the_donors_and_so_is_what_the_teacher_says_of_each():
    parts, runtime = parts_of("ked", CHIMERIC)
    donors = torch.tensor([[0, 1, 2], [5, 9, 5], [7, 7, 7]])
    whole = runtime.compose(donors)
    teacher = teacher_network(explaining=True)
    group = teacher.grouped.group
    for row, chosen in zip(whole.flatten(1), donors.tolist(), strict=True):
        for i, donor in enumerate(chosen):
            theirs = shown(torch.tensor([donor])).flatten()
            assert torch.equal(row[group == i], theirs[group == i])
    assert torch.equal(whole[2], shown(torch.tensor([7]))[0])
    with tapping(teacher, EXPLANATIONS) as store:
        teacher(whole)
        made = store[EXPLANATIONS]
        for i in range(3):
            teacher(shown(donors[:, i]))
            torch.testing.assert_close(made[:, i], store[EXPLANATIONS][:, i])
    parts.close()


def test_chimeras_come_in_the_last_epochs_each_once_until_all_have_been():
    parts, runtime = parts_of("ked", {**CHIMERIC, "samples": 100})
    everything = torch.arange(64)
    batch = a_batch(everything)
    parts.ctx.epoch = 0
    assert runtime.batch(batch, parts.ctx) is batch
    seen = []
    for epoch in (1, 2):
        parts.ctx.epoch = epoch
        found = runtime.batch(batch, parts.ctx)
        assert found.changed.all()
        assert found.draw is None
        seen.append(found.inputs)
    donors = runtime.donors(parts.ctx)
    assert len(donors) == 100
    expected = runtime.compose(torch.cat([donors, donors[:28]]))
    assert torch.equal(torch.cat(seen), expected)
    assert runtime.report() == {"chimeras": 100.0}
    parts.close()


def test_the_teacher_labels_where_there_was_a_label():
    parts, runtime = parts_of("ked", CHIMERIC)
    parts.ctx.epoch = 2
    batch = a_batch(torch.arange(64))
    found = runtime.batch(batch, parts.ctx)
    known = batch.targets != IGNORE
    assert 0 < known.sum() < 64
    with torch.no_grad():
        expected = teacher_network(explaining=True)(found.inputs).argmax(1)
    assert torch.equal(found.targets[known], expected[known])
    assert (found.targets[~known] == IGNORE).all()
    parts.close()


def test_only_training_samples_give_blocks():
    parts, runtime = parts_of("ked", CHIMERIC)
    view = digits().splits["train"]
    donors = runtime.donors(parts.ctx)
    assert donors.max() < len(view) < len(view.samples)
    parts.close()


def test_kd_of_a_plain_student_is_fine_tuned_on_the_same_chimeras(tmp_path: Path):
    """The groups are then those of a teacher that has some; KD hears the ordinary one."""
    plan = make_plan({"name": "kd", "teacher": "ordinary"}, {**CHIMERIC, "teacher": "ordinary"})
    teachers = {
        "ordinary": LiveTeacher(teacher_network()),
        "explaining": LiveTeacher(teacher_network(explaining=True)),
    }
    plan = dataclasses.replace(plan, teachers=teachers, make_student=lambda: make_cnn(4, 8))
    run(plan, tmp_path / "run")
    assert len(log_of(tmp_path / "run")) == 8


def test_refusals():
    method = make_method("chimeric")
    with pytest.raises(MethodError, match="neither the student nor a teacher has groups"):
        method.prepare(make_cnn(4), {}, digits(), Context())
    with pytest.raises(MethodError, match="needs data whose samples have an index"):
        method.prepare(make_explaining(3), {}, None, Context())
    with pytest.raises(MethodError, match="makes samples for one student"):
        method.prepare(make_explaining(3), {}, digits(), Context(num_members=2))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"samples": 0}, "method.samples: expected a whole number of at least 1"),
        ({"epochs": -1}, "method.epochs: expected a whole number of at least 0"),
    ],
)
def test_settings_that_make_no_sense(options, line):
    with pytest.raises(MethodError, match=line):
        make_method("chimeric", **options)
