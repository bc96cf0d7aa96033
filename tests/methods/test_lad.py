"""LAD: which layers meet, what the gates make of them, and padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from feature_runs import prepare
from method_runs import log_of, make_cnn, make_plan, run, same_weights
from test_every_pair import (
    BATCH,
    CLASSES,
    FAMILIES,
    images,
    take_two_steps,
    token_classifier,
)
from test_every_pair import make_plan as plan_of
from torch import nn

from limbeck.data import bundle_from
from limbeck.data.batch import Batch
from limbeck.engine import distiller
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError, ShapeError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.methods.lad import LADRuntime
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

__all__ = ["images"]  # a fixture


def layers(name: str, count: int, shape: tuple[int, ...]) -> list[TapPair]:
    return [TapPair(f"{name}{i}", f"{name}{i}", shape, shape) for i in range(count)]


def runtime_of(ours: int, theirs: int, dim: int = 4, **parameters: Any) -> Any:
    torch.manual_seed(0)
    shape = (2, 5, dim)
    method = make_method("lad", **parameters)
    return LADRuntime(method, layers("s", ours, shape), layers("t", theirs, shape)).double()


def outputs(name: str, features: torch.Tensor) -> Outputs:
    named = {f"{name}{i}": feature for i, feature in enumerate(features)}
    return Outputs(torch.zeros(len(features[0]), 3), named)


def loss_of(runtime: Any, ours: torch.Tensor, theirs: torch.Tensor, inputs: Any = None) -> Any:
    said, heard = outputs("s", ours), outputs("t", theirs)
    batch = Batch(inputs=said.logits if inputs is None else inputs)
    return runtime.losses(said, heard, batch, Context())["lad"]


@pytest.mark.parametrize(
    ("ours", "theirs", "targets"),
    [(6, 12, [1, 3, 5, 7, 9, 11]), (4, 12, [2, 5, 8, 11]), (2, 3, [0, 2]), (3, 3, [0, 1, 2])],
)
def test_layers_are_spaced_evenly_and_the_last_meets_the_last(ours, theirs, targets):
    assert runtime_of(ours, theirs).targets == targets


def test_the_gates_are_trained_saved_and_left_behind(tmp_path):
    method = {"name": "lad", "weight": 1.0}
    whole = run(make_plan(method), tmp_path / "whole")
    assert list(whole.student.state_dict()) == list(make_cnn(4, 8).state_dict())
    assert all("lad" in record for record in log_of(whole.folder.path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(make_plan(method), tmp_path / "cut")
    resumed = run_plan(make_plan(method), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_the_default_weight():
    method = make_method("lad")
    assert (method.weight, method.card.task_weight) == (1000.0, 0.5)


@pytest.mark.parametrize("norm", ["position", "sequence"])
def test_every_layer_enters_the_aggregate(norm):
    runtime = runtime_of(2, 4, norm=norm)
    ours, theirs = torch.randn(2, 3, 5, 4).double(), torch.randn(4, 3, 5, 4).double()
    value = loss_of(runtime, ours, theirs)
    before, aggregates = theirs[0], [theirs[0]]
    for gate, layer in zip(runtime.gates, theirs[1:], strict=True):
        share = (before @ gate.gate.weight[:, :, 0, 0].T + gate.gate.bias).sigmoid()
        before = share * layer + (1 - share) * before
        dims = (2,) if norm == "position" else (1, 2)
        mean, variance = before.mean(dims, keepdim=True), before.var(dims, False, keepdim=True)
        before = (before - mean) / (variance + 1e-5).sqrt()
        aggregates.append(before)
    gaps = [(ours[0] - aggregates[1]).square().mean(), (ours[1] - aggregates[3]).square().mean()]
    torch.testing.assert_close(value, sum(gaps) / 2)


def test_gates_that_only_let_the_layer_through_give_plain_layer_matching():
    runtime = runtime_of(1, 2)
    (gate,) = runtime.gates
    nn.init.zeros_(gate.gate.weight)
    nn.init.constant_(gate.gate.bias, 1e3)
    gate.norm = nn.Identity()
    ours, theirs = torch.randn(1, 3, 5, 4).double(), torch.randn(2, 3, 5, 4).double()
    value = loss_of(runtime, ours, theirs)
    torch.testing.assert_close(value, (ours[0] - theirs[1]).square().mean())


def test_padding_changes_nothing():
    runtime = runtime_of(1, 2)
    ours, theirs = torch.randn(1, 2, 5, 4).double(), torch.randn(2, 2, 5, 4).double()
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    inputs = {"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": mask}
    value = loss_of(runtime, ours, theirs, inputs)
    shorter = {name: one[:, :3] for name, one in inputs.items()}
    torch.testing.assert_close(loss_of(runtime, ours[:, :, :3], theirs[:, :, :3], shorter), value)
    other = ours.clone()
    other[:, :, 3:] = 7.0
    torch.testing.assert_close(loss_of(runtime, other, theirs, inputs), value)


@pytest.mark.parametrize("pair", [("resnet", "vgg"), ("vit", "timm_vit")], ids="-".join)
def test_networks_of_one_form_teach_each_other(pair, images):
    student, teacher = (FAMILIES[family] for family in pair)
    method = make_method("lad", student_layers="stages[-1]")
    take_two_steps(plan_of(student, teacher, method, images))


def test_encoders_of_text():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(30, (3 * BATCH, 6), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    y = torch.arange(3 * BATCH) % CLASSES
    parts = [
        ({name: value[i : i + BATCH] for name, value in inputs.items()}, y[i : i + BATCH])
        for i in (0, BATCH, 2 * BATCH)
    ]
    data = bundle_from(*parts, num_classes=CLASSES)
    method = make_method("lad", student_layers="stages[-1]")
    take_two_steps(plan_of(token_classifier(8), token_classifier(16), method, data))


def test_what_does_not_fit_is_refused_with_what_to_name(images):
    with pytest.raises(ShapeError, match=r"the student has 3 layers, the teacher 2; name as many"):
        prepare(make_method("lad"), make_cnn(4, 6, 8), make_cnn(4, 6), 8)
    plan = plan_of(
        FAMILIES["resnet"], FAMILIES["vit"], make_method("lad", student_layers="layer3"), images
    )
    with pytest.raises(ShapeError, match=r"name layers that fit \(student_layers: …, teacher"):
        take_two_steps(plan)
    logits = torch.zeros(2, 3)
    with pytest.raises(MethodError, match="method lad: has learned parts, use it through"):
        make_method("lad")(logits, logits)
