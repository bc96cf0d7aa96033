"""Taps of compiled networks: the same numbers, in the graph, traced once."""

import shutil

import pytest
import torch

from limbeck.models import build_model
from limbeck.taps import TappedModel, tapping

TAPS = ["stages", "penultimate", "input", "linear:in"]


def make_pair():
    build = {"num_classes": 10, "input_shape": (3, 16, 16)}
    plain, compiled = build_model("resnet8", **build), build_model("resnet8", **build)
    compiled.load_state_dict(plain.state_dict())
    return plain, compiled


def loss_of(logits, features):
    return logits.logsumexp(dim=1).mean() + sum(f.square().mean() for f in features)


def check_same(options, tolerance):
    torch._dynamo.reset()
    plain, compiled = make_pair()
    inputs = torch.randn(2, 3, 16, 16)
    with tapping(plain, TAPS) as expected:
        expected_logits = plain(inputs)
    with TappedModel(compiled, TAPS, compile={"fullgraph": True, **options}) as tapped:
        outputs = tapped(inputs)
    assert list(outputs.features) == list(expected)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(outputs.logits, expected_logits, **close)
    for name, tensor in expected.items():
        torch.testing.assert_close(outputs.features[name], tensor, **close)
    names = ["stages.0", "stages.1", "stages.2", "penultimate"]
    loss_of(expected_logits, [expected[n] for n in names]).backward()
    loss_of(outputs.logits, [outputs.features[n] for n in names]).backward()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **close)


def test_ahead_of_time_graphs():
    check_same({"backend": "aot_eager"}, 1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("default")
def test_inductor():
    check_same({"backend": "inductor"}, 1e-4)


def test_calls_after_the_first_compile_nothing():
    torch._dynamo.reset()
    traced = []

    def backend(graph, example):
        traced.append(len(list(graph.graph.nodes)))
        return graph.forward

    _, model = make_pair()
    tapped = TappedModel(model, TAPS, compile={"backend": backend, "fullgraph": True})
    for step in range(4):
        outputs = tapped(torch.randn(2, 3, 16, 16))
        assert outputs.features["stages.0"].requires_grad
        if step == 1:  # a call aside, with other taps, does not disturb it
            asked = tapped.ask(torch.randn(2, 3, 16, 16), "layer1.0.bn1", require_grad=True)
            assert list(asked.features) == ["layer1.0.bn1"]
    assert len(traced) == 1
    tapped.close()


def test_compiling_inside_the_context():
    torch._dynamo.reset()
    _, model = make_pair()
    with tapping(model, "stages[-1]") as store:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        compiled(torch.randn(2, 3, 16, 16))
    store["stages[-1]"].sum().backward()
    assert model.conv1.weight.grad.abs().sum() > 0


def test_compiled_under_autocast():
    torch._dynamo.reset()
    _, model = make_pair()
    tapped = TappedModel(model, "stages", compile={"backend": "aot_eager"})
    with tapped, torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = tapped(torch.randn(2, 3, 16, 16))
    outputs.features["stages.1"].float().sum().backward()
    assert model.layer1[0].conv1.weight.grad.abs().sum() > 0
