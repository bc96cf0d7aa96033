"""LiveTeacher against hand-made forward passes."""

import gc
import weakref

import pytest
import torch
from teacher_worlds import CPU, Net, batch_of, cancer, digits, same_state, state_of
from torch import nn

from limbeck.data import Batch, Normalize, bundle_from
from limbeck.errors import TapError, TeacherError
from limbeck.teachers import LiveTeacher
from limbeck.teachers.visits import Visits
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(scope="module")
def data():
    return digits()


def test_keeps_the_contract(data):
    teacher = LiveTeacher(Net(), name="big")
    teacher.bind(data, CPU)
    teacher.set_taps(["act", "penultimate"])
    check_teacher(teacher, batch_of(data), taps=("norm", "head:in"))
    teacher.close()


def test_says_what_the_network_in_eval_mode_says(data):
    net = Net().train()
    batch = batch_of(data)
    teacher = LiveTeacher(net)
    teacher.bind(data, CPU)
    teacher.set_taps(["act"])
    outputs = teacher.ask(batch)
    twin = Net().eval()
    assert torch.equal(outputs.logits, twin(batch.inputs))
    assert torch.equal(outputs.features["act"], twin.act(twin.norm(twin.conv(batch.inputs))))
    assert list(teacher.ask(batch, taps=["conv"]).features) == ["conv"]
    assert list(teacher.ask(batch).features) == ["act"]


@pytest.mark.parametrize("wanted", [True, False])
def test_takes_over_the_memory_format_of_the_run(data, wanted):
    second = nn.Conv2d(4, 3, 2)  # of one channel, both formats would be the same
    net = nn.Sequential(nn.Conv2d(1, 4, 3), second, nn.Flatten(), nn.LazyLinear(10))
    net(batch_of(data).inputs)
    teacher = LiveTeacher(net)
    teacher.foresee(Visits(channels_last=wanted))
    teacher.bind(data, CPU)
    assert second.weight.is_contiguous(memory_format=torch.channels_last) == wanted
    teacher.close()
    assert second.weight.is_contiguous()


@pytest.mark.parametrize("own", [True, False])
def test_a_later_run_has_its_own_memory_format(data, own):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.LazyLinear(10))
    net(batch_of(data).inputs)
    teacher, weight = LiveTeacher(net, channels_last=own), net[1].weight
    teacher.foresee(Visits(channels_last=True))
    teacher.bind(data, CPU)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    teacher.close()
    teacher.bind(data, CPU)  # in a loop that tells it nothing
    assert weight.is_contiguous(memory_format=torch.channels_last) == own
    teacher.close()
    teacher.foresee(Visits())
    teacher.bind(data, CPU)
    assert weight.is_contiguous(memory_format=torch.channels_last) == own
    teacher.close()
    assert weight.is_contiguous()


def test_gives_the_module_back_as_it_was(data):
    net = Net().train()
    net.norm.eval()
    net.conv.weight.requires_grad_(False)
    before = state_of(net)
    teacher = LiveTeacher(net, channels_last=True)
    teacher.bind(data, CPU)
    teacher.set_taps(["act"])
    assert not any(part.training for part in net.modules())
    assert not any(value.requires_grad for value in net.parameters())
    teacher.ask(batch_of(data))
    teacher.close()
    teacher.close()
    assert net.training
    assert net.drop.training
    assert not net.norm.training
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["conv.weight"]
    assert same_state(before, state_of(net))
    assert net.conv.weight.is_contiguous()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_two_teachers_share_a_module_and_the_last_gives_it_back(data):
    net = Net().train()
    first, second = LiveTeacher(net), LiveTeacher(net)
    first.bind(data, CPU)
    second.bind(data, CPU)
    first.close()
    assert not net.training
    second.ask(batch_of(data))
    second.close()
    assert net.training
    assert all(value.requires_grad for value in net.parameters())


def test_forgotten_teacher_is_not_kept_alive(data):
    net = Net()
    teacher = LiveTeacher(net)
    teacher.bind(data, CPU)
    watch = weakref.ref(net)
    del net, teacher
    gc.collect()
    assert watch() is None


def test_gradients_reach_taps_and_inputs_but_no_parameter(data):
    net = Net()
    teacher = LiveTeacher(net)
    teacher.bind(data, CPU)
    teacher.set_taps(["norm"])
    batch = batch_of(data)
    outputs = teacher.ask(batch, require_grad=True)
    (gradient,) = torch.autograd.grad(outputs.logits[:, 3].sum(), outputs.features["norm"])
    # By hand: logit 3 = mean over 64 positions of relu(norm), times the head's row 3.
    passes = (outputs.features["norm"] > 0).float()
    expected = passes * net.head.weight[3].view(1, 4, 1, 1) / 64
    assert torch.allclose(gradient, expected, atol=1e-7)
    second = teacher.ask(batch, taps=["conv"], require_grad=True)
    (at_conv,) = torch.autograd.grad(
        second.logits[:, 3].sum(), second.features["conv"], create_graph=True
    )
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    assert torch.allclose(at_conv, expected * scale.view(1, 4, 1, 1), atol=1e-6)
    assert all(value.grad is None for value in net.parameters())
    inputs = batch.inputs.clone().requires_grad_()
    teacher.ask(Batch(inputs), require_grad=True).logits.sum().backward()
    assert inputs.grad is not None
    assert bool(inputs.grad.abs().sum() > 0)
    assert not teacher.ask(Batch(inputs)).logits.requires_grad


def test_renormalises_to_its_own_statistics(data):
    own = Normalize((0.5,), (0.25,))
    teacher = LiveTeacher(Net(), normalization=own)
    teacher.bind(data, CPU)
    raw = data.splits["train"].fetch(torch.arange(4))
    seen_as = (raw.inputs.double() / 255 - 0.5) / 0.25
    expected = Net().eval().double()(seen_as)
    batch = raw.replace(inputs=data.augment_eval(raw.inputs, raw.index))
    said = teacher.ask(batch).logits.double()
    assert torch.allclose(said, expected, atol=1e-5)
    assert not torch.allclose(Net().eval()(batch.inputs).double(), expected, atol=1e-2)
    assert "re-normalised from mean 0.3 std 0.4 to mean 0.5 std 0.25" in teacher.describe()
    same = LiveTeacher(Net(), normalization=data.normalization)
    same.bind(data, CPU)
    assert torch.equal(same.ask(batch).logits, Net().eval()(batch.inputs))
    assert "same statistics" in same.describe()
    assert "unknown" in LiveTeacher(Net()).describe()


def test_takes_data_without_statistics_as_unit_range():
    table = torch.rand(60, 4)
    data = bundle_from((table, torch.arange(60) % 2))
    teacher = LiveTeacher(nn.Linear(4, 2), normalization=Normalize((0.5,), (0.25,)))
    teacher.bind(data, CPU)
    expected = teacher.module((table[:3] - 0.5) / 0.25)
    assert torch.allclose(teacher.ask(Batch(table[:3])).logits, expected, atol=1e-6)
    assert "from [0, 1]" in teacher.describe()


def test_looks_at_its_own_view(data):
    teacher = LiveTeacher(Net())
    batch = batch_of(data, size=4)
    other = torch.randn_like(batch.inputs)
    said = teacher.ask(batch.replace(teacher_inputs=other)).logits
    assert torch.equal(said, teacher.ask(Batch(other)).logits)


def test_class_counts_that_differ_are_refused(data):
    with pytest.raises(TeacherError, match=r"teachers\.big: gives 7 outputs, the data have 10"):
        LiveTeacher(Net(7), name="big").bind(data, CPU)


def test_unreadable_inputs_are_one_clear_line():
    with pytest.raises(TeacherError, match=r"Net cannot read inputs of shape \[2, 30\]") as caught:
        LiveTeacher(Net()).bind(cancer(), CPU)
    assert "\n" not in str(caught.value)


def test_training_mode_is_refused(data):
    net = Net()
    teacher = LiveTeacher(net)
    teacher.bind(data, CPU)
    net.norm.train()
    with pytest.raises(TeacherError, match="BatchNorm2d was put in training mode"):
        teacher.ask(batch_of(data))


def test_writing_to_the_inputs_is_refused(data):
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(TeacherError, match="writes to its inputs"):
        LiveTeacher(net).bind(data, CPU)


def test_student_with_the_teachers_own_parameters_is_refused():
    net = Net()
    teacher = LiveTeacher(net, name="big")
    with pytest.raises(TeacherError, match="shares 6 parameters"):
        teacher.meet(net)
    teacher.meet(Net())
    teacher.close()
    for value in net.conv.parameters():
        value.requires_grad_(False)
    student = nn.Sequential(net.conv, nn.Flatten(), nn.Linear(256, 10))
    LiveTeacher(net).meet(student)  # borrowed frozen layers are fine


def test_roles_of_a_network_that_declares_none_are_found_by_running_it(data):
    teacher = LiveTeacher(Net())
    teacher.bind(data, CPU)
    teacher.set_taps(["stages", "head"])
    shapes = [tuple(value.shape) for value in teacher.ask(batch_of(data)).features.values()]
    assert shapes[-1] == (8, 10)
    assert (8, 4, 8, 8) in shapes


def test_unknown_taps_name_the_teacher(data):
    teacher = LiveTeacher(Net(), name="big")
    teacher.bind(data, CPU)
    with pytest.raises(TapError, match=r"teachers\.big: .*'akt'.*'act'"):
        teacher.set_taps(["akt"])


def test_reduced_precision_gives_float32_close_to_the_full(data):
    batch = batch_of(data)
    full = LiveTeacher(Net()).ask(batch)
    half = LiveTeacher(Net(), precision="bfloat16")
    half.set_taps(["conv"])
    outputs = half.ask(batch)
    assert outputs.logits.dtype == outputs.features["conv"].dtype == torch.float32
    assert not torch.equal(outputs.logits, full.logits)
    assert torch.allclose(outputs.logits, full.logits, atol=0.02)
    linked = half.ask(batch, require_grad=True)
    assert torch.autograd.grad(linked.logits.sum(), linked.features["conv"])[0] is not None
    assert half.fingerprint() != LiveTeacher(Net()).fingerprint()


def test_autocast_of_the_student_does_not_touch_it(data):
    batch = batch_of(data)
    teacher = LiveTeacher(Net())
    expected = teacher.ask(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher.ask(batch).logits, expected)


def test_networks_of_other_types_read_inputs_of_their_own(data):
    batch = batch_of(data)
    double = LiveTeacher(Net().double()).ask(batch).logits
    assert double.dtype == torch.float64
    assert torch.allclose(double, Net().eval().double()(batch.inputs.double()))
    assert LiveTeacher(Net().bfloat16()).ask(batch).logits.dtype == torch.float32


def test_forward_of_the_users_own():
    net = nn.Linear(4, 3)
    inputs = {"a": torch.randn(5, 2), "b": torch.randn(5, 2)}
    teacher = LiveTeacher(
        net, forward=lambda model, batch: model(torch.cat([*batch.inputs.values()], dim=1))
    )
    check_teacher(teacher, Batch(inputs))
    stacked = torch.cat([inputs["a"], inputs["b"]], dim=1)
    assert torch.equal(teacher.ask(Batch(inputs)).logits, net(stacked))


def test_compiled_module_answers_and_is_unwrapped(data):
    calls = []

    def backend(graph, example):
        calls.append(graph)
        return graph.forward

    batch = batch_of(data)
    teacher = LiveTeacher(Net(), compile={"backend": backend})
    teacher.set_taps(["act"])
    outputs = teacher.ask(batch)
    assert calls
    assert torch.equal(outputs.logits, LiveTeacher(Net()).ask(batch).logits)
    assert outputs.features["act"].shape == (8, 4, 8, 8)


class TestFingerprint:
    def test_is_the_same_for_equal_networks_in_any_format(self):
        first = LiveTeacher(Net())
        second = LiveTeacher(Net().to(memory_format=torch.channels_last).train())
        assert first.fingerprint() == second.fingerprint()

    @pytest.mark.parametrize(
        "change",
        [
            lambda net: net.conv.weight.data[0, 0, 0, 0].add_(1e-6),
            lambda net: net.norm.running_mean.add_(1e-6),
            lambda net: setattr(net, "act", nn.GELU()),
            lambda net: net.head.bias.data.neg_(),
        ],
    )
    def test_changes_with_weights_statistics_and_structure(self, change):
        net = Net()
        before = LiveTeacher(net).fingerprint()
        change(net)
        assert LiveTeacher(net).fingerprint() != before

    def test_changes_with_normalization(self):
        own = LiveTeacher(Net(), normalization=Normalize((0.5,), (0.5,)))
        assert own.fingerprint() != LiveTeacher(Net()).fingerprint()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "bfloat"}, "did you mean 'bfloat16'"),
        ({"normalization": (0.5, 0.5)}, r"expected Normalize\(mean, std\) or None, got tuple"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(TeacherError, match=message):
        LiveTeacher(Net(), **arguments)
