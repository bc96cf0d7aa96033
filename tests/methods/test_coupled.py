"""Methods that compare samples: which layers they read, whose samples, and what they refuse."""

import pytest
import torch
from method_runs import log_of, make_cnn, make_plan, run, same_weights, teacher_network
from torch import Tensor

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError, TeacherError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.methods.pkt import PKT
from limbeck.methods.rkd import RKD
from limbeck.methods.sp import SP
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher
from limbeck.teachers.peers import PeersTeacher

IMAGES = torch.rand(2, 1, 8, 8)
METHODS = (SP, RKD, PKT)
every_method = pytest.mark.parametrize("kind", METHODS)


def prepare(method, student=None, teacher=None):
    ctx = Context(example=Batch(inputs=IMAGES))
    teachers = {"teacher": teacher or LiveTeacher(teacher_network())}
    return method.prepare(student or make_cnn(4, 8), teachers, None, ctx)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("method", "taps"),
    [
        (SP(), ("stages.1",)),
        (SP(pairs="stages"), ("stages.0", "stages.1")),
        (RKD(), ("pool",)),
        (RKD(pairs="auto"), ("stages.1",)),
        (PKT(), ("pool",)),
        (PKT(pairs=(("stages.0", "stages.1"),)), ("stages.0",)),
    ],
    ids=lambda value: value.describe() if hasattr(value, "describe") else "",
)
def test_layers(method, taps):
    runtime = prepare(method)
    found = tuple(pair.student for pair in runtime.pairs)
    # a role is read under its own name
    assert found == (("penultimate",) if taps == ("pool",) else taps)
    assert not list(runtime.parameters())
    assert not runtime.state_dict()


@every_method
def test_several_pairs_add_up(kind):
    method = kind(pairs=(("stages.0", "stages.0"), ("stages.0", "stages.1")))
    runtime = prepare(method)
    ours = {"stages.0": draw(6, 4, 3, 3)}
    theirs = {"stages.0": draw(6, 8, 3, 3, seed=1), "stages.1": draw(6, 16, seed=2)}
    logits = torch.zeros(6, 10)
    both = runtime.losses(Outputs(logits, ours), Outputs(logits, theirs), None, Context())
    for name, value in both.items():
        parts = [method.relate(ours["stages.0"], other)[name] for other in theirs.values()]
        torch.testing.assert_close(value, sum(parts))


@every_method
def test_in_a_loop_of_your_own(kind):
    student = Outputs(torch.zeros(6, 10), {"mine": draw(6, 4).requires_grad_()})
    teacher = Outputs(torch.zeros(6, 10), {"theirs": draw(6, 5, seed=1)})
    method = kind(weight=2.0)
    terms = method(student, teacher)
    plain = method.relate(draw(6, 4), draw(6, 5, seed=1))
    assert terms.keys() == plain.keys()
    for name in terms:
        torch.testing.assert_close(terms[name].detach(), 2 * plain[name])
    with pytest.raises(MethodError, match="must give features, as many the one as the other"):
        method(student, Outputs(torch.zeros(6, 10)))
    with pytest.raises(MethodError, match="got 0 and 0"):
        method(torch.zeros(6, 10), torch.zeros(6, 10))


class Ranks:
    """A context in which this process has the first rows of several."""

    def __init__(self, rest: list[Tensor]) -> None:
        self.rest = iter(rest)
        self.asked = 0

    def gather(self, tensor: Tensor) -> Tensor:
        self.asked += 1
        return torch.cat([tensor, next(self.rest).to(tensor)])


@every_method
def test_the_samples_of_all_ranks_are_compared_or_those_of_each(kind):
    ours, theirs = draw(6, 4), draw(6, 5, seed=1)
    student, teacher = Outputs(ours[:2], {"a": ours[:2]}), Outputs(theirs[:2], {"a": theirs[:2]})
    ranks = Ranks([ours[2:], theirs[2:]])
    ctx = Context(gather=ranks.gather, world_size=2)
    gathered = kind().losses(student, teacher, None, ctx)
    assert ranks.asked == 2
    local = kind(across_ranks="local").losses(student, teacher, None, ctx)
    assert ranks.asked == 2
    for name in gathered:
        assert gathered[name] == kind().relate(ours, theirs)[name]
        assert local[name] == kind().relate(ours[:2], theirs[:2])[name]


@every_method
def test_how_samples_hang_together_is_known(kind):
    assert kind().coupling == "batch"
    assert kind().compares_all_ranks
    assert not kind(across_ranks="local").compares_all_ranks
    assert make_method("kd").coupling == "none"


@every_method
def test_what_makes_no_sense_is_refused(kind):
    with pytest.raises(MethodError, match=r"method\.across_ranks: expected gather or local"):
        kind(across_ranks="all")
    black_box = type("BlackBox", (LiveTeacher,), {"module": None})(make_cnn(2))
    with pytest.raises(TeacherError, match=f"no layers that {kind.name} could read"):
        prepare(kind(), teacher=black_box)


def test_beside_peers_a_method_reads_the_teacher_that_has_layers():
    ctx = Context(example=Batch(inputs=IMAGES))
    teachers = {"peers": PeersTeacher(), "teacher": LiveTeacher(teacher_network())}
    runtime = SP().prepare(make_cnn(4, 8), teachers, None, ctx)
    assert runtime.teacher_taps() == ("stages.1",)
    with pytest.raises(TeacherError, match=r"teachers\.peers: has no layers"):
        SP(teacher="peers").prepare(make_cnn(4, 8), teachers, None, ctx)


@every_method
def test_a_step_adds_task_and_terms_and_deploys_the_student_alone(kind, tmp_path):
    plan = make_plan(kind(), wide=True)
    parts = assemble(plan, World())
    parts.module.double().eval()
    loss, terms = parts.module(example_batch(plan, torch.device("cpu"), 16), parts.stages[0])
    names = terms.keys() - {"task", "loss"}
    expected = float(terms["task"]) + kind().weight * sum(float(terms[name]) for name in names)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    parts.close()
    outcome = run(make_plan(kind()), tmp_path / "run")
    assert type(outcome.student) is type(make_cnn(4, 8))
    assert all(names <= record.keys() for record in log_of(tmp_path / "run"))
    again = run(make_plan(kind()), tmp_path / "again")
    assert same_weights(outcome.student, again.student)


def test_the_equations_are_the_ones_of_functional():
    ours, theirs = draw(6, 4), draw(6, 5, seed=1)
    assert SP().relate(ours, theirs)["sp"] == functional.sp(ours, theirs)
    assert PKT().relate(ours, theirs)["pkt"] == functional.pkt(ours, theirs)
