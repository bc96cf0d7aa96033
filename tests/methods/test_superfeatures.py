"""Superfeatures: which features act together, and what the explaining network is given."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import networkx
import pytest
import torch
from method_runs import digits, make_cnn, make_plan, run, same_weights, teacher_network
from torch import nn

from limbeck.engine import distiller
from limbeck.engine.distributed import World
from limbeck.engine.running import run_plan
from limbeck.engine.setup import assemble, fit_runtimes
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError
from limbeck.functional import explanation_hessian, feature_interactions
from limbeck.methods import make_method
from limbeck.methods.communities import communities
from limbeck.methods.context import Context
from limbeck.models import build_model
from limbeck.teachers.live import LiveTeacher


def blocks(*sizes: int, between: float = 0.0) -> torch.Tensor:
    """Strengths of 1 within blocks, and ``between`` elsewhere."""
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    strength = (owner[:, None] == owner).double().clamp(min=between)
    return strength.fill_diagonal_(0)


def fitted(*methods: object, **train: object):
    parts = assemble(make_plan(*methods, **train), World())
    fit_runtimes(parts, digits())
    return parts


def test_blocks_are_communities():
    order = torch.randperm(9)
    strength = blocks(4, 3, 2, between=0.05)[order][:, order]
    group = communities(strength, 3)
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor([4, 3, 2]))[order]
    for block in range(3):
        assert len(set(group[owner == block].tolist())) == 1
    assert group[0] == 0  # counted in the order of their first features
    assert sorted(set(group.tolist())) == [0, 1, 2]


def test_a_function_of_two_blocks_gives_two_superfeatures():
    """f = g1(x1, x2) + g2(x3, x4): {1, 2} and {3, 4}."""

    def logits_of(x):
        inner = torch.sin(x[:, 0] * x[:, 1]) + torch.cos(x[:, 2] * x[:, 3])
        return torch.stack([inner, torch.full_like(inner, 40.0)], dim=1)

    inputs = torch.rand(6, 4, dtype=torch.float64)
    strength = feature_interactions(explanation_hessian(inputs, logits_of))
    assert communities(strength, 2).tolist() == [0, 0, 1, 1]


def test_the_walk_is_that_of_the_authors_until_it_turns(monkeypatch):
    """From 1 up by 0.01 for too few communities, down for too many."""
    seen = []
    real = networkx.community.louvain_communities

    def note(graph, **options):
        seen.append((options["resolution"], options["seed"]))
        return real(graph, **options)

    monkeypatch.setattr(networkx.community, "louvain_communities", note)
    ring = torch.zeros(24, 24)
    for a, b in pairwise([*range(24), 0]):
        ring[a, b] = ring[b, a] = 1.0
    first = len(set(communities(ring, 5).tolist()))
    assert first == 5
    assert seen[0] == (1.0, 100)
    steps = [round(b[0] - a[0], 9) for a, b in pairwise(seen)]
    turned = [i for i, (a, b) in enumerate(pairwise(steps)) if a * b < 0]
    assert set(map(abs, steps[: turned[0] + 1] if turned else steps)) <= {0.01}


def test_the_step_is_halved_where_the_walk_turns(monkeypatch):
    """Three communities below 1.005, five from there on, four at 1.005 exactly."""
    seen = []

    def scripted(graph, *, resolution, **_options):
        seen.append(resolution)
        count = 4 if abs(resolution - 1.005) < 1e-9 else 3 if resolution < 1.005 else 5
        return [{i} for i in range(count - 1)] + [set(range(count - 1, 6))]

    monkeypatch.setattr(networkx.community, "louvain_communities", scripted)
    group = communities(blocks(3, 3, between=0.1), 4)
    assert seen == pytest.approx([1.0, 1.01, 1.005])
    assert len(set(group.tolist())) == 4


def test_a_number_that_never_comes_is_said():
    with pytest.raises(
        MethodError, match=r"7 resolutions, .* gave 2 to 2 communities of features, never 3"
    ):
        communities(blocks(2, 2), 3, tries=7, step=0.001)


def test_features_that_do_nothing_fill_the_small_groups():
    strength = torch.zeros(9, 9, dtype=torch.float64)
    strength[:6, :6] = blocks(4, 2)
    group = communities(strength, 2)
    assert group[:6].tolist() == [0, 0, 0, 0, 1, 1]
    assert group[6:].tolist() == [1, 1, 0]
    assert communities(torch.zeros(3, 3), 1).tolist() == [0, 0, 0]


def test_the_student_gets_the_groups_and_the_prior_of_its_teacher():
    parts = fitted("superfeatures")
    (runtime,) = parts.runtimes
    view = digits().splits["train"]
    raw = view.fetch(torch.arange(len(view)))
    shown = digits().augment_eval(raw.inputs, raw.index)
    teacher = teacher_network()
    with torch.no_grad():
        expected = teacher(shown).double().softmax(1).mean(0)
    torch.testing.assert_close(parts.student.head.prior.double(), expected, atol=1e-7, rtol=1e-6)
    strength = feature_interactions(explanation_hessian(shown, teacher))
    assert torch.equal(parts.student.grouped.group, communities(strength, 3))
    report = runtime.report()
    sizes = torch.bincount(parts.student.grouped.group, minlength=3)
    assert report == {"largest_group": sizes.max(), "smallest_group": sizes.min()}
    parts.close()


def test_the_controls():
    groups = {}
    for partition, seed in (("even", 1), ("random", 1), ("random", 1), ("random", 2)):
        method = {"name": "superfeatures", "partition": partition, "partition_seed": seed}
        parts = fitted({**method, "prior": "uniform"})
        groups.setdefault((partition, seed), []).append(parts.student.grouped.group.clone())
        assert torch.equal(parts.student.head.prior, torch.full((10,), 0.1))
        parts.close()
    assert groups[("even", 1)][0].tolist() == sorted(groups[("even", 1)][0].tolist())
    assert torch.equal(*groups[("random", 1)])
    assert not torch.equal(groups[("random", 1)][0], groups[("random", 2)][0])
    sizes = torch.bincount(groups[("random", 2)][0])
    assert sizes.max() - sizes.min() <= 1


def test_the_teacher_is_not_asked_while_the_student_learns(tmp_path: Path, monkeypatch):
    def questions(name: str, **train: object) -> int:
        asked, plan = [], make_plan("superfeatures", **train)
        teacher = plan.teachers["teacher"]
        real = teacher.ask
        monkeypatch.setattr(teacher, "ask", lambda *a, **k: asked.append(1) or real(*a, **k))
        run_plan(plan, tmp_path / name, quiet=True)
        return len(asked)

    assert questions("few", batch_size=16) == questions("many", batch_size=4) >= 2


def test_it_goes_on_to_the_same_bits_and_never_fits_again(tmp_path: Path):
    whole = run(make_plan("superfeatures", "kd"), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(make_plan("superfeatures", "kd"), tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller, "fit_runtimes", lambda *_: pytest.fail("fitted again"))
        plan = make_plan("superfeatures", "kd")
        resumed = run_plan(plan, tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert whole.student.grouped.group.tolist() != sorted(whole.student.grouped.group.tolist())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"partition": "hesian"}, "method.partition: expected hessian, random or even"),
        ({"samples": 0}, "method.samples: expected a whole number of at least 1"),
        ({"resolution": 0}, "method.resolution: expected a number above 0"),
        ({"step": 0}, "method.step: expected a number above 0"),
        ({"tries": 0}, "method.tries: expected a whole number of at least 1"),
        ({"partition_seed": -1}, "method.partition_seed: expected a whole number of at least 0"),
        ({"prior": "flat"}, "method.prior: expected teacher or uniform"),
    ],
)
def test_settings_that_make_no_sense(options, line):
    with pytest.raises(MethodError, match=line):
        make_method("superfeatures", **options)


def test_students_that_cannot_be_grouped():
    method = make_method("superfeatures")
    resnet = build_model("explaining_resnet", num_classes=10, input_shape=(1, 8, 8), depth=8)
    for student in (make_cnn(4), resnet):
        with pytest.raises(MethodError, match="has no groups of input features; use student"):
            method.prepare(student, {}, digits(), Context())
    with pytest.raises(MethodError, match="needs data to see features act together"):
        method.prepare(make_cnn(4), {}, None, Context())
    with pytest.raises(MethodError, match="groups one student's features, not a cohort's"):
        method.prepare(make_cnn(4), {}, digits(), Context(num_members=2))


def test_a_teacher_without_interactions_is_refused():
    plan = make_plan("superfeatures")
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(linear[1].weight)
    plan.teachers["teacher"] = LiveTeacher(linear)
    parts = assemble(plan, World())
    with pytest.raises(MethodError, match="no two features act together in the teacher"):
        fit_runtimes(parts, digits())
    parts.close()
