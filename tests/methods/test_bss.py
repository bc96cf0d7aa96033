"""BSS: choosing, drawing and moving samples against plain loops; its schedule; a whole step."""

import math

import pytest
import torch
from functional_references import naive_softmax
from method_runs import log_of, make_plan, run, same_weights

from limbeck import functional as lf
from limbeck.data import load_data
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.taps.outputs import Outputs

# The equations


def naive_base(student, teacher, targets, most):
    found = []
    for i, (s, t, y) in enumerate(
        zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True)
    ):
        if s.index(max(s)) == y == t.index(max(t)):
            q, p = naive_softmax(s), naive_softmax(t)
            apart = sum((p[k] - q[k]) ** 2 for k in range(len(p)) if k != y)
            found.append((apart, i))
    if len(found) <= most:
        return [i for _, i in found]
    return [i for _, i in sorted(found, key=lambda pair: -pair[0])[:most]]


@pytest.mark.parametrize("most", [1, 4, 1000])
def test_base_samples_are_those_that_both_get_right(most):
    student, teacher = (torch.randn(60, 3, dtype=torch.float64) for _ in range(2))
    targets = torch.randint(3, (60,))
    targets[::7] = -100
    chosen = lf.base_samples(student, teacher, targets, most=most)
    assert chosen.tolist() == naive_base(student, teacher, targets, most)
    assert len(chosen) > 0


def test_nobody_is_right_and_nothing_is_chosen():
    student = torch.tensor([[1.0, 0.0]])
    assert lf.base_samples(student, student, torch.tensor([1])).tolist() == []
    assert lf.base_samples(student, -student, torch.tensor([0])).tolist() == []


def test_targets_are_drawn_by_the_teachers_doubts():
    teacher = torch.tensor([[0.0, 3.0, 1.0, 2.0]], dtype=torch.float64).expand(4000, 4)
    chance = (torch.arange(4000) + 0.5) / 4000
    drawn = lf.adversarial_targets(teacher, chance)
    p = naive_softmax([0.0, 3.0, 1.0, 2.0])
    assert (drawn != 1).all()
    for k in (0, 2, 3):
        share = float((drawn == k).double().mean())
        assert share == pytest.approx(p[k] / (1 - p[1]), abs=1e-3)
    first = torch.tensor([[9.0, 1.0, 0.0]])
    assert lf.adversarial_targets(first, torch.tensor([0.0])).tolist() == [1]
    with pytest.raises(ValueError, match="no other to be moved to"):
        lf.adversarial_targets(torch.zeros(2, 1), torch.zeros(2))


def test_a_step_follows_the_gradient_as_far_as_the_gap_is_wide():
    inputs, slope = (torch.randn(3, 2, 2, dtype=torch.float64) for _ in range(2))
    slope[2] = 0.0
    gap, moving = torch.tensor([2.0, 5.0, 1.0]).double(), torch.tensor([True, False, True])
    found = lf.boundary_step(inputs, slope, gap, moving, step=0.3, limit=None)
    norm = math.sqrt(math.fsum(x * x for x in slope[0].flatten().tolist()))
    expected = inputs[0] + 0.3 * (2.0 + 1e-4) * slope[0] / norm
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=0)
    assert torch.equal(found[1:], inputs[1:])
    limited = lf.boundary_step(inputs, slope, gap, moving, limit=0.5)
    assert float(limited.abs().max()) <= 0.5


# The method


def test_the_boundary_is_left_after_three_quarters():
    method = make_method("bss")
    shares = [method.shares(epoch, 80) for epoch in (0, 39, 59, 79)]
    assert [a for a, _ in shares] == pytest.approx([3.9625, 2.5, 1.75, 1.0])
    assert [b for _, b in shares] == pytest.approx([2 * (1 - 1 / 60), 2 / 3, 0.0, 0.0], abs=1e-12)


def linear(inputs):
    """A teacher of two classes whose boundary is where the inputs sum to zero."""
    total = inputs.flatten(1).sum(1)
    return torch.stack([total, -total], 1)


def at_work(student, inputs, targets, **options):
    runtime = make_method("bss", **options).prepare(torch.nn.Identity(), {}, None, Context())
    asked = []

    def ask_student(batch, **_):
        asked.append(batch)
        return Outputs(student(batch.inputs))

    context = Context(epoch=0, epochs=10, seed=1)
    context.student = ask_student
    context.teacher = lambda batch, name=None, **_: Outputs(linear(batch.inputs))
    batch = Batch(inputs=inputs, targets=targets, index=torch.arange(len(inputs)))
    terms = runtime.losses(Outputs(student(inputs)), Outputs(linear(inputs)), batch, context)
    return runtime, terms, asked


def test_samples_are_moved_over_the_boundary_and_heard_there():
    inputs = torch.tensor([[2.0, 1.0], [-0.5, -1.0], [1.0, 0.5]], dtype=torch.float64)
    targets = torch.tensor([0, 1, 1])  # of the last, neither is right
    runtime, terms, asked = at_work(linear, inputs, targets, step=0.6, limit=None)
    (moved,) = asked
    assert moved.index.tolist() == [0, 1]
    assert moved.changed.all()
    before, after = linear(inputs[:2]), linear(moved.inputs)
    gaps = [abs(float(z[0] - z[1])) for z in (*before, *after)]
    assert gaps[2] < gaps[0]
    assert gaps[3] < gaps[1]
    assert after.argmax(1).tolist() == [1, 0]  # both have crossed
    b = make_method("bss").shares(0, 10)[1]
    expected = b * lf.kd_cross_entropy(after, after, temperature=3.0)
    torch.testing.assert_close(terms["bss"], expected)
    assert runtime.report() == pytest.approx({"moved_share": 2 / 3, "crossed_share": 2 / 3})


def test_a_move_stops_where_the_teacher_has_changed_its_mind():
    inputs = torch.tensor([[0.01, 0.0]], dtype=torch.float64)
    _, _, few = at_work(linear, inputs, torch.tensor([0]), steps=2, step=3.0)
    _, _, many = at_work(linear, inputs, torch.tensor([0]), steps=10, step=3.0)
    assert torch.equal(few[0].inputs, many[0].inputs)


def test_the_draw_belongs_to_the_sample_and_the_step():
    plan = make_plan("bss", data=load_data("digits", num_train=64))
    parts = assemble(plan, World())
    runtime, batch = parts.runtimes[0], example_batch(plan, torch.device("cpu"), 8)
    teacher = plan.teachers["teacher"]
    said = 0.05 * teacher.ask(batch).logits  # full of doubt
    parts.ctx.teacher = lambda b, name=None, **_: teacher.ask(b, require_grad=True)
    order = torch.tensor([3, 0, 6])
    whole = runtime._move(batch, said, torch.arange(8), parts.ctx).inputs
    part = runtime._move(batch, said[order], order, parts.ctx).inputs
    torch.testing.assert_close(part, whole[order], rtol=1e-5, atol=1e-6)
    parts.ctx.step = 1
    assert not torch.equal(runtime._move(batch, said, torch.arange(8), parts.ctx).inputs, whole)
    parts.close()


def test_no_gradient_reaches_the_teacher_and_a_run_is_a_function_of_its_seed(tmp_path):
    data = load_data("digits", num_train=64)
    plans = [make_plan("bss", epochs=2, data=data) for _ in range(2)]
    first, second = (run(p, tmp_path / str(i)) for i, p in enumerate(plans))
    assert same_weights(first.student, second.student)
    assert all(p.grad is None for p in plans[0].teachers["teacher"].module.parameters())
    shares = [r["bss/moved_share"] for r in log_of(tmp_path / "0", "epoch")]
    assert shares[-1] == 0.0  # from three quarters on
    assert shares[0] > 0.0
    assert log_of(tmp_path / "0")[0]["bss"] > 0


@pytest.mark.parametrize(
    ("batch", "line"),
    [
        (Batch(inputs={"ids": torch.ones(1, 2)}), r"not one tensor of floats .*boundary=0"),
        (Batch(inputs=torch.ones(1, 2, dtype=torch.int64)), "not one tensor of floats"),
        (
            Batch(inputs=torch.ones(1, 2), teacher_inputs=torch.ones(1, 2)),
            "that the teacher sees differently",
        ),
    ],
)
def test_inputs_that_cannot_be_moved(batch, line):
    runtime = make_method("bss").prepare(torch.nn.Identity(), {}, None, Context())
    said = Outputs(torch.tensor([[1.0, 0.0]]))
    batch = batch.replace(targets=torch.tensor([0]))
    with pytest.raises(MethodError, match=line):
        runtime.losses(said, said, batch, Context(epochs=10))


def test_without_models_to_ask_there_is_the_first_part_alone():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    found = make_method("bss", soft=1.0)(student, teacher)
    assert set(found) == {"bss_kd"}
    expected = lf.kd_cross_entropy(student, teacher, temperature=3.0)
    torch.testing.assert_close(found["bss_kd"], expected)  # a = 1 in the last of one epochs


@pytest.mark.parametrize(
    "change", [{"temperature": 0.0}, {"samples": 0}, {"steps": 0}, {"step": 0.0}, {"limit": 0.0},
               {"soft": -1.0}, {"boundary": -1.0}],
)  # fmt: skip
def test_bad_values(change):
    with pytest.raises(MethodError, match=rf"method\.{next(iter(change))}: expected"):
        make_method("bss", **change)
