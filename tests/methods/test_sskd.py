"""SSKD: turned images, whose labels count, which wrong answers stay, and the teacher's head."""

from __future__ import annotations

import math

import pytest
import torch
from feature_runs import prepare, runtimes_of
from method_runs import log_of, make_cnn, make_plan, run
from test_every_pair import FAMILIES, images, take_two_steps
from test_every_pair import make_plan as plan_of_pair

from limbeck import functional
from limbeck.data.batch import IGNORE, Batch
from limbeck.errors import MethodError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models import build_model
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher

__all__ = ["images"]  # a fixture


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_cosines_by_loops():
    first, second = draw(3, 4), draw(5, 4, seed=1)
    found = functional.cosine_similarities(first, second)
    for i, a in enumerate(first.tolist()):
        for j, b in enumerate(second.tolist()):
            product = math.fsum(x * y for x, y in zip(a, b, strict=True))
            assert found[i, j].item() == pytest.approx(
                product / math.hypot(*a) / math.hypot(*b), rel=1e-12
            )
    with pytest.raises(ValueError, match="4 and 3 entries"):
        functional.cosine_similarities(first, second[:, :3])


def test_right_answers_stay_and_of_the_wrong_ones_the_least_wrong():
    scores = torch.tensor(
        [
            [9.0, 1.0, 0.0, 0.0],  # right
            [9.0, 1.0, 0.0, 2.0],  # third
            [9.0, 8.0, 0.0, 2.0],  # second
            [3.0, 2.0, 1.0, 0.5],  # last
            [9.0, 5.0, 0.0, 2.0],  # second, with less score
        ]
    )
    targets = torch.tensor([0, 1, 1, 3, 1])
    kept = [functional.least_wrong(scores, targets, share=share).tolist() for share in (0, 0.5, 1)]
    assert kept[0] == [True, False, False, False, False]
    assert kept[1] == [True, False, True, False, True]
    assert kept[2] == [True] * 5
    assert (
        functional.least_wrong(scores, targets, share=0.25).tolist()
        == [True, False, True] + [False] * 2
    )
    unknown = torch.full((5,), IGNORE)
    assert functional.least_wrong(scores, unknown, share=0).all()
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        functional.least_wrong(scores, targets, share=1.5)


def test_which_answers_stay_does_not_hang_on_their_order():
    scores, targets = draw(40, 6), torch.arange(40) % 6
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    kept = functional.least_wrong(scores, targets, share=0.4)
    assert torch.equal(
        functional.least_wrong(scores[order], targets[order], share=0.4), kept[order]
    )


def scene(**arguments):
    runtime = prepare(make_method("sskd", **arguments), make_cnn(3, 4), make_cnn(5, 6), 8).double()
    inputs = torch.rand(4, 1, 8, 8)
    batch = Batch(inputs=inputs, targets=torch.tensor([0, 1, IGNORE, 3]), index=torch.arange(4))
    return runtime, runtime.batch(batch, Context()), batch


def test_turned_images_stand_behind_the_originals_without_labels():
    _, turned, batch = scene()
    assert turned.inputs.shape == (16, 1, 8, 8)
    assert torch.equal(turned.inputs[:4], batch.inputs)
    first, by_90 = batch.inputs[0, 0], turned.inputs[4, 0]
    for row in range(8):
        for column in range(8):
            assert by_90[7 - column, row] == first[row, column]
    assert torch.equal(turned.inputs[8:12], batch.inputs.flip(2, 3))
    assert turned.targets.tolist() == [0, 1, IGNORE, 3] + [IGNORE] * 12
    assert turned.index.tolist() == [0, 1, 2, 3] * 4
    assert turned.changed.tolist() == [False] * 4 + [True] * 12


def kl(p_logits, q_logits, heat):
    def probabilities(row):
        powers = [math.exp((value - max(row)) / heat) for value in row]
        return [power / math.fsum(powers) for power in powers]

    p, q = probabilities(p_logits), probabilities(q_logits)
    return heat**2 * math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_the_three_terms_by_loops():
    runtime, turned, _ = scene(keep_turned=0.5, keep_similar=0.5)
    logits, taught = draw(16, 10), draw(16, 10, seed=1)
    ours, theirs = draw(16, 4, seed=2), draw(16, 6, seed=3)
    said, heard = (
        Outputs(z, {taps[0]: feature})
        for z, taps, feature in (
            (logits, runtime.student_taps(), ours),
            (taught, runtime.teacher_taps(), theirs),
        )
    )
    terms = runtime.losses(said, heard, turned, Context())
    rows = list(zip(taught.tolist(), logits.tolist(), strict=True))
    answers = math.fsum(kl(p, q, 4.0) for p, q in rows[:4]) / 4
    assert terms["sskd_answers"].item() == pytest.approx(0.9 * answers, rel=1e-12)

    def kept(scores, truth):
        errors = []
        for number, (row, y) in enumerate(zip(scores, truth, strict=True)):
            above = 0 if y == IGNORE else sum(value > row[y] for value in row)
            errors.append((above, 0.0 if y == IGNORE else -row[y], number))
        wrong = sorted(error for error in errors if error[0])
        dropped = {number for *_, number in wrong[int(0.5 * len(wrong)) :]}
        return [number for number in range(len(scores)) if number not in dropped]

    stay = kept(taught[4:].tolist(), [0, 1, IGNORE, 3] * 3)
    assert 3 <= len(stay) < 12
    value = math.fsum(kl(*rows[4 + number], 4.0) for number in stay) / len(stay)
    assert terms["sskd_turned"].item() == pytest.approx(2.7 * value, rel=1e-12)

    def alike(head, feature):
        h = head(feature).detach()
        unit = h / h.norm(dim=1, keepdim=True)
        return [[float(unit[i] @ unit[j]) for j in range(4)] for i in range(4, 16)]

    mine, other = alike(runtime.student_head, ours), alike(runtime.teacher_head, theirs)
    stay = kept(other, [0, 1, 2, 3] * 3)
    value = math.fsum(kl(other[number], mine[number], 0.5) for number in stay) / len(stay)
    assert terms["sskd_similarity"].item() == pytest.approx(10 * value, rel=1e-10)


def test_the_task_is_about_originals_and_the_head_learns_whose_an_image_is(tmp_path, monkeypatch):
    fitted = runtimes_of(monkeypatch)
    outcome = run(make_plan({"name": "sskd", "fit_epochs": 20, "fit_batch_size": 16}), tmp_path)
    ((_, state),) = fitted
    chance = 1 / 16
    assert state["found"] > 3 * chance
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())
    wanted = {"sskd_answers", "sskd_turned", "sskd_similarity", "task"}
    assert all(wanted <= set(record) for record in log_of(tmp_path))


def test_the_teachers_head_is_fixed():
    runtime, *_ = scene()
    assert not any(p.requires_grad for p in runtime.teacher_head.parameters())
    assert all(p.requires_grad for p in runtime.student_head.parameters())


@pytest.mark.parametrize("pair", [("resnet", "vit"), ("encoder", "odd"), ("timm_vit", "vgg")])
def test_networks_of_all_kinds(pair, images):
    student, teacher = (FAMILIES[name] for name in pair)
    take_two_steps(plan_of_pair(student, teacher, make_method("sskd"), images))


def test_what_cannot_be_turned_is_refused():
    runtime, *_ = scene()
    flat = Batch(inputs=torch.rand(2, 1, 8, 6))
    with pytest.raises(MethodError, match=r"method sskd: .*square images .*, got \[2, 1, 8, 6\]"):
        runtime.batch(flat, Context())
    own = Batch(inputs=torch.rand(2, 1, 8, 8), teacher_inputs=torch.rand(2, 1, 8, 8))
    with pytest.raises(MethodError, match="cannot turn a teacher's own inputs"):
        runtime.batch(own, Context())
    mlp = build_model("mlp", num_classes=10, input_shape=(1, 8, 6), widths=(4,))
    ctx = Context(example=flat, num_outputs=10)
    with pytest.raises(MethodError, match="square images"):
        make_method("sskd").prepare(mlp, {"teacher": LiveTeacher(mlp)}, None, ctx)


def test_two_pairs_are_refused():
    with pytest.raises(MethodError, match=r"method\.pairs: expected one pair, got 2"):
        prepare(make_method("sskd", pairs="stages"), make_cnn(3, 4), make_cnn(5, 6), 8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("answers", -1),
        ("turned", -1),
        ("similarity", -1),
        ("temperature", 0),
        ("softness", 0),
        ("fit_lr", 0),
        ("keep_turned", 1.1),
        ("keep_similar", -0.1),
        ("fit_epochs", 0),
        ("fit_batch_size", 1),
    ],
)
def test_settings_out_of_range_are_one_line(key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        make_method("sskd", **{key: value})
