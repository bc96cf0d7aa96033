"""KED: its loss, where it is KD, hints of branches, and whole runs from teacher to student."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_runs import prepare
from method_runs import (
    digits,
    log_of,
    make_cnn,
    make_explaining,
    make_plan,
    run,
    same_weights,
    teacher_network,
)
from torch import nn

from limbeck.data import load_data
from limbeck.data.batch import Batch
from limbeck.engine import distiller
from limbeck.engine.distributed import World
from limbeck.engine.plan import Plan
from limbeck.engine.running import run_plan
from limbeck.engine.settings import Checkpoints, Optimizer, Train
from limbeck.engine.setup import assemble, fit_runtimes
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError
from limbeck.methods import as_methods, make_method
from limbeck.methods.context import Context
from limbeck.models import build_model, load_model
from limbeck.models.additive import EXPLANATIONS, HIDDEN
from limbeck.recipe import build_plan, load_recipe
from limbeck.taps import tapping
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher

GROUPS = 3


def said(seed: int, dtype: torch.dtype = torch.float64, groups: int = GROUPS) -> Outputs:
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(6, 10, generator=rng, dtype=dtype)
    branches = 2 * torch.randn(6, groups, 10, generator=rng, dtype=dtype)
    return Outputs(logits, {EXPLANATIONS: branches.log_softmax(-1)})


def divergence(ours: torch.Tensor, theirs: torch.Tensor, heat: float) -> float:
    """KL(theirs || ours) of tempered distributions in plain loops, the mean over samples."""
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        q, p = ((z.double() / heat).softmax(0) for z in (a, b))
        total += sum(float(p[c] * (p[c].log() - q[c].log())) for c in range(len(p)))
    return total / len(ours)


def network(**arguments: Any) -> nn.Module:
    return build_model("explaining_resnet", num_classes=10, input_shape=(1, 16, 16), **arguments)


def with_groups(groups: int, width: int = 6) -> nn.Module:
    return build_model(
        "explaining_mlp", num_classes=10, input_shape=(1, 8, 8), groups=groups, width=width
    )


def test_the_terms_are_those_of_the_authors_loss():
    ours, theirs = said(1), said(2)
    terms = make_method("ked", mu=0.6, temperature=5.0, tau=3.0).losses(
        ours, theirs, Batch(inputs=ours.logits), Context()
    )
    close = {"rel": 1e-10}
    expected = 0.4 * 25 * divergence(ours.logits, theirs.logits, 5.0)
    assert float(terms["prediction"]) == pytest.approx(expected, **close)
    branches = [
        divergence(ours.features[EXPLANATIONS][:, i], theirs.features[EXPLANATIONS][:, i], 3.0)
        for i in range(GROUPS)
    ]
    assert float(terms["explanation"]) == pytest.approx(0.6 * 9 / GROUPS * sum(branches), **close)


def test_the_floor_lifts_what_the_teacher_predicts():
    """softmax(log(p + 1e-15) / T), as the authors' code softens the teacher's prediction."""
    ours, theirs = said(1), said(2)
    theirs = Outputs(40 * theirs.logits, theirs.features)
    terms = make_method("ked", mu=0.0, floor=1e-15).losses(ours, theirs, None, Context())
    lifted = (theirs.logits.softmax(1) + 1e-15).log()
    expected = 100 * divergence(ours.logits, lifted, 10.0)
    assert float(terms["prediction"]) == pytest.approx(expected, rel=1e-10)
    plain = make_method("ked", mu=0.0).losses(ours, theirs, None, Context())
    assert float(plain["prediction"]) != pytest.approx(expected, rel=0.05)


def test_defaults_are_those_of_the_code():
    method = make_method("ked")
    assert (method.weight, method.card.task_weight) == (0.7, 0.3)
    assert (method.mu, method.rho, method.temperature, method.tau) == (0.7, 0.7, 10.0, 10.0)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_with_one_group_and_one_temperature_it_is_kd_to_the_bit(mu):
    for dtype in (torch.float32, torch.float64):
        ours, theirs = said(1, dtype, groups=1), said(2, dtype, groups=1)
        logits = [one.features[EXPLANATIONS][:, 0] for one in (ours, theirs)]
        ours, theirs = (
            Outputs(z, {EXPLANATIONS: z.unsqueeze(1)})
            for z in (logits[0].requires_grad_(), logits[1])
        )
        ked = make_method("ked", mu=mu, temperature=4.0, tau=4.0)
        terms = ked.losses(ours, theirs, None, Context())
        plain = make_method("kd", temperature=4.0).losses(ours, theirs, None, Context())["kd"]
        assert torch.equal(terms["prediction"] + terms["explanation"], plain)


def test_a_network_of_one_group_says_its_logits():
    model = with_groups(1)
    with tapping(model, EXPLANATIONS) as store:
        logits = model(torch.randn(3, 1, 8, 8))
    assert torch.equal(store[EXPLANATIONS][:, 0], logits)


def test_without_explanations_a_whole_run_is_kd_of_the_branched_networks(tmp_path: Path):
    """mu = 0, to the bit: where the student has the teacher's groups and prior from the start."""
    teacher = teacher_network(explaining=True)

    def start() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            fresh = make_explaining(8)
        fresh.grouped.regroup(teacher.grouped.group)
        fresh.head.prior.copy_(teacher.head.prior)
        return fresh

    runs = []
    for name, method in (("ked", {"mu": 0.0}), ("kd", {"weight": 0.7})):
        plan = make_plan({"name": name, "temperature": 4.0, **method}, task_weight=0.3)
        teachers = {"teacher": LiveTeacher(teacher)}
        plan = dataclasses.replace(plan, make_student=start, teachers=teachers)
        runs.append(run(plan, tmp_path / name))
    assert same_weights(runs[0].student, runs[1].student)


def test_with_a_weight_of_nought_a_whole_run_is_cross_entropy(tmp_path: Path):
    none = run(make_plan({"name": "ked", "weight": 0.0}, task_weight=1.0), tmp_path / "a")
    assert {"prediction", "explanation"} <= set(log_of(tmp_path / "a")[0])
    task = [record["task"] for record in log_of(tmp_path / "a")]
    kd = make_plan({"name": "ked", "weight": 0.0, "mu": 0.1}, task_weight=1.0)
    assert same_weights(none.student, run(kd, tmp_path / "b").student)
    assert [record["task"] for record in log_of(tmp_path / "b")] == task


def hinted(kind: str, **method: Any) -> tuple[Any, Outputs, Outputs]:
    ked = make_method("ked", hint=kind, mu=0.6, rho=0.25, **method)
    runtime = prepare(ked, network(depth=8, groups=2, width=4), network(depth=8, groups=2, width=6))
    rng = torch.Generator().manual_seed(0)
    both = []
    for width in (4, 6):
        maps = torch.rand(5, 2 * width, 4, 4, generator=rng)
        one = said(width, torch.float32, groups=2)
        both.append(
            Outputs(one.logits[:5], {HIDDEN: maps, EXPLANATIONS: one.features[EXPLANATIONS][:5]})
        )
    return runtime.eval(), both[0], both[1]


def expected_distance(kind: str, runtime: Any, branch: int, ours: Any, theirs: Any) -> float:
    h_s, h_t = ours.double(), theirs.double()
    if kind == "fitnet":
        layer, norm, _ = runtime.hints.regressors[branch]
        assert layer.kernel_size == (3, 3)
        h_s = norm.double()(layer.double()(h_s)).relu()
        return float((h_s - h_t).square().mean().detach())
    if kind == "at":
        maps = [h.square().sum(1).flatten(1) for h in (h_s, h_t)]
        maps = [m / m.norm(dim=1, keepdim=True) for m in maps]
        return 1000 * float((maps[0] - maps[1]).square().mean())
    grams = [h.flatten(1) @ h.flatten(1).T for h in (h_s, h_t)]
    grams = [g / g.norm(dim=1, keepdim=True) for g in grams]
    return 3000 * float((grams[0] - grams[1]).square().mean())


@pytest.mark.parametrize("kind", ["fitnet", "at", "sp"])
def test_hints_compare_branch_with_branch(kind):
    runtime, ours, theirs = hinted(kind)
    terms = runtime.losses(ours, theirs, None, Context())
    pairs = zip(ours.features[HIDDEN].chunk(2, 1), theirs.features[HIDDEN].chunk(2, 1), strict=True)
    total = sum(expected_distance(kind, runtime, i, *pair) for i, pair in enumerate(pairs))
    assert float(terms["hint"].detach()) == pytest.approx(0.6 * 0.25 / 2 * total, rel=1e-4)
    plain = make_method("ked", mu=0.6).losses(ours, theirs, None, Context())
    assert torch.equal(terms["prediction"], plain["prediction"])
    torch.testing.assert_close(terms["explanation"], 0.75 * plain["explanation"])
    assert runtime.student_taps() == runtime.teacher_taps() == (EXPLANATIONS, HIDDEN)


@pytest.mark.parametrize("kind", ["fitnet", "at", "sp"])
def test_with_rho_of_nought_a_hint_weighs_nothing(kind):
    runtime, ours, theirs = hinted(kind)
    object.__setattr__(runtime.method, "rho", 0.0)
    terms = runtime.losses(ours, theirs, None, Context())
    plain = make_method("ked", mu=0.6).losses(ours, theirs, None, Context())
    assert terms["hint"] == 0
    assert {k: float(v) for k, v in terms.items() if k != "hint"} == {
        k: float(v) for k, v in plain.items()
    }


def test_similarities_alone_couple_the_samples_of_a_batch():
    assert make_method("ked", hint="sp").coupling == "batch"
    assert make_method("ked", hint="sp").compares_all_ranks
    assert make_method("ked", hint="at").coupling == make_method("ked").coupling == "none"


def test_hints_of_vectors():
    for kind in ("fitnet", "sp"):
        runtime = prepare(make_method("ked", hint=kind), with_groups(2, 5), with_groups(2, 7), 8)
        if kind == "fitnet":
            assert [layer.weight.shape for layer in runtime.hints.regressors] == [(7, 5)] * 2
    with pytest.raises(MethodError, match=r"method\.hint: at compares maps"):
        prepare(make_method("ked", hint="at"), with_groups(2, 5), with_groups(2, 7), 8)


def test_the_student_takes_over_groups_and_prior():
    parts = assemble(make_plan("ked"), World())
    fit_runtimes(parts, digits())
    teacher = parts.teachers["teacher"].module
    assert torch.equal(parts.student.grouped.group, teacher.grouped.group)
    assert torch.equal(parts.student.head.prior, teacher.head.prior)
    assert parts.student.grouped.group.tolist() != sorted(parts.student.grouped.group.tolist())
    parts.close()


def test_a_run_that_was_cut_goes_on_to_the_same_bits(tmp_path: Path):
    methods = [{"name": "ked", "hint": "fitnet"}, {"name": "chimeric", "epochs": 1, "samples": 70}]
    whole = run(make_plan(*methods), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(make_plan(*methods), tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller, "fit_runtimes", lambda *_: pytest.fail("fitted again"))
        resumed = run_plan(make_plan(*methods), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_the_teacher_may_look_at_samples_without_augmentation():
    data = load_data("digits", num_train=64, augment=[{"crop": {"padding": 1}}])
    plan = make_plan({"name": "ked", "teacher_view": "clean"}, data=data)
    parts = assemble(plan, World())
    (runtime,) = parts.runtimes
    raw = data.splits["train"].fetch(torch.arange(5))
    shown = data.augment_eval(raw.inputs, raw.index)
    batch = raw.replace(inputs=shown.flip(-1))
    found = runtime.batch(batch, parts.ctx)
    assert torch.equal(found.teacher_inputs, shown)
    assert torch.equal(found.inputs, batch.inputs)
    made = torch.tensor([True, False, False, False, True])
    found = runtime.batch(batch.replace(changed=made), parts.ctx)
    assert torch.equal(found.teacher_inputs[made], batch.inputs[made])
    assert torch.equal(found.teacher_inputs[~made], shown[~made])
    parts.close()


@pytest.mark.parametrize(
    ("student", "teacher", "line"),
    [
        (make_cnn(4), with_groups(2), "student: CNN does not say what .* use explaining_mlp"),
        (with_groups(2), make_cnn(4), "teachers.teacher: CNN does not say what"),
        (with_groups(2), with_groups(3), "the student has 2 groups, the teacher 3; give them as"),
        (
            with_groups(2),
            build_model(
                "explaining_resnet", num_classes=10, input_shape=(1, 8, 8), depth=8, groups=2
            ),
            "do not group the same things",
        ),
    ],
)
def test_networks_that_cannot_be_compared(student, teacher, line):
    with pytest.raises(MethodError, match=line):
        prepare(make_method("ked"), student, teacher, 8)


def test_a_loop_of_ones_own_is_told_what_is_missing():
    bare = Outputs(torch.zeros(6, 10))
    with pytest.raises(
        MethodError, match=r"as the student's feature 'head.explanations'; got \[\]"
    ):
        make_method("ked")(bare, said(1), torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mu": 1.5}, r"method.mu: expected a share in \[0, 1\]"),
        ({"rho": -0.1}, r"method.rho: expected a share in \[0, 1\]"),
        ({"tau": 0}, "method.tau: expected a number above 0"),
        ({"temperature": 0}, "method.temperature: expected a number above 0"),
        ({"floor": 1}, r"method.floor: expected a number in \[0, 1\)"),
        ({"hint": "crd"}, "method.hint: expected none, fitnet, at or sp"),
        ({"teacher_view": "other"}, "method.teacher_view: expected same or clean"),
    ],
)
def test_settings_that_make_no_sense(options, line):
    with pytest.raises(MethodError, match=line):
        make_method("ked", **options)


def test_clean_views_need_data():
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, 8, 8)))
    teachers = {"teacher": LiveTeacher(with_groups(2))}
    with pytest.raises(MethodError, match="clean needs data whose samples have an index"):
        make_method("ked", teacher_view="clean").prepare(with_groups(2), teachers, None, ctx)


RECIPE = """
name: small-ked
data: {name: digits, num_train: 200}
teacher:
  train:
    name: explaining
    teacher: {train: {name: ordinary, student: {model: mlp, widths: [16]}, method: plain,
                      train: {epochs: 2, batch_size: 50}}}
    student: {model: explaining_mlp, groups: 3, like: [24]}
    method: [{name: superfeatures, samples: 50}]
    train: {epochs: 2, batch_size: 50}
student: {model: explaining_mlp, groups: 3, like: [12]}
method: ked
train: {epochs: 2, batch_size: 50}
"""


def test_three_recipes_in_one_from_labels_to_an_explaining_student(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    plan = build_plan(load_recipe(path), store=tmp_path / "store", quiet=True)
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    teacher = plan.teachers["teacher"].module
    assert torch.equal(outcome.student.grouped.group, teacher.grouped.group)
    assert len(set(teacher.grouped.group.tolist())) == 3
    assert not torch.equal(teacher.head.prior, torch.full((10,), 0.1))
    again = load_model(tmp_path / "run" / "student")
    assert same_weights(again, outcome.student)
    spec = json.loads((tmp_path / "run" / "student" / "model.json").read_text())
    assert spec["model"] == "explaining_mlp"


def test_images_from_teacher_to_student(tmp_path: Path):
    """Groups of channels: learned, so only the prior is taken over."""

    def make(width: int) -> nn.Module:
        return build_model(
            "explaining_resnet",
            num_classes=10,
            input_shape=(1, 8, 8),
            depth=8,
            groups=2,
            width=width,
        )

    plan = Plan(
        name="images",
        data=digits(),
        make_student=lambda: make(3),
        methods=as_methods([{"name": "ked", "hint": "at"}]),
        teachers={"teacher": LiveTeacher(make(4))},
        train=Train(epochs=1, batch_size=32, optimizer=Optimizer(lr=0.01), log_every=1),
        checkpoints=Checkpoints(keep=1),
    )
    run_plan(plan, tmp_path / "run", quiet=True)
    assert {"prediction", "explanation", "hint"} <= set(log_of(tmp_path / "run")[0])
