"""CRD by loops over several steps: scores, Z, the bank; the form without one; what it refuses."""

import copy
import math

import pytest
import torch
from method_runs import digits, log_of, make_cnn, make_plan, run, same_weights
from torch import Tensor, nn

from limbeck.data import Batch, bundle_from
from limbeck.errors import MethodError, TeacherError
from limbeck.methods.context import Context
from limbeck.methods.crd import CRD, CRDRuntime
from limbeck.methods.negatives import NegativeSource
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher

NUM, WIDTHS = 20, (5, 7)
TARGETS = torch.arange(NUM) % 3
PAIR = TapPair("f", "g", (2, WIDTHS[0]), (2, WIDTHS[1]))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bundle(targets: Tensor = TARGETS, **options):
    part = (torch.rand(len(targets), 3), targets)
    return bundle_from(part, part, part, num_classes=3, **options)


def runtime_of(method: CRD, targets: Tensor = TARGETS) -> CRDRuntime:
    torch.manual_seed(0)
    return CRDRuntime(method, PAIR, bundle(targets), Context(seed=2)).double()


def speak(runtime: CRDRuntime, index: Tensor, step: int = 0, targets: Tensor = TARGETS, seed=0):
    """One call of the losses; returns the value and the student's features."""
    student = draw(len(index), WIDTHS[0], seed=seed + step).requires_grad_()
    teacher = draw(len(index), WIDTHS[1], seed=seed + 100 + step)
    said = Outputs(student, {"f": student})
    heard = Outputs(teacher, {"g": teacher})
    batch = Batch(inputs=student.detach(), targets=targets[index], index=index)
    value = runtime.losses(said, heard, batch, Context(seed=2, step=step))["crd"]
    return value, student, teacher


def embed(linear: nn.Linear, feature: list[float]) -> list[float]:
    rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    out = [math.fsum(w * x for w, x in zip(row, feature, strict=True)) + b for row, b in rows]
    length = math.sqrt(math.fsum(x * x for x in out))
    return [x / length for x in out]


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def side(scores: list[list[float]], z: float, eps: float = 1e-7) -> float:
    """Mean over samples; the positive's score first, the temperature in them."""
    total = []
    for own, *others in scores:
        noise = len(others) / NUM
        p = math.exp(own) / z
        total.append(-math.log(p / (p + noise + eps)))
        total += [-math.log(noise / (math.exp(s) / z + noise + eps)) for s in others]
    return math.fsum(total) / len(scores)


def mean_exp(scores: list[list[float]]) -> float:
    flat = [math.exp(score) for row in scores for score in row]
    return math.fsum(flat) / len(flat)


def test_three_steps_with_a_bank_against_loops():
    method = CRD(num_negatives=6, dim=4, temperature=0.5, momentum=0.3)
    runtime = runtime_of(method)
    banks = [runtime.student_bank.tolist(), runtime.teacher_bank.tolist()]
    z: list[float] = []
    for step, index in enumerate(([3, 0, 11], [5, 3, 8, 19], [0, 1])):
        index = torch.tensor(index)
        rows, others = runtime.source.draw(index, 6, 2, step)
        assert rows.tolist() == index.tolist()
        value, student, teacher = speak(runtime, index, step)
        ours = [embed(runtime.embed_student, row) for row in student.tolist()]
        theirs = [embed(runtime.embed_teacher, row) for row in teacher.tolist()]
        sides = []
        for embeddings, bank in ((ours, banks[1]), (theirs, banks[0])):
            chosen = torch.cat([rows[:, None], others], 1).tolist()
            pairs = zip(embeddings, chosen, strict=True)
            sides.append([[dot(v, bank[row]) / 0.5 for row in those] for v, those in pairs])
        if not z:
            z = [mean_exp(scores) * NUM for scores in sides]
        expected = sum(side(scores, one) for scores, one in zip(sides, z, strict=True))
        assert float(value.detach()) == pytest.approx(expected, rel=1e-10)
        for bank, embeddings in ((banks[0], ours), (banks[1], theirs)):
            for row, new in zip(index.tolist(), embeddings, strict=True):
                mixed = [0.3 * a + 0.7 * b for a, b in zip(bank[row], new, strict=True)]
                bank[row] = [x / math.sqrt(dot(mixed, mixed)) for x in mixed]
        for mine, bank in ((runtime.student_bank, banks[0]), (runtime.teacher_bank, banks[1])):
            torch.testing.assert_close(mine, torch.tensor(bank, dtype=torch.float64))
    torch.testing.assert_close(runtime.log_z.exp(), torch.tensor(z, dtype=torch.float64))


def test_the_gradient_is_the_numerical_one_once_z_is_set():
    """Of the bank's form; the batch's has the same gradient (the test below)."""
    runtime = runtime_of(CRD(num_negatives=4, dim=3, temperature=0.5))
    index = torch.tensor([1, 2, 6])
    speak(runtime, index)
    teacher = draw(3, WIDTHS[1])

    def loss(student: Tensor) -> Tensor:
        fresh = copy.deepcopy(runtime)  # each call moves the bank
        said, heard = Outputs(student, {"f": student}), Outputs(teacher, {"g": teacher})
        batch = Batch(inputs=student, targets=TARGETS[index], index=index)
        return fresh.losses(said, heard, batch, Context(seed=2, step=3))["crd"]

    assert torch.autograd.gradcheck(loss, draw(3, WIDTHS[0]).requires_grad_())


def test_the_batch_in_place_of_the_bank():
    """With a bank that holds the batch's embeddings, and all others drawn, the two agree."""
    small = TARGETS[:6]
    data = bundle(small)
    made = {}
    for negatives in ("bank", "batch"):
        torch.manual_seed(0)
        method = CRD(negatives=negatives, num_negatives=4, dim=4, temperature=0.5)
        made[negatives] = CRDRuntime(method, PAIR, data, Context(seed=2)).double()
        made[negatives].log_z.fill_(2.0)
    index = torch.arange(6)
    with torch.no_grad():
        for name, linear, width, seed in (
            ("student_bank", "embed_student", WIDTHS[0], 0),
            ("teacher_bank", "embed_teacher", WIDTHS[1], 100),
        ):
            vectors = getattr(made["bank"], linear)(draw(6, width, seed=seed))
            getattr(made["bank"], name).copy_(nn.functional.normalize(vectors, dim=1))
    values, slopes = [], []
    for negatives in ("bank", "batch"):
        value, student, _ = speak(made[negatives], index, targets=small)
        values.append(value)
        slopes.append(torch.autograd.grad(value, student)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*slopes)
    assert "student_bank" not in made["batch"].state_dict()


def test_a_batch_of_one_and_a_batch_of_one_class():
    for negatives in ("bank", "batch"):
        runtime = runtime_of(CRD(num_negatives=4, dim=3, negatives=negatives))
        for index in (torch.tensor([4]), torch.tensor([0, 3, 6])):
            value, student, _ = speak(runtime, index)
            assert torch.isfinite(value)
            assert torch.isfinite(torch.autograd.grad(value, student)[0]).all()


def view_of(targets: Tensor):
    return bundle(targets).splits["train"]


def test_negatives_are_of_other_classes_each_once_and_all_alike():
    targets = torch.tensor([0, 0, 0, 1, 1, 2, 2, -100, -100, 1])
    source = NegativeSource(view_of(targets), keep_class=False)
    seen = torch.zeros(10, 10)
    index = torch.arange(10)
    for step in range(400):
        rows, others = source.draw(index, 4, 1, step)
        assert rows.tolist() == index.tolist()
        assert all(len(row.unique()) == 4 for row in others)
        seen[index[:, None], others] += 1
    for place, target in enumerate(targets.tolist()):
        allowed = (targets != target) | (target == -100)
        allowed[place] = False
        assert seen[place][~allowed].sum() == 0
        expected = 400 * 4 / int(allowed.sum())
        spread = 5 * math.sqrt(expected)
        assert ((seen[place][allowed] - expected).abs() < spread).all()


def test_negatives_of_the_same_class_where_they_are_wanted():
    source = NegativeSource(view_of(TARGETS), keep_class=True)
    _, others = source.draw(torch.arange(NUM), NUM - 1, 1, 0)
    for place, row in enumerate(others.tolist()):
        assert sorted([*row, place]) == list(range(NUM))


def test_more_negatives_than_there_are_repeat():
    source = NegativeSource(view_of(TARGETS), keep_class=False)
    _, others = source.draw(torch.arange(NUM), 50, 1, 0)
    assert others.shape == (NUM, 50)
    assert (TARGETS[others] != TARGETS[:, None]).all()
    assert len(others[0].unique()) > 8


def test_a_draw_depends_on_seed_step_and_sample_alone():
    source = NegativeSource(view_of(TARGETS), keep_class=False)
    whole = source.draw(torch.arange(NUM), 5, 1, 3)[1]
    assert torch.equal(source.draw(torch.tensor([7, 2]), 5, 1, 3)[1], whole[[7, 2]])
    assert not torch.equal(source.draw(torch.arange(NUM), 5, 1, 4)[1], whole)
    assert not torch.equal(source.draw(torch.arange(NUM), 5, 2, 3)[1], whole)


def test_rows_number_the_training_samples_of_a_larger_set():
    data = digits()  # cut from one set: positions of training samples are scattered
    view = data.splits["train"]
    assert int(view.indices.max()) >= len(view)
    source = NegativeSource(view, keep_class=False)
    rows, others = source.draw(view.indices[:6], 9, 0, 0)
    assert int(others.max()) < len(view)
    assert torch.equal(view.indices.sort().values[rows], view.indices[:6])
    with pytest.raises(MethodError, match="not one of the training part"):
        source.refuse_strangers(data.splits["test"].indices[:1])


def test_one_class_is_refused_in_one_line():
    with pytest.raises(MethodError, match=r"all are of one class; set method\.same_class=keep"):
        runtime_of(CRD(), torch.zeros(NUM, dtype=torch.int64))
    runtime_of(CRD(same_class="keep"), torch.zeros(NUM, dtype=torch.int64))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_negatives", 0, "a whole number of at least 1"),
        ("dim", 0, "a whole number of at least 1"),
        ("temperature", 0.0, "a number above 0"),
        ("eps", 0.0, "a number above 0"),
        ("momentum", 1.0, r"a number in \[0, 1\)"),
        ("negatives", "memory", "bank or batch"),
        ("same_class", "drop", "exclude or keep"),
        ("across_ranks", "all", "gather or local"),
    ],
)
def test_values_without_a_meaning_are_refused(key, value, expected):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected {expected}"):
        CRD(**{key: value})


def test_what_it_needs_is_said():
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, 8, 8)))
    teachers = {"teacher": LiveTeacher(make_cnn(3, 5))}
    with pytest.raises(MethodError, match="needs data whose samples have an index"):
        CRD().prepare(make_cnn(2, 3), teachers, None, ctx)
    with pytest.raises(MethodError, match=r"method\.tap: crd embeds one layer, got 2"):
        CRD(tap="stages").prepare(make_cnn(2, 3), teachers, digits(), ctx)
    black_box = type("BlackBox", (LiveTeacher,), {"module": None})(make_cnn(2))
    with pytest.raises(TeacherError, match="no layers that crd could read"):
        CRD().prepare(make_cnn(2, 3), {"teacher": black_box}, digits(), ctx)
    runtime = CRD(tap=("stages.0", "stages.1")).prepare(make_cnn(2, 3), teachers, digits(), ctx)
    assert runtime.student_taps() == ("stages.0",)
    assert runtime.teacher_taps() == ("stages.1",)
    said = Outputs(torch.zeros(2, 10), {"stages.0": torch.zeros(2, 2, 8, 8)})
    with pytest.raises(MethodError, match="needs data whose samples have an index"):
        runtime.losses(said, said, Batch(inputs=torch.zeros(2, 1)), ctx)


def test_defaults_and_coupling():
    method = CRD()
    assert (method.weight, method.num_negatives, method.dim) == (0.8, 16384, 128)
    assert (method.temperature, method.momentum, method.eps) == (0.07, 0.5, 1e-7)
    assert CRD.card.task_weight == 1.0
    assert method.coupling == "bank"
    assert CRD(negatives="batch").coupling == "batch"
    assert not CRD(negatives="batch", across_ranks="local").compares_all_ranks


def test_a_run_learns_embeddings_and_leaves_them_behind(tmp_path):
    method = {"name": "crd", "num_negatives": 16, "dim": 8}
    outcome = run(make_plan(method), tmp_path / "run")
    assert outcome.student.state_dict().keys() == make_cnn(4, 8).state_dict().keys()
    assert all(record["crd"] > 0 for record in log_of(tmp_path / "run"))
    again = run(make_plan(method), tmp_path / "again")
    assert same_weights(outcome.student, again.student)
