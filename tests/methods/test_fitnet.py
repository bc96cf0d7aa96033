"""FitNet: the hint loss by loops, the regressors' shapes, the two stages, and what is deployed."""

import copy

import pytest
import torch
from method_runs import digits, log_of, make_cnn, make_plan, run, teacher_network
from torch import nn

from limbeck.data.batch import Batch
from limbeck.engine.distiller import Distiller
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError, RecipeError, TeacherError
from limbeck.methods.context import Context
from limbeck.methods.fitnet import FitNet, FitNetRuntime
from limbeck.models import build_model
from limbeck.models.io import load_weights
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher

IMAGES = torch.rand(2, 1, 16, 16)


def prepare(method: FitNet, student: nn.Module, teacher: nn.Module) -> FitNetRuntime:
    ctx = Context(example=Batch(inputs=IMAGES))
    runtime = method.prepare(student, {"teacher": LiveTeacher(teacher)}, None, ctx)
    assert isinstance(runtime, FitNetRuntime)
    return runtime


def cnn(*channels: int) -> nn.Module:
    return build_model("cnn", num_classes=10, input_shape=(1, 16, 16), channels=channels)


@pytest.mark.parametrize("normaliser", ["elementwise", "half_sum"])
def test_joint_loss_against_loops(normaliser):
    method = FitNet(pairs="stages", normaliser=normaliser)
    runtime = prepare(method, cnn(3, 4), cnn(5, 6)).double().eval()
    ours = {f"stages.{i}": torch.rand(2, *s, dtype=torch.float64) for i, s in SHAPES.items()}
    theirs = {
        f"stages.{i}": torch.rand(2, c, *s[1:], dtype=torch.float64)
        for (i, s), c in zip(SHAPES.items(), (5, 6), strict=True)
    }
    logits = torch.zeros(2, 10)
    said, heard = Outputs(logits, ours), Outputs(logits, theirs)
    value = runtime.losses(said, heard, Batch(inputs=IMAGES), Context())["fitnet"]
    total = 0.0
    for number, name in enumerate(ours):
        regressed = by_hand(runtime.regressors[number], ours[name])
        pairs = zip(regressed.flatten().tolist(), theirs[name].flatten().tolist(), strict=True)
        squares = [(a - b) ** 2 for a, b in pairs]
        total += sum(squares) / (len(squares) if normaliser == "elementwise" else 2 * 2)
    assert float(value.detach()) == pytest.approx(total, rel=1e-10)


SHAPES = {0: (3, 16, 16), 1: (4, 8, 8)}


def by_hand(regressor: nn.Sequential, feature: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution, batch norm with running statistics, and ReLU, entry by entry."""
    convolution, norm, _ = regressor
    weight = convolution.weight[:, :, 0, 0]
    result = torch.zeros(len(feature), len(weight), *feature.shape[2:], dtype=torch.float64)
    for out in range(len(weight)):
        plane = sum(weight[out, i] * feature[:, i] for i in range(feature.shape[1]))
        plane = plane + convolution.bias[out]
        plane = (plane - norm.running_mean[out]) / (norm.running_var[out] + norm.eps) ** 0.5
        result[:, out] = (plane * norm.weight[out] + norm.bias[out]).clamp(min=0)
    return result.detach()


class Sized(nn.Module):
    """One stage of a given width and size."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(1, channels, 1), nn.AdaptiveAvgPool2d(size))
        self.head = nn.Linear(channels, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage(inputs).mean((2, 3)))


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "kernel", "stride"),
    [
        (8, 4, nn.Conv2d, (3, 3), (2, 2)),  # twice as large
        (4, 8, nn.ConvTranspose2d, (4, 4), (2, 2)),  # half as large
        (8, 8, nn.Conv2d, (1, 1), (1, 1)),  # 1 + Hs - Ht
        (8, 5, nn.Conv2d, (4, 4), (1, 1)),
    ],
)
def test_regressor_shapes(ours, theirs, kind, kernel, stride):
    runtime = prepare(FitNet(pairs="stage"), Sized(3, ours), Sized(7, theirs))
    (regressor,) = runtime.regressors
    convolution, norm, activation = regressor
    assert type(convolution) is kind
    assert (convolution.kernel_size, convolution.stride) == (kernel, stride)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(activation, nn.ReLU)
    assert regressor(torch.rand(2, 3, ours, ours)).shape == (2, 7, theirs, theirs)


def test_auto_guides_the_middle_stage_with_the_published_weight():
    runtime = prepare(FitNet(), cnn(2, 3, 4), cnn(5, 6, 7))
    assert runtime.student_taps() == runtime.teacher_taps() == ("stages.1",)
    assert (FitNet().weight, FitNet.card.task_weight) == (100.0, 1.0)


def test_the_teacher_of_a_hint_must_have_layers():
    black_box = type("BlackBox", (LiveTeacher,), {"module": None})(cnn(2))
    with pytest.raises(TeacherError, match="has no layers"):
        FitNet().prepare(cnn(2), {"teacher": black_box}, None, Context())


def test_one_joint_step_adds_task_and_hint():
    plan = make_plan("fitnet", wide=True)
    parts = assemble(plan, World())
    parts.module.double().eval()
    batch = example_batch(plan, torch.device("cpu"), 16)
    loss, terms = parts.module(batch, parts.stages[0])
    expected = float(terms["task"]) + 100 * float(terms["fitnet"])
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    parts.close()


STAGED = [{"name": "fitnet", "hint_epochs": 1, "pairs": "stages.0"}, "kd"]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A staged run, the student's weights after each epoch and the adapters in the end."""
    seen: list[dict[str, torch.Tensor]] = []
    adapters: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        ending, entering = Distiller._end_epoch, Distiller.enter_stage

        def enter(self: Distiller) -> None:
            if not seen:
                seen.append(copy.deepcopy(self.parts.student.state_dict()))
            entering(self)

        def end(self: Distiller) -> None:
            seen.append(copy.deepcopy(self.parts.student.state_dict()))
            adapters.extend(self.parts.runtimes[:1])
            ending(self)

        patch.setattr(Distiller, "enter_stage", enter)
        patch.setattr(Distiller, "_end_epoch", end)
        outcome = run(make_plan(*STAGED), tmp_path_factory.mktemp("staged") / "run")
    return outcome, seen, adapters[0]


def test_the_hint_stage_moves_nothing_beyond_the_guided_layer(staged):
    _, (start, hinted, end), _ = staged
    names = [name for name, _ in make_cnn(4, 8).named_parameters()]
    assert any(not name.startswith("stages.0") for name in names)
    for name in names:
        moved = not torch.equal(start[name], hinted[name])
        assert moved == name.startswith("stages.0"), name
        assert not torch.equal(hinted[name], end[name]), name


def test_the_stage_after_the_hint_has_every_term_but_the_hint(staged):
    outcome, _, _ = staged
    by_epoch = {0: set(), 1: set()}
    for record in log_of(outcome.folder.path):
        by_epoch[record["epoch"]] |= set(record) & {"task", "kd", "fitnet"}
    assert by_epoch == {0: {"fitnet"}, 1: {"task", "kd"}}


def test_adapters_are_left_behind_and_the_rest_is_the_evaluated_student(staged):
    outcome, (*_, end), adapters = staged
    assert list(adapters.parameters())
    assert type(outcome.student) is type(make_cnn(4, 8))
    assert outcome.student.state_dict().keys() == end.keys()
    assert all(torch.equal(outcome.student.state_dict()[name], end[name]) for name in end)
    loaded = make_cnn(4, 8).eval()
    load_weights(loaded, outcome.folder.student / "model.safetensors")
    test = digits().splits["test"].fetch(torch.arange(100))
    inputs = digits().augment_eval(test.inputs, test.index)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), outcome.student(inputs))
    assert not outcome.student._forward_hooks
    assert not any(module._forward_hooks for module in outcome.student.modules())


def test_stages_need_room():
    with pytest.raises(RecipeError, match=r"train\.epochs: the stages of fitnet need at least 3"):
        assemble(make_plan({"name": "fitnet", "hint_epochs": 2}, epochs=2), World())


@pytest.mark.parametrize(("key", "value"), [("hint_epochs", -1), ("normaliser", "sum")])
def test_values_without_a_meaning_are_refused(key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        FitNet(**{key: value})


def test_the_teacher_stays_as_it_was(staged):
    assert all(parameter.grad is None for parameter in teacher_network().parameters())
