"""FAM-KD: the order of the layers, local attention, and what is too large."""

from __future__ import annotations

import math

import pytest
import torch
from feature_runs import prepare
from method_runs import make_cnn
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of

from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods import famkd, make_method
from limbeck.methods.context import Context
from limbeck.methods.local_attention import LocalAttention
from limbeck.taps.outputs import Outputs

__all__ = ["images"]  # a fixture

SHAPES = [(2, 3, 8, 8), (2, 4, 4, 4), (2, 4)], [(2, 5, 8, 8), (2, 6, 4, 4), (2, 6)]


def said_by(runtime, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(2, 10)
    taps = runtime.student_taps(), runtime.teacher_taps()
    return [
        Outputs(
            logits,
            {
                tap: torch.rand(*shape, generator=generator).to(next(runtime.parameters()))
                for tap, shape in zip(names, side, strict=True)
            },
        )
        for names, side in zip(taps, SHAPES, strict=True)
    ]


def value_of(runtime, said, heard, epoch=0):
    return runtime.losses(said, heard, Batch(inputs=said.logits), Context(epoch=epoch))["famkd"]


def test_each_position_asks_its_neighbours():
    torch.manual_seed(0)
    attention = LocalAttention(3).double()
    asked, asking = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    found = attention(asked, asking)
    layers = attention.query, attention.key, attention.value
    query, key, value = (layer.weight.detach()[:, :, 0, 0] for layer in layers)
    b, y, x = 1, 0, 4  # a corner: some neighbours lie outside
    for c in range(3):
        scores, values = [], []
        for dy in range(3):
            for dx in range(3):
                p, q = y + dy - 1, x + dx - 1
                inside = 0 <= p < 4 and 0 <= q < 5
                there = asked[b, :, p, q] if inside else torch.zeros(3, dtype=torch.float64)
                place = attention.rows[c, dy, 0] if c < 1 else attention.columns[c - 1, 0, dx]
                asks = float(query[c] @ asking[b, :, y, x])
                scores.append(asks * (float(key[c] @ there) + float(place.detach())))
                values.append(float(value[c] @ there))
        weights = [math.exp(s - max(scores)) for s in scores]
        expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert found[b, c, y, x].item() == pytest.approx(expected, rel=1e-10)


def test_the_layers_are_mixed_from_the_last_to_the_first():
    runtime = prepare(make_method("famkd", warmup_epochs=0), make_cnn(3, 4), make_cnn(5, 6), 8)
    assert runtime.student_taps() == ("stages.0", "stages.1", "penultimate")
    assert runtime.teacher_taps() == ("stages.0", "stages.1", "penultimate")
    runtime.double().eval()
    said, heard = said_by(runtime)
    first, second, last = runtime.layers
    ours, theirs = (list(side.features.values()) for side in (said, heard))
    up = torch.nn.functional.interpolate
    deep = ours[2][..., None, None]
    gaps = [last.norm(last.attention(deep)).relu()[..., 0, 0] - theirs[2]]
    deep = second.attend(ours[1], up(second.enter(deep), 4))
    gaps.append(second.norm(second.attention(deep)).relu() - theirs[1])
    deep = first.attend(ours[0], up(first.enter(deep), 8))
    gaps.append(first.norm(first.attention(deep)).relu() - theirs[0])
    expected = sum(gap.square().mean() for gap in gaps)
    torch.testing.assert_close(value_of(runtime, said, heard), expected)


def test_without_review_each_layer_stands_alone():
    method = make_method("famkd", review=False, warmup_epochs=0)
    runtime = prepare(method, make_cnn(3, 4), make_cnn(5, 6), 8).double().eval()
    said, heard = said_by(runtime)
    expected = 0.0
    for layer, ours, theirs in zip(
        runtime.layers, said.features.values(), heard.features.values(), strict=True
    ):
        maps = ours if ours.ndim == 4 else ours[..., None, None]
        answer = layer.norm(layer.attention(maps)).relu()
        expected += (answer.reshape(theirs.shape) - theirs).square().mean()
    torch.testing.assert_close(value_of(runtime, said, heard), expected)


def test_a_filter_of_ones_and_no_convolution_is_the_layer_itself():
    attention = famkd.FrequencyAttention(1, 1, (5, 6), 0.1)
    with torch.no_grad():
        attention.filters.copy_(torch.tensor([1.0, 0.0]).expand(1, 1, 5, 6, 2))
        attention.shares.copy_(torch.tensor([1.0, 0.0]))
    feature = torch.randn(2, 1, 5, 6)
    torch.testing.assert_close(attention(feature), feature)


def test_it_warms_up_from_the_first_epoch():
    runtime = prepare(make_method("famkd", warmup_epochs=4), make_cnn(3, 4), make_cnn(5, 6), 8)
    said, heard = said_by(runtime.eval())
    found = [float(value_of(runtime, said, heard, epoch).detach()) for epoch in (0, 1, 3, 9)]
    assert found == pytest.approx([found[3] / 4, found[3] / 2, found[3], found[3]])


@pytest.mark.parametrize("pair", [("resnet", "vgg"), ("shufflenetv2", "resnet")], ids="-".join)
def test_networks_of_any_width_teach_each_other(pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    take_two_steps(plan_of(student, teacher, make_method("famkd"), images))


def test_filters_that_are_too_large_are_refused_with_what_to_name(monkeypatch):
    monkeypatch.setattr(famkd, "LARGEST", 1000)
    pattern = r"would have 1,280 complex weights, at most 1,000; name smaller layers \(pairs:"
    with pytest.raises(MethodError, match=pattern):
        prepare(make_method("famkd"), make_cnn(4, 4), make_cnn(5, 4), 8)
