"""e²KD: GradCAM in closed form, whose class is explained, what learns from it, and its limits."""

import copy

import pytest
import torch
from method_runs import log_of, make_cnn, make_plan, run, same_weights, teacher_network
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.evaluate import score
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.methods.e2kd import E2KD
from limbeck.taps import TappedModel
from limbeck.taps.explaining import GradCAM
from limbeck.taps.outputs import Outputs

IMAGES = torch.rand(4, 1, 8, 8, dtype=torch.float64)


class Pooled(nn.Module):
    """Convolutions, the mean over places, a linear head: GradCAM has a closed form."""

    def __init__(self, channels: int = 5, *, circular: bool = False) -> None:
        super().__init__()
        mode = "circular" if circular else "zeros"
        self.first = nn.Conv2d(1, 4, 3, padding=1, padding_mode=mode)
        self.last = nn.Conv2d(4, channels, 3, padding=1, padding_mode=mode)
        self.relu = nn.ReLU()
        self.head = nn.Linear(channels, 6)
        self.double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.last(torch.tanh(self.first(inputs)))).mean((2, 3)))


def maps_by_hand(network: Pooled, images: torch.Tensor, classes: list[int]) -> torch.Tensor:
    """ReLU of sum_k A_k · W[class, k] / places, pixel by pixel."""
    with torch.no_grad():
        features = network.relu(network.last(torch.tanh(network.first(images))))
    weight = network.head.weight.detach()
    count, channels, height, width = features.shape
    result = torch.zeros(count, height, width, dtype=torch.float64)
    for n in range(count):
        for i in range(height):
            for j in range(width):
                total = 0.0
                for k in range(channels):
                    slope = float(weight[classes[n], k]) / (height * width)
                    total += slope * float(features[n, k, i, j])
                result[n, i, j] = max(total, 0.0)
    return result


def cosine_loss_by_hand(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    total = 0.0
    for a, b in zip(ours.flatten(1).tolist(), theirs.flatten(1).tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        norms = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
        total += 1 - (dot / norms if norms > 1e-16 else 0.0)
    return total / len(ours)


def at_work(method: E2KD, student: nn.Module, teacher: nn.Module, images=IMAGES, step=0):
    """The method's terms, as the engine would ask for them."""
    ours = TappedModel(student, method.student_taps())
    theirs = TappedModel(teacher, method.teacher_taps())
    batch = Batch(inputs=images, targets=torch.zeros(len(images), dtype=torch.int64))

    def ask(asked, name=None, *, taps=(), require_grad=False):
        return theirs.ask(asked, require_grad=require_grad)

    heard = theirs(batch).detach()
    return method.losses(ours(batch), heard, batch, Context(teacher=ask, step=step))


def gradcam_of(outputs, tap, classes, *, graph):
    return GradCAM(tap).map(outputs, classes, graph=graph)


def fixed(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False).eval()


def test_gradcam_is_the_closed_form():
    network = Pooled()
    classes = [3, 0, 5, 3]
    outputs = TappedModel(network, ("relu",))(IMAGES)
    found = gradcam_of(outputs, "relu", torch.tensor(classes), graph=False)
    torch.testing.assert_close(found, maps_by_hand(network, IMAGES, classes), rtol=1e-10, atol=0)


def test_terms_against_loops():
    student, teacher = Pooled(3), fixed(Pooled(7))
    terms = at_work(E2KD(lam=2.0, tap="relu", temperature=5.0), student, teacher)
    top = teacher(IMAGES).argmax(1).tolist()
    maps = [maps_by_hand(network, IMAGES, top) for network in (student, teacher)]
    terms = {name: value.detach() for name, value in terms.items()}
    assert float(terms["explanation"]) == pytest.approx(2 * cosine_loss_by_hand(*maps), rel=1e-9)
    q, p = ((network(IMAGES).detach() / 5).log_softmax(1) for network in (student, teacher))
    assert float(terms["kd"]) == pytest.approx(
        float(25 * (p.exp() * (p - q)).sum(1).mean()), rel=1e-9
    )


def test_the_teachers_class_is_explained_not_the_label_nor_the_students():
    student, teacher = Pooled(), fixed(Pooled())
    with torch.no_grad():
        student.head.weight.copy_(torch.rand(6, 5))  # every map is visible
        student.head.bias.copy_(torch.tensor([0, 0, 50.0, 0, 0, 0]))  # the student says 2,
        teacher.head.weight.copy_(torch.rand(6, 5))
        teacher.head.bias.copy_(torch.tensor([0, 0, 0, 0, 50.0, 0]))  # the teacher 4, labels say 0
    found = float(at_work(E2KD(tap="relu"), student, teacher)["explanation"].detach())
    by_class = []
    for explained in range(6):
        maps = [maps_by_hand(net, IMAGES, [explained] * 4) for net in (student, teacher)]
        by_class.append(cosine_loss_by_hand(*maps))
    assert found == pytest.approx(by_class[4], rel=1e-9)
    assert all(abs(found - other) > 1e-4 for i, other in enumerate(by_class) if i != 4)


def test_gradient_reaches_the_students_first_layer_and_never_the_teacher():
    student, teacher = Pooled(), Pooled().eval()
    with torch.no_grad():
        for network in (student, teacher):
            network.head.weight.abs_()
    at_work(E2KD(tap="relu"), student, teacher)["explanation"].backward()
    assert student.first.weight.grad.abs().max() > 0
    assert student.last.weight.grad.abs().max() > 0
    assert student.head.weight.grad.abs().max() > 0  # through the gradient: second derivatives
    assert student.head.bias.grad is None or not student.head.bias.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_second_derivatives_are_right():
    """The slope at the head's weights, which the map depends on through a gradient alone."""
    student, teacher = Pooled(), fixed(Pooled())
    with torch.no_grad():
        student.head.weight.abs_()
    method = E2KD(tap="relu")
    at_work(method, student, teacher)["explanation"].backward()
    way = torch.randn_like(student.head.weight)
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(student)
        with torch.no_grad():
            moved.head.weight += sign * 1e-6 * way
        values.append(float(at_work(method, moved, teacher)["explanation"].detach()))
    claimed = float((student.head.weight.grad * way).sum())
    assert claimed == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    network = Pooled()
    terms = at_work(E2KD(tap="relu", lam=10.0), copy.deepcopy(network), fixed(network))
    assert {name: float(value.detach()) for name, value in terms.items()} == {
        "kd": 0.0,
        "explanation": 0.0,
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_explanation_term_is_in_0_1_and_blind_to_scale(seed):
    torch.manual_seed(seed)
    student, teacher = Pooled(), fixed(Pooled())
    value = float(at_work(E2KD(tap="relu"), student, teacher)["explanation"].detach())
    assert 0 <= value <= 1
    with torch.no_grad():
        student.head.weight *= 7.0  # scales every map of the student
    scaled = float(at_work(E2KD(tap="relu"), student, teacher)["explanation"].detach())
    assert scaled == pytest.approx(value, rel=1e-9)
    a, b = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert 0 <= float(functional.explanation_loss(a, b)) <= 2


@pytest.mark.parametrize("dims", [(2,), (1,), (1, 2)])
def test_the_map_of_a_flipped_image_is_the_flipped_map(dims):
    network = Pooled()
    with torch.no_grad():  # a kernel that looks the same from every side
        for layer in (network.first, network.last):
            weight = layer.weight + layer.weight.flip(2)
            layer.weight.copy_(weight + weight.flip(3))
    tapped, classes = TappedModel(network, ("relu",)), torch.tensor([1, 2, 3, 4])
    flipped = IMAGES.flip([d + 1 for d in dims])
    theirs = gradcam_of(tapped(flipped), "relu", classes, graph=False)
    ours = gradcam_of(tapped(IMAGES), "relu", classes, graph=False).flip(list(dims))
    assert ours.max() > 0
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-15)
    assert float(functional.explanation_loss(ours, theirs)) == pytest.approx(0, abs=1e-12)


def test_the_map_of_a_shifted_image_is_the_shifted_map():
    network = Pooled(circular=True)
    tapped, classes = TappedModel(network, ("relu",)), torch.tensor([1, 2, 3, 4])
    theirs = gradcam_of(tapped(IMAGES.roll((2, 3), (2, 3))), "relu", classes, graph=False)
    ours = gradcam_of(tapped(IMAGES), "relu", classes, graph=False).roll((2, 3), (1, 2))
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-15)


def test_lambda_0_is_kd_to_the_bit_through_a_whole_run(tmp_path):
    kd = run(make_plan({"name": "kd", "temperature": 2.0, "weight": 1.0}, task_weight=0.3),
             tmp_path / "kd")  # fmt: skip
    none = run(make_plan({"name": "e2kd", "lam": 0.0, "temperature": 2.0}, task_weight=0.3),
               tmp_path / "none")  # fmt: skip
    some = run(make_plan({"name": "e2kd", "lam": 1.0, "temperature": 2.0}, task_weight=0.3),
               tmp_path / "some")  # fmt: skip
    assert same_weights(kd.student, none.student)
    assert not same_weights(kd.student, some.student)
    assert all(p.grad is None for p in teacher_network().parameters())


def test_every_kth_step_only(tmp_path):
    run(make_plan({"name": "e2kd", "every": 3}), tmp_path / "run")
    steps = ["explanation" in record for record in log_of(tmp_path / "run")]
    assert steps == [step % 3 == 0 for step in range(8)]


def test_the_teacher_is_asked_once_a_step():
    plan = make_plan("e2kd")
    parts = assemble(plan, World())
    calls = []
    handle = teacher_network().register_forward_hook(lambda *_: calls.append(1))
    parts.module(example_batch(plan, torch.device("cpu"), 8), parts.stages[0])
    handle.remove()
    parts.close()
    assert len(calls) == 1


def test_beside_another_method_it_explains_its_own_layer():
    """FitNet taps another layer of both networks; the map must not be of that one."""
    both = ["e2kd", {"name": "fitnet", "pairs": "stages.0"}]
    values = {}
    for name, methods in {"alone": ["e2kd"], "both": both, "other": both[::-1]}.items():
        plan = make_plan(*methods)
        parts = assemble(plan, World())
        _, terms = parts.module(example_batch(plan, torch.device("cpu"), 8), parts.stages[0])
        values[name] = float(terms["explanation"])
        parts.close()
    assert values["alone"] == values["both"] == values["other"]


def test_a_tap_that_names_several_layers_is_refused():
    method = E2KD(tap="stages")
    outputs = TappedModel(make_cnn(2, 3), ("stages",))(torch.rand(2, 1, 8, 8))
    with pytest.raises(MethodError, match=r"tap 'stages' must name one layer.*stages\.0"):
        method.losses(
            outputs, outputs, Batch(inputs=torch.rand(2, 1, 8, 8)),
            Context(teacher=lambda *_, **__: outputs),
        )  # fmt: skip


def test_several_labels_have_their_own_divergence():
    logits = torch.randn(3, 4, dtype=torch.float64)
    other = torch.randn(3, 4, dtype=torch.float64)
    found = E2KD(lam=0.0).losses(
        Outputs(logits), Outputs(other), Batch(inputs=logits), Context(task="multilabel")
    )
    assert torch.equal(found["kd"], functional.kd_multilabel(logits, other, temperature=1.0))


def test_a_teacher_agrees_with_itself():
    logits = torch.randn(50, 10)
    scores = score("classification", logits, None, logits.clone())
    assert scores == {"agreement": 1.0, "kl_to_teacher": 0.0}


@pytest.mark.parametrize(("key", "value"), [("lam", -1.0), ("temperature", 0.0), ("every", 0)])
def test_values_without_a_meaning_are_refused(key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        E2KD(**{key: value})
