"""PartialTeacher: which part speaks, in features of one shape."""

import pytest
import torch
from teacher_worlds import CPU, batch_of, digits

import limbeck as lb
from limbeck.errors import TeacherError
from limbeck.methods.context import Context
from limbeck.models import SharedWidths, build_model, parts_of
from limbeck.teachers import LiveTeacher, PartialTeacher, Visits
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(scope="module")
def data():
    return digits()


def parts(data, shares=(0.3, 0.6, 1.0)):
    torch.manual_seed(0)
    shape = {"num_classes": data.num_outputs, "input_shape": data.input_shape}
    network = build_model("mlp", widths=[10, 8], **shape)
    return parts_of(SharedWidths(network, shares, batch_of(data).inputs))


def test_features_of_a_part_have_zeros_for_the_channels_that_it_lacks(data):
    made, batch = parts(data), batch_of(data)
    teacher = PartialTeacher(made)
    teacher.foresee(Visits(epochs=3))
    teacher.bind(data, CPU)
    taps = ["hidden.0", "hidden.1"]
    teacher.set_taps(taps)
    for number, widths in enumerate([(3, 3), (6, 5), (10, 8)]):
        teacher.step_begin(Context(progress=number / 3, epochs=3))
        assert teacher.current == number
        said, alone = teacher.ask(batch), LiveTeacher(made[number]).ask(batch, taps=taps)
        assert torch.equal(said.logits, alone.logits)
        for tap, width, whole in zip(taps, widths, (10, 8), strict=True):
            assert said.features[tap].shape[1] == whole
            assert torch.equal(said.features[tap][:, :width], alone.features[tap])
            assert not said.features[tap][:, width:].any()
        assert teacher.module is made[-1]
    assert teacher.forward is None
    teacher.step_begin(Context(progress=0.0, epochs=3))
    check_teacher(teacher, batch, taps=("hidden.0",))
    asked = teacher.ask(batch, taps=["hidden.0"], require_grad=True)
    assert asked.features["hidden.0"].shape[1] == 3  # the tensor that the logits come from
    assert "3 parts of one network, from the start, 0.3333, 0.6667 on: (MLP," in teacher.describe()


@pytest.mark.parametrize("method", ["fitnet", "at", "reviewkd", "gkd"])
def test_methods_of_layers_learn_from_every_part(method, data, tmp_path):
    network = lb.build_model("cnn", channels=[8, 12], num_classes=10, input_shape=(1, 8, 8))
    made = parts_of(SharedWidths(network, [0.4, 1.0], batch_of(data).inputs))
    student = lb.build_model("cnn", channels=[4, 6], num_classes=10, input_shape=(1, 8, 8))
    options = {"epochs": 2, "batch_size": 64, "output": tmp_path / "run", "quiet": True}
    run = lb.distill(PartialTeacher(made), student, data, method, **options)
    assert run.metrics["accuracy"] >= 0


def test_a_single_network_is_no_route(data):
    with pytest.raises(TeacherError, match="at least two"):
        PartialTeacher(parts(data, [1.0]))
