"""Paths, globs, roles: what each names, and what each refusal says."""

import pytest
import torch
from torch import nn

from limbeck.errors import TapError
from limbeck.models import Cohort, build_model
from limbeck.taps import resolve_taps, unwrap


@pytest.fixture(scope="module")
def resnet():
    return build_model("resnet14", num_classes=10, input_shape=(3, 16, 16))


def spelled(model, taps, **options):
    return [(tap.name, tap.path, tap.side) for tap in resolve_taps(model, taps, **options)]


def test_paths_and_inputs_of_modules(resnet):
    assert spelled(resnet, ["layer2.0.conv1", "linear:in", "input"]) == [
        ("layer2.0.conv1", "layer2.0.conv1", "out"),
        ("linear:in", "linear", "in"),
        ("input", "", "in"),
    ]


def test_roles(resnet):
    assert spelled(resnet, "stages") == [
        ("stages.0", "layer1", "out"),
        ("stages.1", "layer2", "out"),
        ("stages.2", "layer3", "out"),
    ]
    assert spelled(resnet, ["stages.1", "stages[0]", "stages[-1]"]) == [
        ("stages.1", "layer2", "out"),
        ("stages[0]", "layer1", "out"),
        ("stages[-1]", "layer3", "out"),
    ]
    assert spelled(resnet, ["penultimate", "head", "head:in"]) == [
        ("penultimate", "pool", "out"),
        ("head", "linear", "out"),
        ("head:in", "linear", "in"),
    ]
    assert spelled(resnet, "stages:in")[0] == ("stages.0:in", "layer1", "in")


def test_a_role_may_name_inputs(resnet):
    assert spelled(resnet, "preactivations")[2] == ("preactivations.2", "layer3.1.relu2", "in")


def test_globs_do_not_cross_dots(resnet):
    assert [path for _, path, _ in spelled(resnet, "layer*")] == ["layer1", "layer2", "layer3"]
    norms = ["layer2.0.bn1", "layer2.0.bn2", "layer2.1.bn1", "layer2.1.bn2"]
    assert [path for _, path, _ in spelled(resnet, "layer2.*.bn?")] == norms
    every = [path for _, path, _ in spelled(resnet, "**.relu2")]
    assert every == [f"layer{i}.{j}.relu2" for i in (1, 2, 3) for j in (0, 1)]
    assert spelled(resnet, "layer?.0.relu2:in")[0] == (
        "layer1.0.relu2:in",
        "layer1.0.relu2",
        "in",
    )


def test_order_is_as_asked_and_names_are_kept_once(resnet):
    names = [tap.name for tap in resolve_taps(resnet, ["layer3", "layer*", "layer1", "stages"])]
    assert names == ["layer3", "layer1", "layer2", "stages.0", "stages.1", "stages.2"]


def test_two_names_of_one_tensor_share_a_key(resnet):
    first, second = resolve_taps(resnet, ["layer3", "stages[-1]"])
    assert first.name != second.name
    assert first.key == second.key


class Named(nn.Module):
    """A network whose modules bear the names of roles."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))

    def forward(self, inputs):
        return self.head(self.stages(inputs))


def test_roles_win_over_modules_and_a_dot_asks_for_the_module():
    model = Named()
    assert spelled(model, ["head", ".head"]) == [
        ("head", "head.1", "out"),
        (".head", "head", "out"),
    ]
    # No role "stages" is known, so the module of that name is meant.
    assert spelled(model, "stages") == [("stages", "stages", "out")]
    assert spelled(model, "stages.1") == [("stages.1", "stages.1", "out")]
    roles = {"stages": ["stages.0"]}
    assert spelled(model, ["stages", ".stages"], roles=roles) == [
        ("stages.0", "stages.0", "out"),
        (".stages", "stages", "out"),
    ]


def test_wrappers_are_looked_through(resnet):
    compiled = torch.compile(resnet, backend="eager")
    assert unwrap(compiled) is resnet
    assert spelled(compiled, "stages[-1]") == [("stages[-1]", "layer3", "out")]
    assert unwrap(nn.DataParallel(compiled)) is resnet


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ("layer4", r"unknown tap 'layer4': did you mean 'layer\d'"),
        ("layer2.0.conv9", r"did you mean 'layer2\.0\.conv\d'"),
        ("penultimte", "did you mean 'penultimate'"),
        ("zzzzzz", r"has modules conv1, bn1, relu, layer1.*roles stages"),
        ("block*", "no module of CifarResNet matches the tap 'block"),
        ("stages[3]", r"CifarResNet has 3 stages, 0 to 2: layer1, layer2, layer3"),
        ("stages.7", "has 3 stages"),
        ("stages[-4]", "has 3 stages"),
    ],
)
def test_refusals_are_one_clear_line(resnet, taps, message):
    with pytest.raises(TapError, match=message) as caught:
        resolve_taps(resnet, taps)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_model_without_stages_says_what_to_write():
    model = nn.Sequential(nn.Linear(2, 2))
    message = r"Sequential does not say .* name modules instead \(such as '0'\).*infer_roles"
    with pytest.raises(TapError, match=message):
        resolve_taps(model, "stages")
    with pytest.raises(TapError, match="no role 'head' and no linear layer"):
        resolve_taps(nn.Sequential(nn.ReLU()), "head")


def test_a_cohort_has_no_roles_of_its_own():
    cohort = Cohort([nn.Sequential(nn.Linear(2, 2)) for _ in range(2)])
    for role in ("stages", "head", "penultimate"):
        with pytest.raises(TapError, match=r"cohort has no roles of its own: tap 'members\.0\."):
            resolve_taps(cohort, role)
    assert spelled(cohort, "members.*.0")[1] == ("members.1.0", "members.1.0", "out")


def test_a_role_that_names_no_module_is_refused():
    with pytest.raises(TapError, match="role 'stages' of the model: unknown module 'layer9'"):
        resolve_taps(nn.Sequential(nn.Linear(2, 2)), "stages", roles={"stages": ["layer9"]})
