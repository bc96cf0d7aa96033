"""Hooks: the very tensors, no extra work, nothing left behind."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.errors import TapError
from limbeck.models import build_model
from limbeck.taps import tapping


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def resnet():
    return build_model("resnet8", num_classes=10, input_shape=(3, 16, 16))


def test_captured_tensors_are_the_modules_own_objects(resnet):
    own = {}
    taps = ["layer1", "layer2", "pool", "linear:in"]
    with tapping(resnet, taps) as store:
        for name in ("layer1", "layer2", "pool"):
            module = resnet.get_submodule(name)
            module.register_forward_hook(lambda m, a, out, name=name: own.update({name: out}))
        resnet(torch.randn(2, 3, 16, 16))
    assert all(store[name] is own[name] for name in own)
    assert all(store[name].data_ptr() == own[name].data_ptr() for name in own)
    assert store["linear:in"] is own["pool"]
    assert list(store) == taps


def test_no_operation_is_added(resnet):
    inputs = torch.randn(2, 3, 16, 16)
    with CountOperations() as plain:
        resnet(inputs)
    with tapping(resnet, ["stages", "penultimate", "input", "head"]), CountOperations() as tapped:
        resnet(inputs)
    assert tapped.names == plain.names
    assert len(plain.names) > 20


def test_hooks_are_gone_afterwards_and_after_an_exception(resnet):
    with tapping(resnet, "stages"):
        assert hook_count(resnet) == 3
    assert hook_count(resnet) == 0
    with pytest.raises(RuntimeError), tapping(resnet, ["stages", "input"]):
        resnet(torch.randn(2, 5, 16, 16))
    assert hook_count(resnet) == 0
    with pytest.raises(TapError), tapping(resnet, ["stages", "nowhere"]):
        pass
    assert hook_count(resnet) == 0


def test_a_copy_of_a_tapped_network_captures_nothing(resnet):
    with tapping(resnet, ["stages", "input"]) as store:
        resnet(torch.randn(1, 3, 16, 16)).sum().backward()
        first = store["stages.0"]
        store.clear()
        copied = copy.deepcopy(resnet)
        copied(torch.randn(1, 3, 16, 16))
        assert not store.tensors
        inside = [h.__self__ for m in copied.modules() for h in m._forward_hooks.values()]
        assert not any(capture.store.tensors for capture in inside)
    assert first.requires_grad


def test_shared_tensors_need_one_hook(resnet):
    with tapping(resnet, ["layer3", "stages", "stages[-1]"]) as store:
        assert hook_count(resnet) == 3
        resnet(torch.randn(1, 3, 16, 16))
    assert store["layer3"] is store["stages.2"]
    assert store["layer3"] is store["stages[-1]"]


def test_features_are_in_the_graph(resnet):
    with tapping(resnet, ["stages.0"]) as store:
        resnet(torch.randn(2, 3, 16, 16))
    store["stages.0"].square().sum().backward()
    assert resnet.conv1.weight.grad.abs().sum() > 0
    assert resnet.linear.weight.grad is None


def test_a_module_called_twice_leaves_its_last_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs):
            return self.layer(self.layer(inputs)) * 1

    model = Twice()
    inputs = torch.randn(2, 3)
    with tapping(model, ["layer", "layer:in"]) as store:
        model(inputs)
    torch.testing.assert_close(store["layer"], model.layer(model.layer(inputs)))
    torch.testing.assert_close(store["layer:in"], model.layer(inputs))


class Wrapped(nn.Module):
    """A module that returns more than a tensor."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap
        self.layer = nn.Linear(3, 3)

    def forward(self, inputs):
        return self.wrap(self.layer(inputs))


@pytest.mark.parametrize(
    ("wrap", "open_"),
    [
        (lambda t: (None, t, t * 2), lambda v: v[1]),
        (lambda t: [t, 1], lambda v: v[0]),
        (lambda t: {"mask": None, "hidden": t}, lambda v: v["hidden"]),
        (lambda t: torch.max(t, dim=1), lambda v: v.values),
    ],
)
@pytest.mark.parametrize("require_grad", [False, True])
def test_the_first_tensor_of_what_a_module_returns(wrap, open_, require_grad):
    inner = Wrapped(wrap).requires_grad_(False)
    model = nn.ModuleDict({"inner": inner})
    with tapping(model, ["inner"], require_grad=require_grad) as store:
        answer = inner(torch.randn(2, 3))
    assert type(answer) is type(wrap(torch.zeros(2, 3)))
    assert store["inner"] is open_(answer)
    assert store["inner"].requires_grad is require_grad


def test_modules_without_tensors_are_refused():
    model = nn.ModuleDict({"inner": Wrapped(lambda t: 3)})
    message = "tap 'inner': the output holds no tensor"
    with pytest.raises(TapError, match=message), tapping(model, "inner"):
        model["inner"](torch.randn(1, 3))


def test_a_module_that_is_not_reached(resnet):
    with tapping(resnet, "layer2") as store, pytest.raises(TapError, match="has reached module"):
        store["layer2"]
    with pytest.raises(KeyError):
        store["layer1"]


@pytest.mark.parametrize("taps", [["1"], ["2:in"]])
def test_tensors_overwritten_in_place_are_refused(taps):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    message = r"changed in place after .* \(an activation with inplace"
    with pytest.raises(TapError, match=message), tapping(model, taps):
        model(torch.randn(4, 3))
    with tapping(model, ["0", "2"]) as store:
        out = model(torch.randn(4, 3))
    assert store["2"] is out


def test_inference_mode_tensors_can_be_tapped(resnet):
    with torch.inference_mode(), tapping(resnet, "stages") as store:
        resnet(torch.randn(1, 3, 16, 16))
    assert store["stages.2"].shape == (1, 64, 4, 4)


def test_autocast_features_keep_their_type_and_graph(resnet):
    taps = ["layer2.0.conv1", "stages[-1]"]
    with tapping(resnet, taps) as store, torch.autocast("cpu", dtype=torch.bfloat16):
        logits = resnet(torch.randn(2, 3, 16, 16))
    assert store["layer2.0.conv1"].dtype == torch.bfloat16
    (store["layer2.0.conv1"].float().sum() + logits.float().sum()).backward()
    assert resnet.conv1.weight.grad.abs().sum() > 0


def test_gradients_at_the_taps_of_a_frozen_teacher(resnet):
    resnet.requires_grad_(False).double().eval()
    inputs = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    plain = resnet(inputs)
    with tapping(resnet, ["stages", "penultimate"], require_grad=True) as store:
        logits = resnet(inputs)
    assert torch.equal(logits, plain)
    assert store["stages.0"].is_leaf
    assert not store["stages.2"].is_leaf  # it hangs on the first, whose gradient flows through it
    gradients = torch.autograd.grad(logits[:, 3].sum(), list(store.values()))
    # d logit / d penultimate is the classifier's row; through the mean pool, row / pixels.
    row = resnet.linear.weight[3]
    torch.testing.assert_close(gradients[3], row.expand(2, -1))
    torch.testing.assert_close(gradients[2], (row / 16)[None, :, None, None].expand(2, -1, 4, 4))
    # the first stage's by central differences along one direction
    direction = torch.randn_like(store["stages.0"])
    step = 1e-6

    def tail(features):
        return resnet.linear(resnet.pool(resnet.layer3(resnet.layer2(features))))[:, 3].sum()

    with torch.no_grad():
        first = store["stages.0"]
        slope = (tail(first + step * direction) - tail(first - step * direction)) / (2 * step)
    torch.testing.assert_close((gradients[0] * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_nothing_is_recorded_before_the_first_tap(resnet):
    resnet.requires_grad_(False)
    with tapping(resnet, ["layer3", "layer1:in"], require_grad=True) as store:
        resnet(torch.randn(1, 3, 16, 16))
    assert store["layer1:in"].grad_fn is None
    with tapping(resnet, ["layer3"], require_grad=True) as store:
        logits = resnet(torch.randn(1, 3, 16, 16))
    assert store["layer3"].grad_fn is None
    logits.sum().backward()
    assert store["layer3"].grad.shape == store["layer3"].shape


def test_require_grad_keeps_the_graph_of_a_learning_student(resnet):
    with tapping(resnet, ["stages[-1]"], require_grad=True) as store:
        logits = resnet(torch.randn(2, 3, 16, 16))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), store["stages[-1]"], create_graph=True)
    (gradient * store["stages[-1]"]).sum().backward()
    assert resnet.conv1.weight.grad.abs().sum() > 0


def test_detach_cuts_at_every_tap(resnet):
    with tapping(resnet, ["layer1", "layer3"], require_grad=True, detach=True) as store:
        logits = resnet(torch.randn(2, 3, 16, 16))
    assert store["layer1"].is_leaf
    assert store["layer3"].is_leaf
    logits.sum().backward()
    assert resnet.layer3[0].conv1.weight.grad is None
    assert resnet.linear.weight.grad is not None


def test_detach_alone_leaves_the_forward_pass(resnet):
    with tapping(resnet, ["layer1"], detach=True) as store:
        logits = resnet(torch.randn(2, 3, 16, 16))
    assert not store["layer1"].requires_grad
    logits.sum().backward()
    assert resnet.conv1.weight.grad is not None


def test_gradients_at_the_input(resnet):
    resnet.requires_grad_(False).eval()
    inputs = torch.randn(2, 3, 16, 16)
    with tapping(resnet, "input", require_grad=True) as store:
        logits = resnet(inputs)
    assert not inputs.requires_grad
    assert store["input"].data_ptr() == inputs.data_ptr()
    (gradient,) = torch.autograd.grad(logits.sum(), store["input"])
    assert gradient.shape == inputs.shape
    assert gradient.abs().sum() > 0


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, ids=None, vectors=None):
        return self.head((self.embed(ids) if vectors is None else vectors).mean(dim=1))


def test_keyword_inputs():
    model = Embedder().requires_grad_(False)
    with tapping(model, "input", require_grad=True) as store:
        logits = model(vectors=torch.randn(2, 3, 4))
    assert torch.autograd.grad(logits.sum(), store["input"])[0].shape == (2, 3, 4)
    message = r"torch\.int64 values have no gradients; tap the embedding"
    with pytest.raises(TapError, match=message), tapping(model, "input", require_grad=True):
        model(ids=torch.zeros(2, 3, dtype=torch.long))
    with tapping(model, ["embed", "input"]) as store:
        model(ids=torch.zeros(2, 3, dtype=torch.long))
    assert store["input"].dtype == torch.int64


def test_gradients_under_no_grad_are_refused(resnet):
    resnet.requires_grad_(False)
    tapped = tapping(resnet, "layer1", require_grad=True)
    message = "require_grad=True under no_grad"
    with pytest.raises(TapError, match=message), torch.no_grad(), tapped:
        resnet(torch.randn(1, 3, 16, 16))
