"""Comparing explanations of two networks: agreement, similarity, pointing game, worst group."""

import pytest
import torch

from limbeck.data import load_data
from limbeck.diagnostics import compare_explanations
from limbeck.errors import LimbeckError, MethodError, ShapeError
from limbeck.models import build_model


def network(seed: int, model: str = "cnn"):
    torch.manual_seed(seed)
    return build_model(model, num_classes=10, input_shape=(1, 8, 8), channels=(4, 6))


@pytest.fixture(scope="module")
def data():
    return load_data("digits", num_train=64)


@pytest.mark.parametrize(
    ("explainer", "model"), [("gradcam", "cnn"), ("input_gradient", "cnn"), ("bcos", "bcos_cnn")]
)
def test_a_network_agrees_with_itself_for_its_own_reasons(data, explainer, model):
    one = network(1, model).eval()
    found = compare_explanations(one, one, data, explainer=explainer)
    assert found.agreement == 1
    assert found.similarity == pytest.approx(1, abs=1e-6)
    assert found.num_samples == len(data.splits["test"])
    assert found.student_energy is None
    assert found.worst_group_accuracy is None


def test_figures_are_those_of_loops(data):
    student, teacher = network(1).eval(), network(2).eval()
    view = data.splits["validation"]
    raw = view.fetch(torch.arange(len(view)))
    images = data.augment_eval(raw.inputs, raw.index)
    masks = torch.rand(len(view), 8, 8) > 0.5
    groups = torch.arange(len(view)) % 3
    found = compare_explanations(
        student, teacher, data, split="validation", explainer="input_gradient", masks=masks,
        groups=groups, batch_size=50,
    )  # fmt: skip
    similar, energy, agree, right = [], [], 0, [[], [], []]
    for row, image in enumerate(images):
        top = int(teacher(image[None])[0].argmax())
        guess = int(student(image[None])[0].argmax())
        agree += guess == top
        right[row % 3].append(guess == int(raw.targets[row]))
        slopes = []
        for one in (student, teacher):
            x = image[None].clone().requires_grad_()
            slopes.append(torch.autograd.grad(one(x)[0, top], x)[0][0, 0])
        a, b = (slope.flatten() for slope in slopes)
        similar.append(float(a @ b / (a.norm() * b.norm())))
        up = slopes[0].clamp(min=0)
        energy.append(float(up[masks[row]].sum() / up.sum()))
    count = len(view)
    assert found.agreement == pytest.approx(agree / count)
    assert found.similarity == pytest.approx(sum(similar) / count, rel=1e-4)
    assert found.student_energy == pytest.approx(sum(energy) / count, rel=1e-4)
    assert found.accuracy == pytest.approx(sum(map(sum, right)) / count)
    assert found.worst_group_accuracy == pytest.approx(min(sum(g) / len(g) for g in right))


def test_networks_are_given_back_as_they_were(data):
    student, teacher = network(1).train(), network(2).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    compare_explanations(student, teacher, data)
    assert student.training
    assert teacher.training
    assert all(p.requires_grad and p.grad is None for p in student.parameters())
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_what_does_not_fit_is_refused(data):
    one = network(1)
    with pytest.raises(ShapeError, match=r"masks: 3 for \d+ samples of 'test'"):
        compare_explanations(one, one, data, masks=torch.ones(3, 8, 8))
    with pytest.raises(ShapeError, match=r"groups: 3 for \d+ samples of 'test'"):
        compare_explanations(one, one, data, groups=torch.zeros(3))
    with pytest.raises(MethodError, match="unknown explainer 'bcoss': did you mean 'bcos'"):
        compare_explanations(one, one, data, explainer="bcoss")
    with pytest.raises(LimbeckError, match=r"one of the splits .*test.* and 'tset'"):
        compare_explanations(one, one, data, split="tset")
