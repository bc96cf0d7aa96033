"""PS-KD: the share of the past, who speaks for it, and the whole loss against plain loops."""

import math

import pytest
import torch
from functional_references import naive_softmax
from method_runs import digits, log_of, make_plan, run

import limbeck as lb
from limbeck import functional as lf
from limbeck.data import load_data
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.recipe import load_recipe
from limbeck.taps.outputs import Outputs
from limbeck.teachers import SnapshotTeacher


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


def test_bad_values():
    with pytest.raises(MethodError, match=r"method\.alpha: expected a share in \[0, 1\], got 1\.5"):
        make_method("pskd", alpha=1.5)
    with pytest.raises(MethodError, match="method pskd: needs the label of each sample"):
        make_method("pskd").task_loss(
            Outputs(torch.zeros(2, 3)), Batch(inputs=torch.zeros(2, 3)), Context()
        )
