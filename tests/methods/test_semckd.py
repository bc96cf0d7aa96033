"""SemCKD: what is weighed, by what, and batches that are not full."""

from __future__ import annotations

import pytest
import torch
from feature_runs import prepare
from method_runs import log_of, make_cnn, make_plan, run
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of_pair
from torch.nn.functional import adaptive_avg_pool2d

from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ShapeError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.methods.semckd import SemCKD
from limbeck.taps.outputs import Outputs

__all__ = ["images"]  # a fixture


def scene(size: int, batch_size: int = 4, **arguments):
    runtime = prepare(
        make_method("semckd", batch_size=batch_size, **arguments), make_cnn(3, 4), make_cnn(5, 6), 8
    )
    runtime.double().eval()
    shapes = [(size, 3, 8, 8), (size, 4, 4, 4)], [(size, 5, 8, 8), (size, 6, 2, 2)]
    sides = [[torch.randn(*shape, dtype=torch.float64) for shape in side] for side in shapes]
    said, heard = (
        Outputs(torch.zeros(size, 10), dict(zip(taps, side, strict=True)))
        for taps, side in zip((runtime.student_taps(), runtime.teacher_taps()), sides, strict=True)
    )
    return runtime, said, heard, sides


def value(runtime, said, heard):
    return runtime.losses(said, heard, Batch(inputs=said.logits), Context())["semckd"]


@pytest.mark.parametrize("size", [4, 3])
def test_every_layer_against_every_layer_by_loops(size):
    runtime, said, heard, (ours, theirs) = scene(size, softness=0.5)

    def direction(embed, feature, sample):
        row = torch.zeros(4, dtype=torch.float64)
        for other in range(size):
            row[other] = (feature[sample] * feature[other]).sum()
        vector = embed.layers(row)
        return vector / vector.norm()

    expected = 0.0
    for b in range(size):
        for layer, mine in enumerate(ours):
            query = direction(runtime.queries[layer], mine, b)
            keys = [direction(k, t, b) for k, t in zip(runtime.keys, theirs, strict=True)]
            shares = torch.stack([query @ key / 0.5 for key in keys]).softmax(0)
            for j, other in enumerate(theirs):
                side = min(mine.shape[2], other.shape[2])
                a, t = (adaptive_avg_pool2d(f[b : b + 1], side) for f in (mine, other))
                gap = (runtime.projectors[layer][j](a) - t).square().mean()
                expected += shares[j] * gap / (size * len(ours))
    torch.testing.assert_close(value(runtime, said, heard), expected)


def test_a_layer_that_alone_fits_is_all_that_counts_when_attention_is_sharp():
    runtime, said, heard, (ours, theirs) = scene(4, batch_size=16, softness=1e-6)
    shares = runtime.attention(ours, theirs)
    assert shares.max(dim=2).values.min() > 1 - 1e-6
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(4, 2, dtype=torch.float64))
    assert torch.isfinite(value(runtime, said, heard))


def test_a_batch_larger_than_attention_reads_is_refused():
    runtime, said, heard, _ = scene(5)
    with pytest.raises(MethodError, match=r"method\.batch_size: .* of a step, 5, got 4"):
        value(runtime, said, heard)


def test_nothing_of_it_is_deployed(tmp_path):
    outcome = run(make_plan({"name": "semckd", "batch_size": 16, "weight": 1}), tmp_path / "run")
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())
    assert all(record["semckd"] > 0 for record in log_of(tmp_path / "run"))


@pytest.mark.parametrize("pair", [("resnet", "vgg"), ("timm_vit", "encoder"), ("odd", "vgg")])
def test_networks_of_all_kinds(pair, images):
    student, teacher = (FAMILIES[name] for name in pair)
    take_two_steps(plan_of_pair(student, teacher, SemCKD(), images))


def test_maps_against_tokens_are_refused(images):
    plan = plan_of_pair(FAMILIES["resnet"], FAMILIES["vit"], SemCKD(), images)
    with pytest.raises(ShapeError, match=r"method semckd: .*name layers that fit"):
        take_two_steps(plan)


@pytest.mark.parametrize("key", ["batch_size", "softness"])
def test_settings_out_of_range_are_one_line(key):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        make_method("semckd", **{key: 0})
