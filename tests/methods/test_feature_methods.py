"""Feature methods: which layers meet, what every pair of networks gives, what is left behind."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from feature_runs import prepare
from method_runs import log_of, make_cnn, make_plan, run
from test_every_pair import CLASSES, FAMILIES, SHAPE, images, take_two_steps
from test_every_pair import make_plan as plan_of
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble
from limbeck.errors import MethodError, ShapeError, TapError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models import build_model
from limbeck.taps import tapping
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher
from limbeck.testing import check_method, contracts
from limbeck.testing.scene import make_scene

__all__ = ["images"]  # a fixture

# (weight, weight of the task term) that the reference codebases run.
PUBLISHED = {
    "at": (1000.0, 1.0),
    "nst": (50.0, 1.0),
    "vid": (1.0, 1.0),
    "cc": (0.02, 1.0),
    "fsp": (1.0, 1.0),
    "ab": (0.003, 1.0),
    "kdsvd": (1.0, 1.0),
    "ft": (200.0, 1.0),
    "ofd": (0.001, 1.0),
    "reviewkd": (5.0, 1.0),
    "catkd": (400.0, 1.0),
    "famkd": (1.0, 1.0),
    "blockkd": (0.9, 0.1),
}
ON_STAGES = ["at", "nst", "vid", "fsp", "kdsvd"]
"""Methods that compare the stages of any two networks of the same form."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_default_weights(name):
    method = make_method(name)
    assert (method.weight, method.card.task_weight) == PUBLISHED[name]


PAIRS = [
    ("resnet", "resnet"),
    ("resnet", "vgg"),
    ("mobilenetv2", "resnet"),
    ("shufflenetv2", "timm_cnn"),
    ("odd", "odd"),
    ("vit", "vit"),
    ("encoder", "encoder"),
]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("name", ON_STAGES)
def test_stages_of_one_form_teach_each_other(name, pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    take_two_steps(plan_of(student, teacher, make_method(name), images))


@pytest.mark.parametrize("name", ON_STAGES)
@pytest.mark.parametrize("pair", [("resnet", "vit"), ("vit", "resnet")], ids="-".join)
def test_maps_and_tokens_are_refused_with_what_to_name(name, pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    with pytest.raises(ShapeError) as caught:
        take_two_steps(plan_of(student, teacher, make_method(name), images))
    line = str(caught.value)
    assert "\n" not in line
    for part in (f"method {name}: student tap", "teacher tap", "pairs: [[student tap"):
        assert part in line


def test_tokens_that_differ_in_number_are_refused():
    def vit(patch: int) -> nn.Module:
        return build_model(
            "vit", num_classes=CLASSES, input_shape=SHAPE, dim=16, depth=2, heads=2, patch=patch
        )

    ctx = Context(example=Batch(inputs=torch.rand(2, *SHAPE)))
    with pytest.raises(ShapeError, match="the numbers of tokens differ"):
        make_method("at").prepare(vit(8), {"teacher": LiveTeacher(vit(16))}, None, ctx)


def test_vectors_have_no_positions():
    with pytest.raises(ShapeError, match="compares maps or tokens of both"):
        prepare(make_method("at", pairs="penultimate"), make_cnn(4, 8), make_cnn(4, 8), 8)


def test_tokens_are_positions_and_their_entries_channels():
    tokens = torch.rand(2, 3, 6, 4, dtype=torch.float64)  # student and teacher, batch, tokens, dim
    logits = torch.zeros(3, 2)
    said, heard = (Outputs(logits, {"layer": feature}) for feature in tokens)
    batch = Batch(inputs=logits)
    value = make_method("at").losses(said, heard, batch, Context())["at"]
    rows = [torch.nn.functional.normalize(x.square().mean(2), dim=1) for x in tokens]
    torch.testing.assert_close(value, (rows[0] - rows[1]).square().mean())


def test_a_loop_of_ones_own_passes_features():
    maps = torch.rand(2, 4, 3, 5, 5)
    logits = torch.zeros(4, 2)
    terms = make_method("at", weight=2.0)(
        Outputs(logits, {"a": maps[0]}), Outputs(logits, {"b": maps[1]})
    )
    assert terms["at"] == 2 * functional.attention_transfer(maps[0], maps[1])
    with pytest.raises(MethodError, match="pass Outputs with as many of the student"):
        make_method("at")(logits, logits)


@pytest.mark.parametrize("name", ["at", "nst"])
def test_the_term_is_the_sum_over_the_stages(name):
    runtime = prepare(make_method(name), make_cnn(2, 3, 4), make_cnn(5, 6, 7), 8)
    names = runtime.student_taps()
    assert names == runtime.teacher_taps() == ("stages.0", "stages.1", "stages.2")
    ours = {n: torch.rand(2, 3, 4, 4) for n in names}
    theirs = {n: torch.rand(2, 5, 4, 4) for n in names}
    logits = torch.zeros(2, 10)
    batch = Batch(inputs=logits)
    value = runtime.losses(Outputs(logits, ours), Outputs(logits, theirs), batch, Context())[name]
    equation = {"at": functional.attention_transfer, "nst": functional.neuron_selectivity}[name]
    expected = sum(float(equation(ours[n], theirs[n])) for n in names)
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_deployed_has_no_adapters(name, tmp_path):
    outcome = run(make_plan(name), tmp_path / "run")
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())
    assert not any(module._forward_hooks for module in outcome.student.modules())
    assert any(name in record for record in log_of(outcome.folder.path))


OTHERS = [
    make_method("at", power=1, distance="norm"),
    make_method("at", pairs=(("stages.0", "stages.1"),)),
    make_method("nst", kernel="gaussian"),
    make_method("nst", kernel="gaussian", bandwidth=0.5),
    make_method("nst", kernel="linear"),
    make_method("cc", pairs="stages"),
    make_method("vid", pairs=(("stages.0", "stages.1"),), variance=0.5),
    make_method("kdsvd", rank=2),
    make_method("ab", pairs="stages", margin=0.3),
    make_method("ft", form="flat", rate=0.7),
    make_method("ofd", pairs="stages"),
    make_method("reviewkd", pairs="stages", warmup_epochs=0),
    make_method("catkd", normalise=False, size=1, binarise=True),
    make_method("blockkd", pairs="stages", decay=1.0, connector="auto"),
    make_method("lad", norm="sequence", student_layers="stages[-1]"),
    make_method("famkd", pairs="stages", warmup_epochs=0, review=False, low_cut=0.5),
]


@pytest.mark.parametrize("method", OTHERS, ids=lambda method: method.describe())
def test_contracts_hold_for_other_parameters(method):
    check_method(method)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("at", "power", 0),
        ("at", "power", 1.5),
        ("at", "distance", "l1"),
        ("nst", "kernel", "rbf"),
        ("nst", "degree", 0),
        ("nst", "bandwidth", 0.0),
        ("vid", "variance", 1e-6),
        ("vid", "epsilon", 0.0),
        ("cc", "form", "rbf"),
        ("cc", "dim", 0),
        ("cc", "gamma", 0.0),
        ("cc", "order", 0),
        ("fsp", "init_epochs", -1),
        ("fsp", "projector", "linear"),
        ("ab", "init_epochs", -1),
        ("ab", "margin", 0.0),
        ("kdsvd", "rank", 0),
        ("ft", "form", "l1"),
        ("ft", "rate", 0.0),
        ("ft", "fit_epochs", 0),
        ("ft", "fit_lr", 0.0),
        ("ft", "fit_batch_size", 1),
        ("reviewkd", "warmup_epochs", -1),
        ("kdsvd", "projector", "linear"),
        ("catkd", "size", 0),
        ("famkd", "low_cut", 1.0),
        ("famkd", "warmup_epochs", -1),
        ("lad", "norm", "batch"),
        ("blockkd", "temperature", 0.0),
        ("blockkd", "decay", 1.5),
        ("blockkd", "connector", "linear"),
    ],
)
def test_values_without_a_meaning_are_refused(name, key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected .* got .*\({name}\)"):
        make_method(name, **{key: value})


# Layers before the ReLU

ON_PREACTIVATIONS = ["ab", "ofd", "reviewkd"]
DECLARED = [("resnet", "resnet"), ("resnet", "vgg"), ("vgg", "resnet")]


@pytest.mark.parametrize("pair", DECLARED, ids="-".join)
@pytest.mark.parametrize("name", ON_PREACTIVATIONS)
def test_layers_before_the_relu_pair_by_depth(name, pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    plan = plan_of(student, teacher, make_method(name), images)
    take_two_steps(plan)


@pytest.mark.parametrize("name", ON_PREACTIVATIONS)
@pytest.mark.parametrize(
    ("pair", "side"),
    [
        (("resnet", "timm_cnn"), "teacher's"),
        (("resnet", "shufflenetv2"), "teacher's"),
        (("resnet", "vit"), "teacher's"),
    ],
)
def test_layers_before_the_relu_must_be_declared_for_auto(name, pair, side, images):
    student, teacher = (FAMILIES[family] for family in pair)
    with pytest.raises(TapError) as caught:
        take_two_steps(plan_of(student, teacher, make_method(name), images))
    line = str(caught.value)
    assert "\n" not in line
    assert f"'auto' reads the {side} layers before their ReLU" in line
    assert "pairs: stages" in line


def test_what_that_line_says_can_be_done(images):
    method = make_method("ab", pairs="stages")
    take_two_steps(plan_of(FAMILIES["shufflenetv2"], FAMILIES["timm_cnn"], method, images))


def test_maps_that_no_connector_fits_are_refused_with_what_to_name(images):
    plan = plan_of(FAMILIES["mobilenetv2"], FAMILIES["resnet"], make_method("ab"), images)
    with pytest.raises(ShapeError, match=r"name layers that fit \(pairs: \[\[student tap"):
        take_two_steps(plan)


# The variances of VID


def test_variances_are_trained_with_the_student(tmp_path):
    outcome = run(make_plan("vid", epochs=4), tmp_path / "run")
    variances = [record["vid/variance"] for record in log_of(outcome.folder.path, "epoch")]
    assert variances[0] != pytest.approx(5.0, abs=1e-4)
    assert variances == sorted(variances, reverse=True)  # 5 is far above these features' errors
    assert len(set(variances)) == 4


# CC


def test_the_kernel_form_learns_nothing_beside_the_student_and_keeps_more_promises():
    method = make_method("cc", form="kernel")
    runtime = prepare(method, make_cnn(4, 8), make_cnn(4, 8), 8)
    assert not list(runtime.parameters())
    for contract in (contracts.zero_at_equality, contracts.permutation):
        contract(functools.partial(make_scene, method))
    rows = torch.rand(2, 4, 6)
    logits = torch.zeros(4, 2)
    said, heard = (Outputs(logits, {"pool": feature}) for feature in rows)
    value = method.losses(said, heard, Batch(inputs=logits), Context())["cc"]
    assert value == functional.correlation_congruence(*rows)


def test_the_embeddings_of_neighbours_are_both_trained():
    runtime = prepare(make_method("cc", dim=7), make_cnn(4, 8), make_cnn(5, 9), 8)
    shapes = [tuple(value.shape) for value in runtime.parameters()]
    assert shapes == [(7, 8), (7,), (7, 9), (7,)]
    assert all(value.requires_grad for value in runtime.parameters())


def test_methods_with_learned_parts_need_a_runtime():
    logits = torch.zeros(2, 3)
    features = {"pool": torch.rand(2, 3)}
    with pytest.raises(MethodError, match="method cc: has learned parts, use it through"):
        make_method("cc")(Outputs(logits, features), Outputs(logits, features))


# Widths


@pytest.mark.parametrize("name", ["fsp", "kdsvd"])
def test_layers_of_one_width_need_no_projector(name):
    runtime = prepare(make_method(name), make_cnn(4, 8), make_cnn(4, 8), 8)
    assert not list(runtime.parameters())
    runtime = prepare(make_method(name), make_cnn(4, 8), make_cnn(4, 9), 8)
    assert [tuple(value.shape) for value in runtime.parameters()] == [(9, 8, 1, 1)]
    with pytest.raises(ShapeError, match=r"has 8 channels, teacher tap 'stages\.1' has 9"):
        prepare(make_method(name, projector="identity"), make_cnn(4, 8), make_cnn(4, 9), 8)
    with pytest.raises(ShapeError, match="compares consecutive layers and found one pair alone"):
        prepare(make_method(name, pairs="stages.0"), make_cnn(4, 8), make_cnn(4, 8), 8)


# Phases


@pytest.mark.parametrize("name", ["ab", "fsp"])
def test_the_first_phase_is_an_eighth_of_the_epochs(name, tmp_path):
    def stages(epochs: int, **parameters: Any) -> list[tuple[str, int | None]]:
        plan = make_plan({"name": name, **parameters}, epochs=epochs)
        parts = assemble(plan, World())
        parts.close()
        return [(stage.name, stage.epochs) for stage in parts.stages]

    assert stages(240) == [("init", 30), ("distil", 210)]
    assert stages(2) == [("init", 1), ("distil", 1)]
    assert stages(5, init_epochs=3) == [("init", 3), ("distil", 2)]
    assert stages(5, init_epochs=0) == [("train", 5)]
    outcome = run(make_plan("kd", {"name": name}), tmp_path / "run")
    by_epoch: dict[int, set[str]] = {0: set(), 1: set()}
    for record in log_of(outcome.folder.path):
        by_epoch[record["epoch"]] |= set(record) & {"task", "kd", name}
    assert by_epoch == {0: {name}, 1: {"task", "kd"}}


# AB


def test_connectors_stand_where_shapes_differ_and_deeper_layers_count_double():
    runtime = prepare(make_method("ab"), make_cnn(4, 8, 6), make_cnn(4, 9, 6), 8).eval()
    kinds = [type(connector) for connector in runtime.connectors]
    assert kinds == [nn.Identity, nn.Sequential, nn.Identity]
    assert [type(part) for part in runtime.connectors[1]] == [nn.Conv2d, nn.BatchNorm2d]
    taps = runtime.student_taps()
    assert taps == ("preactivations.0", "preactivations.1", "preactivations.2")
    ours = dict(zip(taps, (torch.randn(2, c, 4, 4) for c in (4, 8, 6)), strict=True))
    theirs = dict(zip(taps, (torch.randn(2, c, 4, 4) for c in (4, 9, 6)), strict=True))
    logits = torch.zeros(2, 10)
    batch = Batch(inputs=logits)
    value = runtime.losses(Outputs(logits, ours), Outputs(logits, theirs), batch, Context())["ab"]
    parts = [
        functional.activation_boundary(connector(ours[tap]), theirs[tap])
        for connector, tap in zip(runtime.connectors, taps, strict=True)
    ]
    torch.testing.assert_close(value, parts[0] / 4 + parts[1] / 2 + parts[2])


@pytest.mark.parametrize("layers", [1, 2])
def test_the_small_cnns_layers_before_the_relu_are_its_stages_before_it(layers):
    network = build_model(
        "cnn", num_classes=3, input_shape=(1, 8, 8), channels=(4, 6), layers=layers
    ).eval()
    with tapping(network, ["stages", "preactivations"]) as store, torch.no_grad():
        network(torch.rand(2, 1, 8, 8))
    for place in range(2):
        before, after = store[f"preactivations.{place}"], store[f"stages.{place}"]
        assert torch.equal(before.relu(), after)
        assert (before < 0).any()
