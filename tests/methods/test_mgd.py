"""MGD: what is blanked, what is generated from the rest, and between which networks."""

from __future__ import annotations

import pytest
import torch
from feature_runs import prepare
from method_runs import log_of, make_cnn, make_plan, run
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of_pair
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ShapeError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.methods.mgd import keep
from limbeck.taps.outputs import Outputs

__all__ = ["images"]  # a fixture


def seeded(seed: int = 0) -> Context:
    return Context(generator=torch.Generator().manual_seed(seed))


def scene(student: tuple[int, ...], teacher: tuple[int, ...], **arguments):
    runtime = prepare(make_method("mgd", **arguments), make_cnn(3, 4), make_cnn(5, 6), 8).double()
    ours, theirs = (torch.randn(*shape, dtype=torch.float64) for shape in (student, teacher))
    said, heard = (
        Outputs(torch.zeros(len(ours), 10), {taps[0]: feature})
        for taps, feature in ((runtime.student_taps(), ours), (runtime.teacher_taps(), theirs))
    )

    def value(seed: int = 0) -> Tensor:
        batch = Batch(inputs=said.logits)
        return runtime.losses(said, heard, batch, seeded(seed))["mgd"]

    return runtime, value, ours, theirs


def convolve(layer: nn.Conv2d, feature: Tensor) -> Tensor:
    """One sample's map, by sums over shifted copies."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    reach = weight.shape[2] // 2
    height, width = feature.shape[1:]
    wide = torch.zeros(len(feature), height + 2 * reach, width + 2 * reach, dtype=feature.dtype)
    wide[:, reach : reach + height, reach : reach + width] = feature
    made = bias.view(-1, 1, 1).expand(-1, height, width).clone()
    for y in range(weight.shape[2]):
        for x in range(weight.shape[3]):
            made += torch.einsum(
                "oc,chw->ohw", weight[:, :, y, x], wide[:, y : y + height, x : x + width]
            )
    return made


@pytest.mark.parametrize("mask", ["channels", "positions"])
def test_the_term_by_sums_over_samples(mask):
    runtime, value, ours, theirs = scene((3, 4, 4, 4), (3, 6, 4, 4), ratio=0.4, mask=mask)
    shape = (3, 6, 1, 1) if mask == "channels" else (3, 1, 4, 4)
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(0)) >= 0.4
    assert 0 < kept.sum() < kept.numel()
    expected = 0.0
    for b in range(3):
        aligned = convolve(runtime.alignments[0], ours[b]) * kept[b]
        first, _, second = runtime.generators[0]
        made = convolve(second, convolve(first, aligned).clamp(min=0))
        expected += float(((made - theirs[b]) ** 2).sum()) / 3
    assert value().item() == pytest.approx(expected, rel=1e-10)


def test_without_a_mask_every_draw_is_the_same_and_with_one_it_is_not():
    _, value, *_ = scene((3, 4, 4, 4), (3, 6, 4, 4), ratio=0.0)
    assert value(0) == value(1)
    _, value, *_ = scene((3, 4, 4, 4), (3, 6, 4, 4), ratio=0.5)
    assert value(0) != value(1)
    assert value(0) == value(0)


def test_as_many_are_blanked_as_the_ratio_says():
    feature = torch.zeros(200, 50, 2, 3)
    kept = keep(feature, 0.15, "channels", torch.Generator().manual_seed(0))
    assert kept.shape == (200, 50, 1, 1)
    assert 1 - kept.mean() == pytest.approx(0.15, abs=0.015)  # four standard errors
    assert keep(feature, 0.15, "positions", torch.Generator()).shape == (200, 1, 2, 3)


def test_equal_widths_are_not_aligned():
    runtime = prepare(make_method("mgd"), make_cnn(3, 6), make_cnn(5, 6), 8)
    assert not list(runtime.alignments.parameters())
    assert list(runtime.generators.parameters())


def test_maps_of_other_sizes_are_pooled():
    _, value, *_ = scene((2, 4, 8, 4), (2, 6, 4, 8))
    assert torch.isfinite(value())


def test_nothing_of_it_is_deployed(tmp_path):
    outcome = run(make_plan({"name": "mgd", "weight": 0.001}), tmp_path / "run")
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())
    assert all(record["mgd"] > 0 for record in log_of(tmp_path / "run"))


@pytest.mark.parametrize("pair", [("resnet", "timm_cnn"), ("timm_vit", "encoder"), ("odd", "vgg")])
def test_networks_of_all_kinds(pair, images):
    student, teacher = (FAMILIES[name] for name in pair)
    take_two_steps(plan_of_pair(student, teacher, make_method("mgd"), images))


def test_maps_against_tokens_are_refused(images):
    plan = plan_of_pair(FAMILIES["resnet"], FAMILIES["vit"], make_method("mgd"), images)
    with pytest.raises(ShapeError, match=r"method mgd: .*name layers that fit"):
        take_two_steps(plan)


@pytest.mark.parametrize(("key", "value"), [("ratio", 1.0), ("ratio", -0.1), ("mask", "rows")])
def test_settings_out_of_range_are_one_line(key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        make_method("mgd", **{key: value})
