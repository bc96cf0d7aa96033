"""Response methods: defaults, seams and limiting cases beyond what the equations' tests show."""

import math

import pytest
import torch
from method_runs import digits, log_of, make_plan, run, same_weights, teacher_network

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.recipe import load_recipe
from limbeck.taps.outputs import Outputs


@pytest.fixture
def scene():
    student, teacher = (3 * torch.randn(8, 6, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])


def terms(method, scene, *, epoch=0, epochs=10):
    student, teacher, targets = scene
    batch = Batch(inputs=student, targets=targets, index=torch.arange(len(student)))
    context = Context(epoch=epoch, epochs=epochs)
    return method.losses(Outputs(student), Outputs(teacher), batch, context)


def right(scene):
    """The scene with a teacher that is right throughout."""
    student, teacher, targets = scene
    return student, functional.swap_with_label(teacher, targets), targets


# What is published of weights, beside the label term's.
PUBLISHED = {
    "dkd": (1.0, 1.0),
    "dist": (2.0, 1.0),
    "lskd": (9.0, 0.1),
    "normkd": (0.9, 0.1),
    "wsld": (2.5, 1.0),
    "btkd": (0.5, 0.5),
    "drkd": (47.5, 0.05),
    "ka": (1.0, 0.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_default_weights(name):
    method = make_method(name)
    assert (method.weight, method.card.task_weight) == PUBLISHED[name]


# DKD


def test_dkd_warms_up_from_the_first_epoch(scene):
    full = float(terms(make_method("dkd", warmup_epochs=0), scene)["dkd"])
    for epoch, share in ((0, 0.25), (2, 0.75), (3, 1.0), (9, 1.0)):
        value = terms(make_method("dkd", warmup_epochs=4), scene, epoch=epoch)["dkd"]
        assert float(value) == pytest.approx(share * full, rel=1e-12)


@pytest.mark.parametrize("name", ["dkd", "wsld", "ka", "drkd", "btkd", "kd_pt"])
def test_labels_are_asked_for_in_one_line(name):
    with pytest.raises(MethodError, match=f"method {name}: needs the label of each sample"):
        make_method(name)(torch.randn(3, 5), torch.randn(3, 5))


# KA and DTD


@pytest.mark.parametrize("adjust", ["shift", "smooth"])
def test_ka_with_a_teacher_that_is_right_is_kd(scene, adjust):
    student, teacher, _ = sound = right(scene)
    value = terms(make_method("ka", adjust=adjust), sound)["ka"]
    torch.testing.assert_close(value, functional.kd(student, teacher), rtol=1e-12, atol=0)


def test_ka_smooth_replaces_wrong_answers(scene):
    student, teacher, targets = scene
    expected = []
    for s, t, y in zip(student, teacher, targets, strict=True):
        soft = (t / 4).softmax(0)
        if t.argmax() != y:
            soft = functional.label_smoothing_targets(y[None], 6, 0.3)[0].double()
        log_q = (s / 4).log_softmax(0)
        expected.append(16 * float((soft * (soft.log() - log_q)).sum()))
    value = terms(make_method("ka", adjust="smooth", epsilon=0.3), scene)["ka"]
    assert float(value) == pytest.approx(sum(expected) / 8, rel=1e-9)


@pytest.mark.parametrize("change", [{"bias": 0.0}, {"gamma": 0.0}])
def test_dtd_without_its_effect_is_kd(scene, change):
    value = terms(make_method("dtd", **change), scene)["dtd"]
    torch.testing.assert_close(value, functional.kd(*scene[:2]), rtol=1e-12, atol=0)


def test_dtd_sends_no_gradient_through_its_temperatures(scene):
    student = scene[0].clone().requires_grad_()
    method = make_method("dtd", min_temperature=0.1)
    terms(method, (student, *scene[1:]))["dtd"].backward()
    tau = method.temperatures(Outputs(scene[0]), Outputs(scene[1]))[:, None]
    q, p = ((z / tau).softmax(-1) for z in scene[:2])
    torch.testing.assert_close(student.grad, tau * (q - p) / 8, rtol=1e-10, atol=1e-14)


# BTKD


def test_btkd_moves_from_what_is_right_to_what_is_wrong():
    method = make_method("btkd")
    assert method.easy_weight(0, 8) == 1.0
    assert method.easy_weight(4, 8) == pytest.approx(0.5)
    assert method.easy_weight(8, 8) == pytest.approx(0.0, abs=1e-30)


def test_btkd_with_a_teacher_that_is_right_is_kd_times_the_schedule(scene):
    student, teacher, _ = sound = right(scene)
    method = make_method("btkd")
    for epoch in (0, 3):
        found = terms(method, sound, epoch=epoch)
        assert float(found["hard"]) == 0
        expected = method.easy_weight(epoch, 10) * functional.kd(student, teacher)
        torch.testing.assert_close(found["easy"], expected, rtol=1e-12, atol=0)


def test_btkd_averages_each_part_over_its_own_samples(scene):
    student, teacher, targets = scene
    wrong = functional.is_wrong(teacher, targets)
    assert wrong.any()
    assert not wrong.all()
    method = make_method("btkd", schedule="fixed", easy_share=0.25)
    found = terms(method, scene)
    easy = functional.kd(student[~wrong], teacher[~wrong])
    soft = functional.rectify((teacher[wrong] / 4).softmax(-1), targets[wrong])
    hard = functional.kl_divergence(student[wrong] / 4, soft.log()) * 16
    torch.testing.assert_close(found["easy"], 0.25 * easy)
    torch.testing.assert_close(found["hard"], 0.75 * hard)


def test_btkd_wraps_other_losses(scene):
    sound = right(scene)
    base = make_method("dkd", beta=2.0, weight=0.5)
    for form in (base, {"name": "dkd", "beta": 2.0, "weight": 0.5}):
        found = terms(make_method("btkd", base=form), sound)
        expected = 0.5 * terms(base, sound)["dkd"]
        torch.testing.assert_close(found["easy"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("base", ["dist", "fitnet", "label_smoothing", "dml"])
def test_btkd_refuses_what_it_cannot_wrap(base):
    with pytest.raises(MethodError, match=r"method\.base: expected .*such as kd or dkd"):
        make_method("btkd", base=base)


def test_btkd_on_logits_divides_by_zero_nowhere():
    student = torch.zeros(2, 3, dtype=torch.float64)
    teacher = torch.tensor([[-3.0, 2.0, 0.5], [-4.0, 2.0, 0.5]], dtype=torch.float64)
    method = make_method("btkd", space="logits", schedule="fixed", easy_share=0.0)
    fixed = method.rectified(teacher, torch.tensor([0, 0]))
    assert fixed[0].tolist() == [2.0, -3.0, 0.5]  # swapped: the rule would have divided by zero
    assert fixed[1].tolist() == pytest.approx([-6.0, 4.0, 0.5])  # as the authors' code does
    assert torch.isfinite(terms(method, (student, teacher, torch.tensor([0, 0])))["hard"])


def test_btkd_stands_in_a_recipe():
    recipe = load_recipe(
        {
            "data": "digits",
            "student": "cnn",
            "teacher": {"train": {"data": "digits", "student": "cnn", "method": "plain"}},
            "method": {"name": "btkd", "base": {"name": "dkd", "beta": 2}},
        }
    )
    assert recipe.methods[0].base == make_method("dkd", beta=2)


# DR-KD, Tf-KD


def test_drkd_with_a_teacher_that_is_right_is_self_distillation(scene):
    student, teacher, _ = sound = right(scene)
    value = terms(make_method("drkd"), sound)["drkd"]
    expected = functional.kd(student, teacher, temperature=6.0, reduction="elementwise")
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_tfkd_reg_without_its_share_is_plain_training(tmp_path):
    plain = run(make_plan("plain", epochs=2), tmp_path / "a")
    none = run(make_plan({"name": "tfkd_reg", "alpha": 0.0}, epochs=2), tmp_path / "b")
    assert same_weights(plain.student, none.student)


# Partial teachers


def test_top_k_of_all_classes_is_kd_without_t_squared(scene):
    value = terms(make_method("kd_topk", share=1.0), scene)["kd_topk"]
    expected = functional.kd(*scene[:2], scale_by_temperature_squared=False)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)


def test_kd_sim_reads_the_head_and_keeps_it_for_resume(tmp_path):
    plan = make_plan("kd_sim", epochs=2)
    run(plan, tmp_path / "run")
    weight = teacher_network().get_submodule("head").weight
    table = functional.class_similarity(weight, temperature=0.3)
    method = make_method("kd_sim")
    runtime = method.prepare(torch.nn.Identity(), plan.teachers, digits(), Context(num_outputs=10))
    torch.testing.assert_close(runtime.state_dict()["table"], table)


def test_kd_rel_asks_for_a_hierarchy():
    from limbeck.data import bundle_from

    data = bundle_from((torch.rand(40, 3), torch.arange(40) % 4), name="flat")
    with pytest.raises(MethodError, match="needs data with superclasses, these have none"):
        make_method("kd_rel").prepare(torch.nn.Identity(), {}, data, Context())
    with pytest.raises(MethodError, match=r"method\.hierarchy: .*'stroke'.*strokes"):
        make_method("kd_rel", hierarchy="stroke").prepare(
            torch.nn.Identity(), {}, digits(), Context()
        )


# The log


@pytest.mark.parametrize(
    ("method", "key"),
    [("ka", "adjusted"), ("btkd", "wrong"), ("drkd", "rectified")],
)
def test_shares_stand_in_the_log_of_each_epoch(method, key, tmp_path):
    run(make_plan(method, epochs=2, data=labelled()), tmp_path / "run")
    shares = [record[f"{method}/{key}_share"] for record in log_of(tmp_path / "run", "epoch")]
    assert len(shares) == 2
    view = labelled().splits["train"]
    batch = view.fetch(torch.arange(len(view)))
    logits = teacher_network()(labelled().augment_eval(batch.inputs, batch.index))
    expected = float(functional.is_wrong(logits, batch.targets).double().mean())
    assert expected > 0
    assert shares == pytest.approx([expected] * 2)


@pytest.mark.parametrize(("floor", "share"), [(4.0, 1.0), (3.9, 0.0)])
def test_dtd_logs_how_often_its_floor_held(floor, share, tmp_path):
    even = {"name": "dtd", "temperature": 4.0, "bias": 0.0, "min_temperature": floor}
    run(make_plan(even, epochs=2), tmp_path / "run")
    logged = [record["dtd/floored_share"] for record in log_of(tmp_path / "run", "epoch")]
    assert logged == [share, share]


def labelled():
    from limbeck.data import load_data

    return load_data("digits", num_train=64)


# CTKD


def test_ctkd_turns_the_gradient_of_its_temperature_round(scene):
    method = make_method("ctkd", ramp_epochs=4)
    assert [method.reversal(e) for e in (0, 2, 4, 9)] == pytest.approx([0, -0.5, -1, -1])
    slopes = {}
    for epoch in (0, 2, 9):
        runtime = method.prepare(torch.nn.Identity(), {}, None, Context()).double()
        student = scene[0].clone().requires_grad_()
        terms(runtime, (student, *scene[1:]), epoch=epoch)["ctkd"].backward()
        slopes[epoch] = float(runtime.theta.grad)
        hot = float(runtime.temperature().detach())
        q, p = ((z / hot).softmax(-1) for z in scene[:2])
        torch.testing.assert_close(student.grad, hot * (q - p) / 8, rtol=1e-9, atol=1e-13)
    assert hot == pytest.approx(15.62, abs=0.01)
    assert slopes[0] == 0
    assert slopes[2] == pytest.approx(slopes[9] / 2, rel=1e-9)

    def value(theta):
        return float(functional.kd(*scene[:2], temperature=1 + 20 / (1 + math.exp(-theta))))

    numerical = (value(1 + 1e-5) - value(1 - 1e-5)) / 2e-5
    assert slopes[9] == pytest.approx(-numerical, rel=1e-5)


def test_ctkd_trains_its_temperature_and_logs_it(tmp_path):
    run(make_plan({"name": "ctkd", "ramp_epochs": 1}, epochs=3), tmp_path / "run")
    hot = [r["ctkd/temperature"] for r in log_of(tmp_path / "run", "epoch")]
    assert hot[0] == pytest.approx(15.62, abs=0.01)  # λ is still 0
    assert hot[-1] != hot[0]


def test_logit_mse(scene):
    expected = ((scene[0] - scene[1]) ** 2).mean()
    torch.testing.assert_close(terms(make_method("logit_mse"), scene)["logit_mse"], expected)
