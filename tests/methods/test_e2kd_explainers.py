"""e²KD with every explainer: what reaches the student, the control, several labels, frozen maps."""

import copy

import pytest
import torch
from method_runs import digits, log_of, make_plan, run, same_weights
from torch import nn

from limbeck import functional
from limbeck.data import load_data
from limbeck.data.batch import Batch
from limbeck.engine.checking import refuse_gradients
from limbeck.errors import MethodError
from limbeck.methods.context import Context
from limbeck.methods.e2kd import E2KD
from limbeck.models import build_model, explanation_mode
from limbeck.taps import TappedModel
from limbeck.teachers import CachedTeacher, LiveTeacher
from limbeck.testing import check_method

IMAGES = torch.rand(4, 1, 8, 8, dtype=torch.float64)


def network(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = "bcos_cnn" if kind == "bcos" else "cnn"
    options = {} if kind == "bcos" else {"norm": "none"}
    made = build_model(model, num_classes=6, input_shape=(1, 8, 8), channels=(4, 5), **options)
    return made.double().eval()


def terms_of(method, student, teacher, images=IMAGES, task="classification"):
    ours = TappedModel(student, method.student_taps())
    batch = Batch(inputs=images)
    if method.frozen:
        live = LiveTeacher(teacher)
        live.set_taps(method.teacher_taps())
        heard = live.ask(batch)
    else:
        heard = TappedModel(teacher)(batch).detach()

    def ask_student(asked, *, taps=(), require_grad=False):
        return TappedModel(student).ask(asked, taps, require_grad=require_grad)

    def ask_teacher(asked, name=None, *, taps=(), require_grad=False):
        return TappedModel(teacher).ask(asked, taps, require_grad=require_grad)

    ctx = Context(student=ask_student, teacher=ask_teacher, task=task)
    return method.losses(ours(batch), heard, batch, ctx)


def maps_by_hand(kind, model, images, label):
    """Written out: the slope of one logit of one image at a time."""
    rows = []
    for image in images:
        x = image[None].clone().requires_grad_()
        if kind == "bcos":
            encoded = model.encode(x).detach().requires_grad_()
            with explanation_mode():
                logit = model.head(model.pool(model.stages(encoded)))[0, label]
                rows.append(torch.autograd.grad(logit, encoded)[0][0])
        else:
            rows.append(torch.autograd.grad(model(x)[0, label], x)[0][0])
    return torch.stack(rows)


def cosine_gap(a, b):
    a, b = a.flatten(), b.flatten()
    return 1 - float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("kind", ["input_gradient", "bcos"])
def test_the_term_is_the_cosine_of_maps_written_out(kind):
    student, teacher = network(kind, 1), network(kind, 2)
    found = terms_of(E2KD(explainer=kind, lam=3.0), student, teacher)["explanation"]
    top = teacher(IMAGES).argmax(1).tolist()
    gaps = []
    for row, label in enumerate(top):
        images = IMAGES[row : row + 1]
        gaps.append(cosine_gap(*(maps_by_hand(kind, n, images, label) for n in (student, teacher))))
    assert float(found.detach()) == pytest.approx(3 * sum(gaps) / 4, rel=1e-8)
    assert 0 <= float(found.detach()) <= 6


@pytest.mark.parametrize("kind", ["gradcam", "input_gradient", "bcos"])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_reaches_early_layers_and_never_the_teacher(kind, frozen):
    student, teacher = network(kind, 1), network(kind, 2)
    method = E2KD(explainer=kind, frozen=frozen)
    terms_of(method, student, teacher)["explanation"].backward()
    first = student.stages[0].conv if kind == "bcos" else student.stages[0].conv1
    assert first.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["input_gradient", "bcos"])
def test_second_derivatives_are_right(kind):
    """Through a finite difference, at every weight of the first layer at once."""
    student, teacher = network(kind, 1), network(kind, 2)
    method = E2KD(explainer=kind)
    terms_of(method, student, teacher)["explanation"].backward()
    name = "stages.0.conv.weight" if kind == "bcos" else "stages.0.conv1.weight"
    weight = student.get_parameter(name)
    way, values = torch.randn_like(weight), []
    for sign in (1, -1):
        moved = copy.deepcopy(student)
        with torch.no_grad():
            moved.get_parameter(name).add_(sign * 1e-6 * way)
        values.append(float(terms_of(method, moved, teacher)["explanation"].detach()))
    claimed = float((weight.grad * way).sum())
    assert claimed == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("kind", ["gradcam", "input_gradient", "bcos"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(kind, frozen):
    teacher = network(kind, 2)
    found = terms_of(E2KD(explainer=kind, frozen=frozen), copy.deepcopy(teacher), teacher)
    assert float(found["kd"].detach()) == 0
    assert float(found["explanation"].detach()) == pytest.approx(0, abs=1e-7 if frozen else 0)


@pytest.mark.parametrize("kind", ["gradcam", "input_gradient", "bcos"])
def test_frozen_is_live_where_nothing_is_augmented(kind):
    student, teacher = network(kind, 1), network(kind, 2)
    live, frozen = (
        float(terms_of(E2KD(explainer=kind, frozen=f), student, teacher)["explanation"].detach())
        for f in (False, True)
    )
    assert frozen == pytest.approx(live, rel=1e-5)  # kept maps are float32


def test_shuffled_maps_are_those_of_the_neighbour():
    student, teacher = network("gradcam", 1), network("gradcam", 2)
    kind = "input_gradient"
    found = terms_of(E2KD(explainer=kind, shuffled=True), student, teacher)["explanation"]
    top = teacher(IMAGES).argmax(1).tolist()
    gaps = []
    for row, label in enumerate(top):
        other = (row - 1) % 4
        ours = maps_by_hand(kind, student, IMAGES[row : row + 1], label)
        theirs = maps_by_hand(kind, teacher, IMAGES[other : other + 1], top[other])
        gaps.append(cosine_gap(ours, theirs))
    assert float(found.detach()) == pytest.approx(sum(gaps) / 4, rel=1e-8)
    assert E2KD(shuffled=True).coupling == "batch"
    assert E2KD().coupling == "none"


@pytest.mark.parametrize("kind", ["input_gradient", "bcos"])
def test_each_predicted_label_is_explained(kind):
    student, teacher = network(kind, 1), network(kind, 2)
    scaled = copy.deepcopy(teacher)
    predicted = teacher(IMAGES) > 0
    assert 0 < predicted.sum() < predicted.numel()
    images = IMAGES
    found = terms_of(E2KD(explainer=kind, explained="each"), student, scaled, images, "multilabel")[
        "explanation"
    ]
    total = 0.0
    for row in range(4):
        labels = predicted[row].nonzero().flatten().tolist()
        one = images[row : row + 1]
        gaps = [
            cosine_gap(*(maps_by_hand(kind, n, one, label) for n in (student, teacher)))
            for label in labels
        ]
        total += sum(gaps) / len(gaps) if gaps else 0.0
    assert float(found.detach()) == pytest.approx(total / 4, rel=1e-8)


def test_a_sample_without_a_predicted_label_costs_nothing():
    student, teacher = network("gradcam", 1), network("gradcam", 2)
    with torch.no_grad():
        teacher.head.bias.fill_(-100.0)
    method = E2KD(explained="each")
    value = terms_of(method, student, teacher, task="multilabel")["explanation"]
    assert float(value) == 0


@pytest.mark.parametrize(
    "method",
    [
        {"explainer": "input_gradient"},
        {"explainer": "input_gradient", "every": 3},
        {"frozen": True},
    ],
    ids=repr,
)
def test_whole_runs_learn_and_end(method, tmp_path):
    kd = run(make_plan({"name": "kd", "temperature": 1.0, "weight": 1.0}, task_weight=0.0),
             tmp_path / "kd")  # fmt: skip
    some = run(make_plan({"name": "e2kd", **method}), tmp_path / "some")
    assert not same_weights(kd.student, some.student)
    due = ["explanation" in record for record in log_of(tmp_path / "some")]
    assert due == [step % method.get("every", 1) == 0 for step in range(8)]


@pytest.mark.parametrize("explainer", ["gradcam", "input_gradient", "bcos"])
def test_lambda_0_is_kd_to_the_bit_with_every_explainer(explainer, tmp_path):
    kd = run(make_plan({"name": "kd", "temperature": 2.0, "weight": 1.0}, task_weight=0.3),
             tmp_path / "kd")  # fmt: skip
    none = {"name": "e2kd", "lam": 0.0, "temperature": 2.0, "explainer": explainer}
    assert same_weights(
        kd.student, run(make_plan(none, task_weight=0.3), tmp_path / "none").student
    )


def test_a_cache_gives_frozen_maps_and_is_refused_for_live_ones():
    cache = CachedTeacher(network("gradcam", 2))
    with pytest.raises(MethodError, match=r"set method\.frozen=true, or use the teacher without"):
        refuse_gradients(E2KD(), cache.gives_gradients, "big")
    refuse_gradients(E2KD(frozen=True), cache.gives_gradients, "big")
    refuse_gradients(E2KD(lam=0.0), cache.gives_gradients, "big")


def test_a_frozen_run_from_a_cache_is_the_run_from_the_live_teacher(tmp_path):
    """Without augmentation; the teacher behind the cache is not asked in training."""
    method = {"name": "e2kd", "frozen": True}
    live = make_plan(method, data=digits())
    kept = make_plan(method, data=digits())
    (inner,) = kept.teachers.values()
    codec = {"name": "float32", "features": "float32"}
    kept.teachers["teacher"] = CachedTeacher(inner, tmp_path / "cache", codec=codec)
    assert same_weights(run(live, tmp_path / "a").student, run(kept, tmp_path / "b").student)


def test_contracts_hold_for_steps_that_are_far_between():
    check_method(E2KD(every=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"explainer": "lime"}, "method.explainer: expected one of gradcam, input_gradient, bcos"),
        ({"explained": "all"}, "method.explained: expected one of top, each"),
        ({"explained": "each", "frozen": True}, "method.explained: expected 'top' with frozen"),
    ],
)
def test_values_without_a_meaning_are_refused_by_name(given, message):
    with pytest.raises(MethodError, match=message):
        E2KD(**given)


def test_equal_maps_of_any_scale_have_no_distance():
    data = load_data("digits", num_train=8).splits["train"].fetch(torch.arange(4)).inputs
    assert float(functional.explanation_loss(data, 7 * data)) == pytest.approx(0, abs=1e-6)
