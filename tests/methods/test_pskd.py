"""PS-KD: the share of the past, who speaks for it, and the whole loss against plain loops."""

import copy
import dataclasses
import math

import pytest
import torch
from functional_references import naive_softmax
from method_runs import digits, log_of, make_cnn, make_plan, run, teacher_network

import limbeck as lb
from limbeck import functional as lf
from limbeck.data import load_data
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.engine.step import pick_teacher
from limbeck.errors import MethodError, TeacherError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.methods.layers import teacher_with_layers
from limbeck.models import Cohort
from limbeck.recipe import load_recipe
from limbeck.taps.outputs import Outputs
from limbeck.teachers import CalibratedTeacher, EnsembleTeacher, SnapshotTeacher


def naive_cross_entropy(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = naive_softmax(t, temperature), naive_softmax(s, temperature)
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return total / len(student)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_cross_entropy_with_softened_labels(temperature):
    student, teacher = (3 * torch.randn(7, 6, dtype=torch.float64) for _ in range(2))
    value = lf.kd_cross_entropy(student, teacher, temperature=temperature)
    assert float(value) == pytest.approx(
        naive_cross_entropy(student, teacher, temperature), rel=1e-10
    )
    masked = teacher.masked_fill(torch.eye(7, 6).bool(), -torch.inf)
    assert torch.isfinite(lf.kd_cross_entropy(student.float(), masked.float()))
    student.requires_grad_()
    same = lf.kd_cross_entropy(student, student.detach(), temperature=temperature)
    assert float(torch.autograd.grad(same, student)[0].abs().max()) <= 1e-15


def test_the_past_has_more_to_say_with_every_epoch():
    method = make_method("pskd", alpha=0.8)
    assert [method.share(e, 8) for e in (0, 1, 3, 7)] == pytest.approx([0.0, 0.2, 0.4, 0.8])
    assert method.share(0, 1) == 0.0  # there is no past


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_whole_loss_is_one_cross_entropy_with_mixed_labels(epoch):
    student, past = (2 * torch.randn(5, 4, dtype=torch.float64) for _ in range(2))
    labels, method = torch.tensor([0, 1, 2, 3, 1]), make_method("pskd", alpha=0.6)
    batch, ctx = Batch(inputs=student, targets=labels), Context(epoch=epoch, epochs=6)
    ours = method.losses(Outputs(student), Outputs(past), batch, ctx)["pskd"]
    ours = ours + method.task_loss(Outputs(student), batch, ctx)
    share = 0.6 * (epoch + 1) / 6 if epoch else 0.0
    total = 0.0
    for s, t, y in zip(student.tolist(), past.tolist(), labels.tolist(), strict=True):
        q, p = naive_softmax(s), naive_softmax(t)
        mixed = [(1 - share) * (k == y) + share * p[k] for k in range(4)]
        total -= sum(a * math.log(b) for a, b in zip(mixed, q, strict=True)) / 5
    assert float(ours) == pytest.approx(total, rel=1e-10)


def test_without_its_share_it_is_plain_training(tmp_path):
    data = load_data("digits", num_train=48)
    plans = [make_plan(m, epochs=2, data=data) for m in ("plain", {"name": "pskd", "alpha": 0.0})]
    plain, none = (run(p, tmp_path / p.methods[0].name).student.state_dict() for p in plans)
    for name, value in plain.items():
        torch.testing.assert_close(none[name], value, rtol=1e-5, atol=1e-6)


def test_the_teacher_is_the_student_of_the_epoch_before(tmp_path):
    plan = make_plan("pskd", epochs=3, data=load_data("digits", num_train=32))
    asked, teacher = [], plan.teachers["self"]
    assert isinstance(teacher, SnapshotTeacher)
    ended = teacher.epoch_end

    def epoch_end(student, ctx):
        before = [value.clone() for value in teacher.module.parameters()]
        ended(student, ctx)
        now = list(student.parameters())
        assert all(torch.equal(a, b) for a, b in zip(teacher.module.parameters(), now, strict=True))
        asked.append(any(not torch.equal(a, b) for a, b in zip(before, now, strict=True)))

    teacher.epoch_end = epoch_end
    run(plan, tmp_path / "run")
    assert asked == [True, True, True]
    terms = [record["pskd"] for record in log_of(tmp_path / "run")]
    assert terms[:2] == [0.0, 0.0]  # two steps an epoch
    assert all(value > 0 for value in terms[2:])


def test_nobody_needs_to_write_the_past_down(tmp_path):
    from limbeck.recipe import build_plan, check_recipe

    recipe = load_recipe({"data": "digits", "student": "cnn", "method": "pskd"})
    check_recipe(recipe)
    plan = build_plan(recipe, store=tmp_path, train_teachers=False)
    assert isinstance(plan.teachers["self"], SnapshotTeacher)
    student = make_plan("pskd").make_student()
    out = tmp_path / "out"
    done = lb.distill(
        student=student, data=digits(), method="pskd", epochs=1, output=out, quiet=True
    )
    assert done.metrics
    own_loop = lb.Distillation(
        student=student,
        method=lb.PSKD(),
        example=(torch.rand(2, 1, 8, 8), torch.tensor([0, 1])),
        epochs=2,
    )
    assert isinstance(own_loop.teachers["self"], SnapshotTeacher)


def cohort_with_a_past(*methods, teachers):
    """Two students of whom each was another before; and a batch."""
    plan = make_plan(*methods, epochs=4)

    def make_student():
        return Cohort([make_cnn(4, 8), make_cnn(6, 8)])

    plan = dataclasses.replace(plan, make_student=make_student, teachers=teachers)
    parts = assemble(plan, World())
    parts.module.eval()
    past = copy.deepcopy(parts.student)
    with torch.no_grad():
        for parameter in parts.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    parts.ctx.epoch = 2
    return parts, past, example_batch(plan, torch.device("cpu"), 12)


def naive_pasts(parts, past, batch, temperature=1.0):
    """The cross-entropy of each member with its own past, and with the mean of all pasts."""
    now, then = (
        [m(batch.inputs).detach().double() for m in c.members] for c in (parts.student, past)
    )
    mean = sum(then) / len(then)
    own = [naive_cross_entropy(s, t / temperature, 1.0) for s, t in zip(now, then, strict=True)]
    return own, [naive_cross_entropy(s, mean / temperature, 1.0) for s in now]


@pytest.mark.parametrize("heat", [None, 2.0])
def test_each_member_of_a_cohort_hears_its_own_past(heat):
    teacher = SnapshotTeacher(name="self")
    teachers = {"self": teacher if heat is None else CalibratedTeacher(teacher, temperature=heat)}
    parts, past, batch = cohort_with_a_past("pskd", teachers=teachers)
    _, terms = parts.module(batch, parts.stages[0])
    own, of_all = naive_pasts(parts, past, batch, heat or 1.0)
    share = 0.8 * 3 / 4
    assert float(terms["pskd"]) == pytest.approx(share * sum(own) / 2, rel=1e-5)
    assert abs(sum(own) - sum(of_all)) > 1e-3 * sum(own)
    for member in range(2):  # who asks again hears the same
        parts.module.face(member)
        said = parts.ctx.teacher(batch, "self").logits * (heat or 1.0)
        torch.testing.assert_close(said, past.members[member](batch.inputs))
    parts.close()


@pytest.mark.parametrize("merge", ["logits", "probabilities"])
def test_an_ensemble_with_the_past_in_it_says_to_each_member_its_own(merge):
    fixed = teacher_network()
    both = EnsembleTeacher([SnapshotTeacher(name="self"), fixed], merge=merge)
    teachers = {"self": CalibratedTeacher(both, temperature=2.0)}
    parts, past, batch = cohort_with_a_past("pskd", teachers=teachers)
    theirs = fixed(batch.inputs)
    for member in range(2):
        parts.module.face(member)
        said = parts.ctx.teacher(batch, "self").logits
        voices = torch.stack([past.members[member](batch.inputs), theirs])
        wanted = voices.mean(0) if merge == "logits" else voices.softmax(-1).mean(0).log()
        torch.testing.assert_close(said, wanted / 2)
    parts.close()


def test_the_past_is_no_teacher_to_choose_from(tmp_path):
    from limbeck.recipe import build_plan, check_recipe

    document = {"data": "digits", "student": "cnn", "method": ["kd", "pskd"]}
    recipe = load_recipe({**document, "teacher": {"model": "cnn", "weights": "random"}})
    check_recipe(recipe)
    plan = build_plan(recipe, store=tmp_path)
    assert sorted(plan.teachers) == ["self", "teacher"]
    assert pick_teacher(plan.teachers, None) == "teacher"
    first = {"self": plan.teachers["self"], "teacher": plan.teachers["teacher"]}
    plan.teachers["self"].meet(make_cnn(4, 8))  # it has layers, and is not meant
    assert teacher_with_layers(lb.KD(), first) is plan.teachers["teacher"]
    with pytest.raises(
        MethodError, match=r"method\.0: kd needs a teacher, and the recipe names none"
    ):
        check_recipe(load_recipe(document))
    student = make_plan("pskd").make_student()
    data, options = digits(), {"epochs": 1, "quiet": True}
    out = tmp_path / "out"
    lb.distill(teacher_network(), student, data, lb.KD() + lb.PSKD(), output=out, **options)
    with pytest.raises(TeacherError, match=r"which of the teachers is meant \(self\)"):
        lb.distill(None, student, data, lb.KD() + lb.PSKD(), output=tmp_path / "no", **options)


def test_bad_values():
    with pytest.raises(MethodError, match=r"method\.alpha: expected a share in \[0, 1\], got 1\.5"):
        make_method("pskd", alpha=1.5)
    with pytest.raises(MethodError, match="method pskd: needs the label of each sample"):
        make_method("pskd").task_loss(
            Outputs(torch.zeros(2, 3)), Batch(inputs=torch.zeros(2, 3)), Context()
        )
