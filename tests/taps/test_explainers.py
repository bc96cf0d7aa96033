"""Explainers: input gradients and B-cos weights in closed form, names, and what is refused."""

import pytest
import torch
from torch import nn

from limbeck.errors import MethodError, TapError
from limbeck.models import build_model
from limbeck.taps import TappedModel
from limbeck.taps.explaining import (
    BcosWeights,
    GradCAM,
    InputGradient,
    explainer_named,
    make_explainer,
)

IMAGES = torch.rand(3, 1, 8, 8, dtype=torch.float64)
CLASSES = torch.tensor([1, 0, 3])


def explained(explainer, model, images=IMAGES, *, graph=False):
    tapped = TappedModel(model)
    said = explainer.pass_over(lambda taps: tapped.ask(images, taps, require_grad=True))
    return explainer.map(said, CLASSES[: len(images)], graph=graph)


def test_the_input_gradient_of_a_linear_network_is_its_row():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    found = explained(InputGradient(), model)
    torch.testing.assert_close(found, model[1].weight[CLASSES].view(3, 1, 8, 8).detach())


def test_the_input_gradient_of_a_hidden_layer_is_the_chain_rule():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    hidden = torch.tanh(model[1](IMAGES.flatten(1)))
    rows = (model[3].weight[CLASSES] * (1 - hidden**2)) @ model[1].weight
    torch.testing.assert_close(explained(InputGradient(), model), rows.view(3, 1, 8, 8).detach())


def test_bcos_weights_give_the_logit_back():
    model = build_model("bcos_cnn", num_classes=4, input_shape=(1, 8, 8), channels=(4, 6)).double()
    model.eval()
    weights = explained(BcosWeights(), model)
    assert weights.shape == (3, 2, 8, 8)
    logits = model(IMAGES).gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close((weights * model.encode(IMAGES)).sum((1, 2, 3)), logits)


@pytest.mark.parametrize("kind", ["input_gradient", "bcos"])
def test_maps_are_differentiated_through_only_where_asked(kind):
    model = build_model("bcos_cnn", num_classes=4, input_shape=(1, 8, 8), channels=(4, 6)).double()
    assert not explained(make_explainer(kind), model).requires_grad
    explained(make_explainer(kind), model, graph=True).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.stages.parameters())


def test_names_read_back_and_layers_are_no_names():
    for one in (GradCAM(), GradCAM("layer4.1"), InputGradient(), BcosWeights("encode")):
        assert explainer_named(one.name) == one
    assert GradCAM().name == "explanation:gradcam:stages[-1]"
    for layer in ("stages[-1]", "explanation", "conv1:in", "input"):
        assert explainer_named(layer) is None


def test_an_unknown_explainer_gives_the_nearest_one():
    with pytest.raises(MethodError, match="unknown explainer 'grad_cam': did you mean 'gradcam'"):
        make_explainer("grad_cam")


def test_a_network_without_encoded_pixels_is_no_bcos_network():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    with pytest.raises(TapError, match="encode"):
        explained(BcosWeights(), model)


def test_a_first_layer_in_place_is_refused_in_a_line():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 4)).double()
    with pytest.raises(TapError, match=r"tap 'input'.*in place.*inplace=False") as caught:
        explained(InputGradient(), model)
    assert "\n" not in str(caught.value)


def test_activations_in_place_farther_on_are_no_harm():
    """Their result is all that a second derivative needs."""
    torch.manual_seed(0)
    chains = []
    for inplace in (False, True):
        torch.manual_seed(1)
        chain = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace), nn.Conv2d(3, 4, 3), nn.ReLU(inplace),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
        ).double()  # fmt: skip
        for one in (GradCAM("3"), InputGradient()):
            explained(one, chain, graph=True).square().sum().backward()
        chains.append([parameter.grad for parameter in chain.parameters()])
    for ours, theirs in zip(*chains, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)
