"""OFD: where margins come from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from feature_runs import plain_cnn, prepare, runtimes_of
from method_runs import digits, make_plan, run
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods import Runtime, make_method
from limbeck.methods.context import Context
from limbeck.methods.norms import norms_before
from limbeck.models import build_model
from limbeck.taps import tapping
from limbeck.teachers.live import LiveTeacher


def test_margins_are_those_of_the_norm_before_each_layer():
    teacher = build_model("resnet8", num_classes=10, input_shape=(1, 16, 16))
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    runtime = prepare(make_method("ofd"), teacher, teacher)
    for place in range(3):
        norm = teacher.get_submodule(f"layer{place + 1}.0.bn2")
        expected = functional.batch_norm_margin(norm.weight, norm.bias).float()
        assert torch.equal(runtime.margin(place), expected)
    assert type(runtime).fit is Runtime.fit  # nothing to measure
    names = ("layer1.0.bn1", "layer2.0.bn1", "layer3.0.bn1")
    runtime = prepare(make_method("ofd", norms=names), teacher, teacher)
    norm = teacher.layer3[0].bn1
    expected = functional.batch_norm_margin(norm.weight, norm.bias).float()
    assert torch.equal(runtime.margin(2), expected)


@pytest.mark.parametrize("name", ["wrn16_1", "vgg8"])
def test_the_norm_that_a_layer_is_the_output_of_is_found(name):
    teacher = build_model(name, num_classes=10, input_shape=(1, 32, 32)).eval()
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, 32, 32)))
    live = LiveTeacher(teacher)
    pairs = make_method("ofd").find_pairs(teacher, {"teacher": live}, ctx)
    found = norms_before(live, pairs, ctx)
    inputs = torch.rand(2, 1, 32, 32)
    taps = [pair.teacher for pair in pairs]
    with tapping(teacher, [*taps, *found]) as store, torch.no_grad():
        teacher(inputs)
    for tap, norm in zip(taps, found, strict=True):
        assert torch.equal(store[tap], store[norm])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())


@pytest.mark.parametrize(
    ("norms", "line"),
    [
        (("layer1.0.bn2",), "expected one path for each of the 3 pairs, got 1"),
        (("layer1.0.bn2", "layer2.0.bn2", "pool"), "got 'pool'"),
        (("layer1.0.bn2", "layer2.0.bn2", "layer1.0.bn2"), "of 64 channels, in the teacher"),
    ],
)
def test_norms_that_do_not_fit_are_refused(norms, line):
    teacher = build_model("resnet8", num_classes=10, input_shape=(1, 16, 16))
    with pytest.raises(MethodError, match=rf"method\.norms: .*{line}"):
        prepare(make_method("ofd", norms=norms), teacher, teacher)


def test_without_a_norm_margins_are_measured(tmp_path, monkeypatch):
    seen = runtimes_of(monkeypatch)
    plan = make_plan("ofd")
    network = plain_cnn()
    run(dataclasses.replace(plan, teachers={"teacher": LiveTeacher(network)}), tmp_path / "run")
    runtime, _ = seen[0]
    view = digits().splits["train"]
    batch = view.fetch(torch.arange(len(view)))
    with tapping(network.eval(), "preactivations") as store, torch.no_grad():
        network(digits().augment_eval(batch.inputs, batch.index))
    for place, feature in enumerate(store.values()):
        for channel, responses in enumerate(feature.transpose(0, 1)):
            below = [v for v in responses.flatten().tolist() if v < 0]
            expected = sum(below) / max(len(below), 1)
            assert float(runtime.margin(place)[channel]) == pytest.approx(expected, rel=1e-5)
