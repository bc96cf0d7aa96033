"""Networks that parts were grafted on: their paths, their copies, their folder."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from limbeck.errors import ModelError
from limbeck.models import build_model, load_model, model_spec, save_model
from limbeck.models.grown import GROWN, Grafted, graft, grow, grown_spec, name_of
from limbeck.models.knowledge_layer import CosineMap, KnowledgeLayer
from limbeck.taps import resolve_taps, tapping


def layer(**arguments):
    torch.manual_seed(1)
    made = KnowledgeLayer(**arguments).double()
    nn.init.normal_(made.norm.weight)
    nn.init.normal_(made.norm.bias)
    return made


def test_the_layer_adds_value_vectors_weighed_by_templates():
    made, feature = layer(channels=3, templates=5, ratio=0.7), torch.randn(2, 3, 4, 2).double()
    made.norm.eps = 0
    said = made.eval()(feature)
    for sample in range(2):
        for row in range(4):
            for column in range(2):
                x = feature[sample, :, row, column]
                cosines = [
                    3.0 * torch.cosine_similarity(w, x, dim=0) for w in made.templates.weight
                ]
                share = (torch.stack(cosines) * made.norm.weight + made.norm.bias).clamp(min=0)
                share = share / share.norm()
                vectors = made.values.weight / made.values.weight.norm(dim=1, keepdim=True)
                expected = x + 0.7 * vectors @ share
                torch.testing.assert_close(said[sample, :, row, column], expected)


def test_the_layer_reads_maps_tokens_and_vectors_alike():
    made, tokens = layer(channels=3, templates=5).eval(), torch.randn(2, 6, 3).double()
    maps = tokens.mT.reshape(2, 3, 2, 3)
    torch.testing.assert_close(made(tokens).mT.reshape(2, 3, 2, 3), made(maps))
    torch.testing.assert_close(made(tokens[:, 4]), made(tokens)[:, 4])


def test_scores_have_no_scale_and_values_only_a_direction():
    made, feature = layer(channels=3, templates=5).eval(), torch.randn(2, 3, 4).double()
    cosine = CosineMap(3, 5, scale=3.0).double()
    torch.testing.assert_close(cosine(7 * feature), cosine(feature))
    before = made(feature.mT)
    with torch.no_grad():
        made.norm.weight *= 4
        made.norm.bias *= 4
    torch.testing.assert_close(made(feature.mT), before)


def test_a_layer_that_adds_nothing_changes_no_bit():
    student = build_model("resnet8", num_classes=10, input_shape=(3, 16, 16)).eval()
    inputs = torch.randn(2, 3, 16, 16)
    before = student(inputs)
    graft(student, "layer3", KnowledgeLayer(64, 7, ratio=0.0))
    assert torch.equal(student(inputs), before)


def test_paths_and_roles_of_before_still_name_what_they_named():
    student = build_model("resnet8", num_classes=10, input_shape=(3, 16, 16)).eval()
    taps = ["layer3.0.conv1", "preactivations", "stages.2", "layer3.0"]
    before = {tap.name: student.get_submodule(tap.path) for tap in resolve_taps(student, taps)}
    where = graft(student, "layer3", KnowledgeLayer(64, 7))
    assert where == "layer3.part"
    after = {tap.name: student.get_submodule(tap.path) for tap in resolve_taps(student, taps)}
    assert isinstance(after.pop("stages.2"), Grafted)
    before.pop("stages.2")
    assert after == before
    with tapping(student, ["stages.2", "layer3.part", "layer3.0.conv1"]) as store:
        student(torch.rand(2, 3, 16, 16))
    assert torch.equal(store["stages.2"], store["layer3.part"])


def test_a_part_before_a_module_and_in_its_place():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    first, _, last = network
    inputs = torch.randn(5, 3)
    graft(network, "2", part := nn.Linear(3, 3), "in")
    torch.testing.assert_close(network(inputs), last(part(first(inputs).relu())))
    graft(network, "2", other := nn.Linear(3, 4), "instead")
    torch.testing.assert_close(network(inputs), other(first(inputs).relu()))


def test_what_a_network_reads_off_its_parts_is_found_and_copies_work():
    class Part(nn.Linear):
        kind = "wide"

    network = nn.Sequential(Part(3, 3))
    graft(network, "0", nn.Identity())
    assert network[0].kind == "wide"
    assert network[0]  # a module without a length is no empty list
    assert copy.deepcopy(network)[0].out_features == 3
    with pytest.raises(AttributeError, match="nothing"):
        network[0].nothing  # noqa: B018


def test_the_folder_of_a_grown_network_rebuilds_it(tmp_path):
    given = model_spec("resnet8", num_classes=10, input_shape=(3, 16, 16))
    arguments = {"channels": 64, "templates": 6, "ratio": 0.5}
    parts = [
        {"at": f"layer3{deep}", "side": "out", "part": "knowledge_layer", "arguments": arguments}
        for deep in (".0", "")
    ]
    student = grow(build_model("resnet8", num_classes=10, input_shape=(3, 16, 16)), parts).eval()
    spec = grown_spec(given, parts)
    assert name_of(spec) == "resnet8 (grown)"
    assert spec["model"] == GROWN
    save_model(student, tmp_path / "student", spec)
    inputs = torch.randn(3, 3, 16, 16)
    assert torch.equal(load_model(tmp_path / "student")(inputs), student(inputs))
    assert torch.equal(build_model(str(tmp_path / "student"))(inputs), student(inputs))
    assert grown_spec(None, parts) is None
    assert name_of(given) == "resnet8"
    assert name_of(None) is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"at": "layer4"}, "unknown module to grow at 'layer4'"),
        ({"side": "behind"}, "unknown side 'behind'"),
        ({"part": "knowledge_lair"}, "unknown part 'knowledge_lair'.*knowledge_layer"),
    ],
)
def test_what_cannot_be_grown_is_one_line(change, line):
    part = {"at": "layer3", "side": "out", "part": "linear", "arguments": {}}
    part["arguments"] = {"in_features": 2, "out_features": 2}
    network = build_model("resnet8", num_classes=10, input_shape=(3, 16, 16))
    with pytest.raises(ModelError, match=line):
        grow(network, [{**part, **change}])


def test_a_cosine_map_starts_where_the_authors_start_it():
    torch.manual_seed(0)
    made = CosineMap(8, 4000, scale=3.0)
    assert made.weight.std().item() == pytest.approx((2 / 8) ** 0.5, rel=0.02)
    inputs = torch.randn(2, 8, 3)
    expected = torch.einsum("kd,bdl->bkl", normalize(made.weight), normalize(inputs))
    torch.testing.assert_close(made(inputs), 3 * expected)
