"""ReviewKD: the order of the review, and its warm-up."""

from __future__ import annotations

import pytest
import torch
from feature_runs import prepare
from method_runs import make_cnn
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.taps.outputs import Outputs


def test_the_review_runs_from_the_last_layer_to_the_first():
    runtime = prepare(make_method("reviewkd", warmup_epochs=0), make_cnn(3, 4), make_cnn(5, 6), 8)
    assert runtime.student_taps() == ("stages.0", "stages.1", "penultimate")
    assert runtime.teacher_taps() == ("preactivations.0", "preactivations.1", "penultimate")
    runtime.double().eval()
    shapes = [(2, 3, 8, 8), (2, 4, 4, 4), (2, 4)], [(2, 5, 8, 8), (2, 6, 2, 2), (2, 6)]
    sides = [[torch.randn(*shape, dtype=torch.float64) for shape in side] for side in shapes]
    said, heard = (
        Outputs(torch.zeros(2, 10), dict(zip(taps, side, strict=True)))
        for taps, side in zip((runtime.student_taps(), runtime.teacher_taps()), sides, strict=True)
    )
    value = runtime.losses(said, heard, Batch(inputs=said.logits), Context())["reviewkd"]
    first, second, last = runtime.fusions
    (ours, theirs), total = sides, 0.0
    up = nn.functional.interpolate
    deep = last.enter(ours[2][..., None, None])
    total += functional.hierarchical_context(last.leave(deep), theirs[2][..., None, None])
    mine, deep = second.enter(ours[1]), up(deep, 4)
    shares = second.attend(torch.cat([mine, deep], 1)).sigmoid()
    deep = up(mine * shares[:, 0:1] + deep * shares[:, 1:2], 2)
    total += functional.hierarchical_context(second.leave(deep), theirs[1])
    mine, deep = first.enter(ours[0]), up(deep, 8)
    shares = first.attend(torch.cat([mine, deep], 1)).sigmoid()
    fused = mine * shares[:, 0:1] + deep * shares[:, 1:2]
    total += functional.hierarchical_context(first.leave(fused), theirs[0])
    torch.testing.assert_close(value, total)


def test_the_review_warms_up_from_the_first_epoch():
    runtime = prepare(make_method("reviewkd", warmup_epochs=4), make_cnn(3, 4), make_cnn(5, 6), 8)
    shapes = [(2, 3, 8, 8), (2, 4, 4, 4), (2, 4)], [(2, 5, 8, 8), (2, 6, 4, 4), (2, 6)]
    logits = torch.zeros(2, 10)
    said, heard = (
        Outputs(logits, {tap: torch.rand(*shape) for tap, shape in zip(taps, side, strict=True)})
        for taps, side in zip((runtime.student_taps(), runtime.teacher_taps()), shapes, strict=True)
    )
    runtime.eval()
    batch = Batch(inputs=logits)
    found = [
        float(runtime.losses(said, heard, batch, Context(epoch=epoch))["reviewkd"].detach())
        for epoch in (0, 1, 3, 9)
    ]
    assert found == pytest.approx([found[3] / 4, found[3] / 2, found[3], found[3]])
