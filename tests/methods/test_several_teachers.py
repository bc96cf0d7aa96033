"""CA-MKD, teacher annealing and KDVR as methods: schedules, limits, what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import limbeck as lb
from limbeck import functional as lf
from limbeck.data import Batch
from limbeck.errors import MethodError, RecipeError, TeacherError
from limbeck.methods import make_method
from limbeck.methods.camkd import CAMKD
from limbeck.methods.context import Context
from limbeck.methods.kdvr import KDVR
from limbeck.methods.pvr import PVR
from limbeck.methods.teacher_annealing import TeacherAnnealing
from limbeck.recipe import load_recipe
from limbeck.recipe.resolved import resolved
from limbeck.taps.outputs import Outputs
from limbeck.teachers import CachedTeacher, CalibratedTeacher, EnsembleTeacher, RouteTeacher


def ensemble(count=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 6, 4, generator=rng, dtype=torch.float64)
    voices = tuple(Outputs(one) for one in logits)
    student = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    return student, Outputs(logits.mean(0), members=voices), torch.tensor([0, 1, 2, 3, 0, -100])


def test_camkd_weighs_the_members():
    student, heard, labels = ensemble()
    logits = torch.stack([one.logits for one in heard.members])
    weights = lf.teacher_confidence(logits, labels)
    whole = lf.multi_teacher_kd(student, logits, weights)
    assert torch.equal(CAMKD()(student, heard, labels)["camkd"], whole / 3)
    assert torch.equal(CAMKD(divide=False)(student, heard, labels)["camkd"], whole)


def test_camkd_with_fixed_shares():
    student, heard, labels = ensemble()
    parts = [lf.kd(student, one.logits, temperature=4.0) for one in heard.members]
    value = CAMKD(shares=(1, 1, 2), divide=False)(student, heard, labels)["camkd"]
    torch.testing.assert_close(value, (parts[0] + parts[1] + 2 * parts[2]) / 4)
    only = CAMKD(shares=(0, 1, 0), divide=False)(student, heard)["camkd"]
    torch.testing.assert_close(only, parts[1])
    with pytest.raises(MethodError, match="2 numbers for 3 teachers"):
        CAMKD(shares=(1, 1))(student, heard, labels)
    for wrong in ((), (-1.0, 2.0), (0.0, 0.0)):
        with pytest.raises(MethodError, match=r"method.shares: expected numbers of at least 0"):
            CAMKD(shares=wrong)


def test_camkd_without_labels_or_with_one_teacher():
    student, heard, _ = ensemble()
    parts = [lf.kd(student, one.logits, temperature=4.0) for one in heard.members]
    torch.testing.assert_close(CAMKD(divide=False)(student, heard)["camkd"], sum(parts) / 3)
    alone = CAMKD()(student, heard.members[0].logits)["camkd"]
    torch.testing.assert_close(alone, parts[0])


def test_camkd_hears_calibrated_members_of_a_calibrated_ensemble():
    batch = Batch(inputs=torch.randn(5, 1, 8, 8))
    nets = [lb.build_model("mlp", widths=[w], num_classes=4, input_shape=(1, 8, 8)) for w in (4, 6)]
    inner = EnsembleTeacher(nets)
    heard, said = CalibratedTeacher(inner, temperature=2.0).ask(batch), inner.ask(batch)
    for mine, theirs in zip(heard.members, said.members, strict=True):
        assert torch.equal(mine.logits, theirs.logits / 2)


def test_camkd_in_a_run_hears_every_member_and_refuses_a_cache_of_them_together(tmp_path):
    data = lb.load_data("digits", num_train=100)
    nets = [lb.build_model("mlp", num_classes=10, input_shape=(1, 8, 8)) for _ in range(2)]
    options = {"epochs": 1, "quiet": True, "train": {"views": 1}}
    run = lb.distill(EnsembleTeacher(nets), "mlp", data, "camkd", output=tmp_path / "a", **options)
    members = [CachedTeacher(net, tmp_path / f"cache{i}") for i, net in enumerate(nets)]
    kept = lb.distill(
        EnsembleTeacher(members), "mlp", data, "camkd", output=tmp_path / "b", **options
    )
    assert run.metrics["nll"] == pytest.approx(kept.metrics["nll"], rel=1e-6)
    for around in (
        CachedTeacher(EnsembleTeacher(nets)),
        CachedTeacher(CalibratedTeacher(EnsembleTeacher(nets), temperature=2)),
        CalibratedTeacher(CachedTeacher(EnsembleTeacher(nets)), temperature=2),
        RouteTeacher([CachedTeacher(EnsembleTeacher(nets)), EnsembleTeacher(nets)]),
    ):
        with pytest.raises(TeacherError, match="put a cache around each member"):
            lb.distill(around, "mlp", data, "camkd", output=tmp_path / "c", **options)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_annealing_is_the_cross_entropy_to_the_mixed_target(progress):
    student, heard, _ = ensemble()
    labels = torch.tensor([0, 1, 2, 3, 0, 2])
    ctx, method = Context(progress=progress), TeacherAnnealing()

    def ours(z):
        said, batch = Outputs(z), Batch(z, labels)
        return method.losses(said, heard, batch, ctx)["teacher_annealing"] + method.task_loss(
            said, batch, ctx
        )

    def theirs(z):
        target = progress * F.one_hot(labels, 4) + (1 - progress) * heard.logits.softmax(1)
        return -(target * z.log_softmax(1)).sum(1).mean()

    slopes = [
        torch.autograd.grad(f(z), z)[0]
        for f in (ours, theirs)
        for z in [student.clone().requires_grad_()]
    ]
    torch.testing.assert_close(*slopes)
    p = heard.logits.softmax(1)
    entropy = -(1 - progress) * (p * p.log()).sum(1).mean()
    torch.testing.assert_close(ours(student) + entropy, theirs(student))


def test_annealing_of_numbers_mixes_the_targets():
    z = torch.randn(5, 2, dtype=torch.float64).requires_grad_()
    teacher, labels = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    ctx, method = Context(task="regression", progress=0.3), TeacherAnnealing()
    said, batch = Outputs(z), Batch(z, labels)
    total = sum(method.losses(said, Outputs(teacher), batch, ctx).values())
    total = total + method.task_loss(said, batch, ctx)
    mixed = F.mse_loss(z, 0.3 * labels + 0.7 * teacher)
    ours, theirs = (torch.autograd.grad(v, z)[0] for v in (total, mixed))
    scale = (ours / theirs).mean()  # the two may count outputs differently
    torch.testing.assert_close(ours, theirs * scale)


def test_kdvr_schedules_of_the_code():
    def shares(method, epochs=8):
        return [method.lam_at(epoch) for epoch in range(epochs)]

    assert shares(KDVR()) == [0.7] * 8
    assert shares(KDVR(growth=0.9))[2] == pytest.approx(0.7 * 0.9**2)
    rising = shares(KDVR(growth=1.047, limit=0.9))
    assert rising[1] == pytest.approx(0.7 * 1.047)
    assert rising[-1] == 0.9
    for wrong in (
        {"lam": 1.2},
        {"growth": 0.0},
        {"limit": 0.0},
        {"limit": 1.1},
        {"temperature": 0},
    ):
        with pytest.raises(MethodError, match=r"method\.\w+: expected"):
            KDVR(**wrong)


@pytest.mark.parametrize(
    ("was", "now"), [("schedule", "growth"), ("factor", "growth"), ("most", "limit")]
)
def test_former_names_of_the_schedule_lead_to_those_of_pvr(was, now):
    line = rf"unknown {{}} '{was}': did you mean '{now}'\?"
    with pytest.raises(MethodError, match=line.format("parameter of kdvr")):
        make_method("kdvr", **{was: 0.9})
    recipe = {"data": "digits", "student": "cnn", "teacher": {"model": "cnn"}}
    with pytest.raises(RecipeError, match=line.format("key")):
        load_recipe({**recipe, "method": {"name": "kdvr", was: 0.9}})


def test_runs_of_pvr_that_are_kept_are_found_again():
    """A finished run is found by the digest of its recipe, defaults and all: by these keys."""
    teacher, method = {"model": "mlp", "weights": "random"}, {"name": "pvr", "weight": 0.5}
    recipe = {"data": "digits", "student": "mlp", "teacher": teacher, "method": method}
    assert resolved(load_recipe(recipe))["method"] == {
        "name": "pvr", "weight": 0.5, "teacher": None, "unbiased": False, "teacher_decay": 0.0,
        "growth": 1.0, "limit": 1.0, "probe": 0,
    }  # fmt: skip


def test_both_forms_have_one_schedule():
    for growth, limit in ((0.9, 1.0), (1.047, 0.9), (1.0, 0.5)):
        pvr, kdvr = PVR(weight=0.7, growth=growth, limit=limit), KDVR(growth=growth, limit=limit)
        wanted = [min(0.7 * growth**epoch, max(limit, 0.7)) for epoch in range(9)]
        assert [pvr.lam_at(epoch) for epoch in range(9)] == wanted
        assert [kdvr.lam_at(epoch) for epoch in range(9)] == wanted


@pytest.mark.parametrize(("temperature", "equal"), [(1.0, True), (2.0, False)])
def test_kdvr_of_a_linear_student_subtracts_the_teachers_gradient(temperature, equal):
    """Paper 06: exact for a linear model of the teacher's form at temperature 1, else not."""
    torch.manual_seed(0)
    student, teacher = (nn.Linear(5, 4).double() for _ in range(2))
    x, y = torch.randn(7, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    method, ctx = KDVR(lam=0.6, temperature=temperature), Context()
    said, heard, batch = Outputs(student(x)), Outputs(teacher(x).detach()), Batch(x, y)
    loss = method.losses(said, heard, batch, ctx)["kdvr"] + method.task_loss(said, batch, ctx)
    ours = torch.autograd.grad(loss, list(student.parameters()))
    plain = torch.autograd.grad(F.cross_entropy(student(x), y), list(student.parameters()))
    theirs = torch.autograd.grad(F.cross_entropy(teacher(x), y), list(teacher.parameters()))
    for found, own, other in zip(ours, plain, theirs, strict=True):
        assert torch.allclose(found, own - 0.6 * other, atol=1e-12) == equal


def test_kdvr_at_its_limits():
    student, heard, _ = ensemble()
    labels = torch.tensor([0, 1, 2, 3, 0, 2])
    said, batch, ctx = Outputs(student), Batch(student, labels), Context()
    assert KDVR(lam=0.0).losses(said, heard, batch, ctx)["kdvr"] == 0
    assert torch.equal(KDVR(lam=0.0).task_loss(said, batch, ctx), lf.cross_entropy(student, labels))
    assert KDVR(lam=1.0).task_loss(said, batch, ctx) == 0
