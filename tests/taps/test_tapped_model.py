"""TappedModel: batches of every form, other taps for one call, cohorts."""

import weakref

import pytest
import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.errors import TapError
from limbeck.models import Cohort, build_model
from limbeck.taps import Outputs, TappedModel

SHAPE = (2, 1, 8, 8)


def make_cnn():
    return build_model("cnn", num_classes=3, input_shape=(1, 8, 8), channels=(4, 6))


def hook_count(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_batch_and_plain_inputs_give_the_same():
    model = make_cnn().eval()
    inputs = torch.randn(*SHAPE)
    with TappedModel(model, ["stages", "penultimate"]) as tapped:
        assert tapped.names == ["stages.0", "stages.1", "penultimate"]
        outputs = tapped(Batch(inputs, torch.zeros(2, dtype=torch.long)))
        assert isinstance(outputs, Outputs)
        assert torch.equal(outputs.logits, model(inputs))
        assert list(outputs.features) == tapped.names
        assert torch.equal(tapped(inputs).logits, outputs.logits)
        assert torch.equal(model.head(outputs.features["penultimate"]), outputs.logits)
    assert hook_count(model) == 0
    tapped.close()


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, first, second=0.0):
        return {"logits": self.layer(first + second), "loss": None}


def test_mappings_are_keywords_and_tuples_positions():
    model = Sum()
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    expected = model.layer(first + second)
    with TappedModel(model, "layer:in") as tapped:
        for inputs in ({"first": first, "second": second}, (first, second)):
            outputs = tapped(Batch(inputs))
            assert torch.equal(outputs.logits, expected)
            assert torch.equal(outputs.features["layer:in"], first + second)


def test_a_users_forward():
    def forward(model, batch):
        return model(batch["first"], batch["second"])["logits"] * 2

    model, first, second = Sum(), torch.randn(4, 3), torch.randn(4, 3)
    with TappedModel(model, "layer", forward=forward) as tapped:
        outputs = tapped({"first": first, "second": second})
    assert torch.equal(outputs.logits, 2 * outputs.features["layer"])


def test_features_that_the_model_gives_itself_stay():
    class Rich(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs):
            return Outputs(self.layer(inputs), {"own": inputs}, {"map": inputs})

    inputs = torch.randn(1, 3)
    with TappedModel(Rich(), "layer") as tapped:
        outputs = tapped(inputs)
    assert list(outputs.features) == ["own", "layer"]
    assert outputs.attentions["map"] is inputs


def test_answers_that_are_not_understood():
    class Odd(nn.Module):
        def forward(self, inputs):
            return "yes"

    with pytest.raises(TapError, match=r"returned str; expected .* Pass forward="):
        TappedModel(Odd())(torch.zeros(1))


def test_modules_that_are_not_reached_are_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, inputs):
            return self.used(inputs)

    model = Idle()
    tapped = TappedModel(model, ["used", "idle"])
    with pytest.raises(TapError, match="tap 'idle': no forward pass has reached"):
        tapped(torch.zeros(1, 2))


def test_nothing_is_held_between_calls():
    with TappedModel(make_cnn(), "stages") as tapped:
        outputs = tapped(torch.randn(*SHAPE))
        reference = weakref.ref(outputs.features["stages.0"])
        del outputs
        assert reference() is None
        asked = tapped.ask(torch.randn(*SHAPE), "penultimate")
        reference = weakref.ref(asked.features["penultimate"])
        del asked
        assert reference() is None


def test_asking_once_with_other_taps():
    model = make_cnn().requires_grad_(False).eval()
    inputs = torch.randn(*SHAPE)
    with TappedModel(model, "penultimate") as tapped:
        with torch.no_grad():
            outputs = tapped.ask(inputs, ["stages[-1]", "input"], require_grad=True)
            assert not torch.is_grad_enabled()
        assert list(outputs.features) == ["stages[-1]", "input"]
        gradients = torch.autograd.grad(outputs.logits.sum(), list(outputs.features.values()))
        assert gradients[1].shape == inputs.shape
        assert hook_count(model) == 1
        assert list(tapped(inputs).features) == ["penultimate"]
        assert list(tapped.ask(Batch(inputs)).features) == ["penultimate"]
        assert list(tapped.ask(inputs, ()).features) == []
        with pytest.raises(TapError, match="unknown tap"):
            tapped.ask(inputs, "stagse.1")
        assert hook_count(model) == 1


def test_hooks_go_when_asking_fails():
    model = make_cnn()
    with TappedModel(model, "penultimate") as tapped:
        with pytest.raises(RuntimeError):
            tapped.ask(torch.randn(2, 9, 8, 8), "stages")
        assert hook_count(model) == 1


def test_modes_are_the_callers():
    model = make_cnn().train()
    with TappedModel(model, "stages") as tapped:
        tapped.ask(torch.randn(*SHAPE))
        tapped(torch.randn(*SHAPE))
    assert model.training
    assert model.stages[0].norm1.num_batches_tracked == 2


def test_roles_found_from_an_example():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(TapError, match="does not say what its stages are"):
        TappedModel(model, "stages")
    assert hook_count(model) == 0
    inputs = torch.randn(*SHAPE)
    with TappedModel(model, "stages", example=inputs) as tapped:
        outputs = tapped(inputs)
    assert torch.equal(outputs.features["stages.0"], model[1](model[0](inputs)))


def test_a_cohort_answers_for_each_member():
    first = make_cnn()
    second = build_model("resnet8", num_classes=3, input_shape=(1, 8, 8))
    cohort = Cohort([first, second]).eval()
    inputs = torch.randn(*SHAPE)
    with TappedModel(cohort, ["stages[-1]", "penultimate"]) as tapped:
        outputs = tapped(Batch(inputs))
    assert len(outputs.members) == 2
    for member, model in zip(outputs.members, (first, second), strict=True):
        assert torch.equal(member.logits, model(inputs))
        assert list(member.features) == ["stages[-1]", "penultimate"]
    assert outputs.members[0].features["penultimate"].shape == (2, 6)
    assert outputs.members[1].features["penultimate"].shape == (2, 64)
    expected = (first(inputs) + second(inputs)) / 2
    torch.testing.assert_close(outputs.logits, expected)
    assert hook_count(cohort) == 0


def test_a_cohort_with_a_users_forward_and_a_failing_member():
    cohort = Cohort([nn.Linear(3, 2), nn.Linear(3, 2)])
    batch = {"x": torch.randn(4, 3)}
    with TappedModel(cohort, forward=lambda model, batch: model(batch["x"])) as tapped:
        outputs = tapped(batch)
        assert torch.equal(outputs.members[1].logits, cohort.members[1](batch["x"]))
        asked = tapped.ask(batch, "input", require_grad=True)
        (gradient,) = torch.autograd.grad(
            asked.members[0].logits.sum(), asked.members[0].features["input"]
        )
        torch.testing.assert_close(gradient, cohort.members[0].weight.sum(0).expand(4, 3))
    with pytest.raises(TapError):
        TappedModel(Cohort([make_cnn(), nn.Linear(3, 2)]), "stages")


def test_a_failed_construction_leaves_no_hooks():
    model = make_cnn()
    with pytest.raises(TapError):
        TappedModel(model, ["stages", "nothing"])
    assert hook_count(model) == 0


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_data_parallel_wrappers(one_process):
    wrap = torch.nn.parallel.DistributedDataParallel
    model, inputs = make_cnn().eval(), torch.randn(*SHAPE)
    with TappedModel(wrap(model), ["stages", "penultimate"]) as tapped:
        assert tapped.module is model
        outputs = tapped(Batch(inputs))
        assert torch.equal(outputs.logits, model(inputs))
        (outputs.logits.sum() + outputs.features["stages.0"].sum()).backward()
        asked = tapped.ask(inputs, "input", require_grad=True)
        assert asked.features["input"].requires_grad
    assert model.stages[0].conv1.weight.grad.abs().sum() > 0

    cohort = Cohort([nn.Linear(3, 2), nn.Linear(3, 2)])
    batch = {"x": torch.randn(4, 3)}
    wrapped = wrap(cohort)
    calls = []
    wrapped.register_forward_pre_hook(lambda module, args: calls.append(1))
    with TappedModel(wrapped, "input", forward=lambda m, b: m(b["x"])) as tapped:
        outputs = tapped(batch)
    assert calls == [1]  # one forward of the wrapper for both members
    outputs.logits.sum().backward()
    assert all(p.grad is not None for p in cohort.parameters())
    assert torch.equal(outputs.members[1].features["input"], batch["x"])
