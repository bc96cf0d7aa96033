"""Narrower networks cut out of a given one, and what a student and its assistant may cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models import build_model, count_flops, count_parameters, load_model, save_model
from limbeck.models.assistant import StudentAssistant, student_assistant_spec
from limbeck.models.capacity import split_capacity
from limbeck.models.narrow import narrowed
from limbeck.taps import linear_head

SHAPE = (3, 32, 32)
INPUTS = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
CUT = ["resnet8", "resnet8x4", "wrn16_1", "vgg8", "mobilenetv2", "cnn", "mlp"]
"""Networks that a narrower one can be cut out of."""


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=5, input_shape=SHAPE)


def head_path(model: nn.Module) -> str:
    return linear_head(model, INPUTS).path


@pytest.mark.parametrize("name", CUT)
def test_half_the_channels_are_about_a_quarter_of_the_cost(name):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    narrow = narrowed(model, 0.5, INPUTS, head=head_path(model))
    assert narrow(INPUTS).shape == (2, 5)
    assert 0.15 < count_parameters(narrow) / count_parameters(model) < 0.55
    assert count_flops(narrow, INPUTS) < 0.6 * count_flops(model, INPUTS)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet8", "cnn"])
def test_the_whole_share_is_the_network_itself(name):
    model = build(name).eval()
    whole = narrowed(model, 1.0, INPUTS, head=head_path(model)).eval()
    assert torch.equal(whole(INPUTS), model(INPUTS))


def test_weights_are_those_of_the_kept_channels_scaled_to_fewer_inputs():
    model = build_model("cnn", num_classes=5, input_shape=SHAPE, channels=(4, 6))
    first, last = (
        narrowed(model, 0.5, INPUTS, head="head", trailing=trailing) for trailing in (False, True)
    )
    whole = model.stages[1].conv1.weight
    torch.testing.assert_close(first.stages[1].conv1.weight, whole[:3, :2] * 2**0.5)
    torch.testing.assert_close(last.stages[1].conv1.weight, whole[3:, 2:] * 2**0.5)
    torch.testing.assert_close(first.stages[0].conv1.weight, model.stages[0].conv1.weight[:2])
    assert first.head.weight.shape == (5, 3)


@pytest.mark.parametrize("name", ["vit", "mixer"])
def test_a_network_that_cannot_be_cut_is_refused_in_one_line(name):
    model = build_model(name, num_classes=5, input_shape=SHAPE)
    with pytest.raises(ModelError, match=r"a narrower .* cannot be cut out of it: ") as caught:
        narrowed(model, 0.5, INPUTS, head=head_path(model))
    assert "\n" not in str(caught.value)


def split(name: str, ratio: float = 3.0, features: int = 64):
    given = build(name)
    made, cost = split_capacity(
        given, ratio=ratio, head=head_path(given), features=features, num_classes=5, example=INPUTS
    )
    return given, made, cost


@pytest.mark.parametrize("name", ["resnet8", "cnn", "mobilenetv2"])
@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_both_together_cost_no_more_and_not_much_less(name, ratio):
    given, made, cost = split(name, ratio)
    assert (cost.parameters, cost.given_parameters) == tuple(map(count_parameters, (made, given)))
    assert count_parameters(made) <= count_parameters(given)
    assert count_flops(made, INPUTS) <= count_flops(given, INPUTS)
    used = count_parameters(made) / count_parameters(given)
    assert max(used, count_flops(made, INPUTS) / count_flops(given, INPUTS)) > 0.85
    bodies = [count_flops(body, INPUTS) for body in (made.student, made.assistant)]
    assert 0.6 * ratio < bodies[0] / bodies[1] < 1.6 * ratio


def test_no_room_is_refused():
    given = build_model("cnn", num_classes=5, input_shape=SHAPE, channels=(2,))
    with pytest.raises(ModelError, match=r"no student and assistant that add up in 900 features"):
        split_capacity(given, ratio=3.0, head="head", features=900, num_classes=5, example=INPUTS)


def test_the_assistant_says_nothing_at_first_and_adds_up_later():
    _, made, _ = split("resnet8")
    made.eval()
    ours = made.lift_student(made.student(INPUTS))
    torch.testing.assert_close(made(INPUTS), made.head(ours))
    nn.init.normal_(made.lift_assistant.weight)
    more = made.lift_assistant(made.assistant(INPUTS))
    torch.testing.assert_close(made(INPUTS), made.head(ours + more))


@pytest.mark.parametrize("phase", ["student", "assistant", "joint"])
def test_in_a_phase_the_other_stands_still(phase):
    _, made, _ = split("resnet8")
    nn.init.normal_(made.lift_assistant.weight)
    made.train()
    made.enter(phase)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    made(INPUTS).sum().backward()
    learns = {"student": {"student"}, "assistant": {"assistant"}, "joint": {"student", "assistant"}}
    for part in ("student", "assistant"):
        moving = part in learns[phase]
        lift = getattr(made, f"lift_{part}")
        for value in [*getattr(made, part).parameters(), *lift.parameters()]:
            assert (value.grad is not None) == moving
        running = f"{part}.bn1.running_mean"
        assert torch.equal(before[running], made.state_dict()[running]) == (not moving)
    assert made.head.weight.grad is not None


def test_phases_change_nothing_in_eval_mode():
    _, made, _ = split("resnet8")
    made.eval()
    answers = []
    for phase in ("student", "assistant", "joint"):
        made.enter(phase)
        answers.append(made(INPUTS))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_it_is_rebuilt_from_what_describes_it(tmp_path):
    given, made, cost = split("resnet8")
    nn.init.normal_(made.lift_assistant.weight)
    described = {"model": "resnet8", "arguments": {}, "num_classes": 5, "input_shape": list(SHAPE)}
    spec = student_assistant_spec(described, cost.shares, head_path(given), 64)
    save_model(made, tmp_path / "both", spec)
    again = load_model(tmp_path / "both")
    assert isinstance(again, StudentAssistant)
    assert torch.equal(again(INPUTS), made.eval()(INPUTS))


def test_a_classifier_of_another_kind_is_refused():
    first, second = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)) for _ in range(2))
    with pytest.raises(ModelError, match=r"its classifier '1' is Conv2d, expected nn\.Linear"):
        StudentAssistant(first, second, heads=("1", "1"), features=4, num_classes=5)
