"""ONE: the branched network, its loss against loops, what is deployed, rebuilt and exported."""

import math

import pytest
import torch
from functional_references import naive_cross_entropy, naive_kl
from method_runs import log_of, make_cnn, make_plan
from torch import nn
from torch.nn import functional as F

import limbeck as lb
from limbeck import functional as lf
from limbeck.data import load_data
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError, ModelError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models import build_model, load_model
from limbeck.models.branched import Branched, chain_of
from limbeck.taps.outputs import Outputs

SHAPE = (3, 16, 16)


def prepared(network, inputs, **options):
    method, context = make_method("one", **options), Context(example=Batch(inputs=inputs))
    with torch.no_grad():
        return method.prepare(network.eval(), {}, None, context)


# The equation


def test_the_loss_is_summed_over_the_branches():
    branches = 2 * torch.randn(5, 3, 4, dtype=torch.float64)
    gate = torch.rand(5, 3, dtype=torch.float64).softmax(1)
    together = lf.gated_logits(branches, gate)
    for row in range(5):
        for k in range(4):
            expected = sum(float(gate[row, i] * branches[row, i, k]) for i in range(3))
            assert float(together[row, k]) == pytest.approx(expected, rel=1e-12)
    value = lf.native_ensemble(branches, together, temperature=3.0)
    expected = sum(math.fsum(naive_kl(branches[:, i], together, 3.0)) / 5 for i in range(3))
    assert float(value) == pytest.approx(expected, rel=1e-10)
    rows = lf.native_ensemble(branches, together, reduction="none")
    assert float(rows.mean()) == pytest.approx(expected, rel=1e-10)


def test_the_ensemble_is_not_moved_by_what_it_teaches():
    branches = torch.randn(5, 2, 4, requires_grad=True)
    together = torch.randn(5, 4, requires_grad=True)
    lf.native_ensemble(branches, together).backward()
    assert together.grad is None
    assert branches.grad.abs().max() > 0


def test_one_branch_alone_has_nothing_to_learn():
    logits = torch.randn(5, 4, dtype=torch.float64)
    assert float(lf.native_ensemble(logits[:, None], logits)) == 0


def test_a_gate_that_does_not_fit():
    with pytest.raises(ValueError, match=r"gate has shape \(5, 2\); expected \(5, 3\)"):
        lf.gated_logits(torch.zeros(5, 3, 4), torch.zeros(5, 2))


def test_the_method_adds_up_all_it_hears():
    voices = torch.randn(6, 4, 5, dtype=torch.float64)
    labels, method = torch.tensor([0, 1, 2, 3, -100, 1]), make_method("one", ramp_epochs=80)
    student, batch = Outputs(voices[:, 0], {"voices": voices}), Batch(inputs=voices, targets=labels)
    assert [method.ramp(e) for e in (0, 40, 80, 99)] == pytest.approx(
        [math.exp(-5), math.exp(-1.25), 1.0, 1.0]
    )
    assert make_method("one", ramp_epochs=0).ramp(0) == 1.0
    found = method.losses(student, student, batch, Context(epoch=40))["one"]
    expected = sum(math.fsum(naive_kl(voices[:, i], voices[:, 3], 3.0)) / 6 for i in range(3))
    assert float(found) == pytest.approx(math.exp(-1.25) * expected, rel=1e-10)
    task = float(method.task_loss(student, batch, Context()))
    expected = sum(naive_cross_entropy(voices[:, i], labels) for i in range(4))
    assert task == pytest.approx(expected, rel=1e-10)


# The network


@pytest.mark.parametrize(
    ("name", "options", "split"),
    [
        ("cnn", {"channels": (4, 8, 8)}, "stages.2"),
        ("resnet8", {}, "layer3"),
        ("wrn16_1", {}, None),
        ("vgg8", {}, None),
        ("mobilenetv2", {}, None),
        ("shufflenetv1", {}, None),
    ],
)
def test_networks_are_branched_at_their_last_stage(name, options, split):
    network = build_model(name, num_classes=7, input_shape=(3, 32, 32), **options)
    inputs = torch.rand(2, 3, 32, 32)
    branched = prepared(network, inputs).student.eval()
    assert split is None or branched.tail[0] == split
    with torch.no_grad():
        assert torch.equal(branched(inputs), network(inputs))  # the first branch is the network
    shapes = [[p.shape for p in tail.parameters()] for tail in branched.others]
    first = nn.ModuleList(network.get_submodule(path) for path in branched.tail)
    assert shapes == [[p.shape for p in first.parameters()]] * 2


def test_further_branches_start_anew_at_the_same_scale():
    torch.manual_seed(0)
    network = build_model("resnet20", num_classes=10, input_shape=(3, 32, 32))
    branched = prepared(network, torch.rand(2, 3, 32, 32)).student
    ours, other = network.layer3[2].conv2.weight, branched.others[0][0][2].conv2.weight
    assert not torch.equal(ours, other)
    assert other.std().item() == pytest.approx(ours.std().item(), rel=0.05)
    assert torch.equal(network.layer3[0].bn1.weight, branched.others[0][0][0].bn1.weight)


def test_the_gate_reads_the_trunk_and_weighs_every_sample():
    network = make_cnn(4, 8)
    inputs = torch.rand(5, 1, 8, 8)
    branched = prepared(network, inputs, deploy="ensemble").student.eval()
    heard = []
    branched.voices.register_forward_hook(lambda _m, _a, out: heard.append(out))
    said = branched(inputs)
    hidden = network.stages[0](inputs)
    gate = branched.gate[1](branched.gate[0](hidden.mean((2, 3)))).relu().softmax(1)
    tails = [[network.stages[1], network.pool, network.dropout, network.head], *branched.others]
    each = []
    for tail in tails:
        value = hidden
        for module in tail:
            value = module(value)
        each.append(value)
    expected = lf.gated_logits(torch.stack(each, 1), gate)
    torch.testing.assert_close(said, expected)
    torch.testing.assert_close(heard[0], torch.cat([torch.stack(each, 1), expected[:, None]], 1))


class Between(nn.Module):
    """Does something between its modules that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, inputs):
        return self.head(F.relu(self.second(self.first(inputs))).mean((2, 3)))


def test_what_cannot_be_branched_is_refused_in_one_line():
    line = "method one: Between cannot be branched: between second and head it does something"
    with pytest.raises(MethodError, match=line):
        prepared(Between(), torch.rand(2, 1, 8, 8), split="second")
    with pytest.raises(MethodError, match=r"no module 'third'; method\.split names the path"):
        prepared(Between(), torch.rand(2, 1, 8, 8), split="third")
    with pytest.raises(MethodError, match="networks that read one tensor"):
        prepared(Between(), {"x": torch.rand(2, 1, 8, 8)})
    context = Context(example=Batch(inputs=torch.rand(2, 1, 8, 8)), forward=lambda m, b: m(b))
    with pytest.raises(MethodError, match=r"called as model\(inputs\); leave out forward"):
        make_method("one").prepare(Between(), {}, None, context)
    with pytest.raises(MethodError, match="'voices'; got"):
        make_method("one")(torch.zeros(2, 3))
    for change in ({"branches": 0}, {"answer": "both"}):
        options = {"trunk": ["0"], "tail": ["1"], "branches": 2, "features": 4, **change}
        with pytest.raises(ModelError, match=f"{next(iter(change))}: expected"):
            Branched(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), **options)


def test_a_chain_is_read_through_modules_that_work_in_place():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    trunk, tail, feature = chain_of(network, torch.rand(2, 4), "2")
    assert (trunk, tail, tuple(feature.shape)) == (["0", "1"], ["2"], (2, 6))


# A run


def data():
    return load_data("digits", num_train=48)


def test_every_branch_and_the_gate_are_trained():
    plan = make_plan("one", data=data())
    parts = assemble(plan, World())
    batch = example_batch(plan, torch.device("cpu"), 12)
    parts.module.train()
    loss, terms = parts.module(batch, parts.stages[0])
    loss.backward()
    assert {"one", "task"} <= set(terms)
    silent = [name for name, p in parts.student.named_parameters() if p.grad is None]
    assert silent == []
    parts.close()


@pytest.mark.parametrize("deploy", ["branch", "ensemble"])
def test_what_is_deployed_is_what_was_evaluated_and_is_built_again(deploy, tmp_path):
    done = lb.distill(
        student="cnn", data=data(), method=lb.ONE(deploy=deploy), epochs=1,
        output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    inputs = torch.rand(3, 1, 8, 8)
    kind = "Branched" if deploy == "ensemble" else "CNN"
    assert type(done.student).__name__ == kind
    again = load_model(tmp_path / "run" / "student")
    assert torch.equal(again(inputs), done.student(inputs))
    assert not any(m._forward_hooks for m in done.student.modules())
    scores = [r["accuracy"] for r in log_of(tmp_path / "run", "eval") if r["split"] == "validation"]
    assert len(scores) == 2
    assert scores[0] == scores[1]  # of the last epoch, and of what was deployed


def test_evaluation_and_deployment_agree_to_the_bit(tmp_path):
    plan = make_plan("one", data=data())
    parts = assemble(plan, World())
    batch = example_batch(plan, torch.device("cpu"), 12)
    parts.module.eval()
    with torch.no_grad():
        evaluated = parts.voice(batch).logits
        deployed = parts.runtimes[0].deploy(parts.student).eval()(batch.inputs)
    assert torch.equal(evaluated, deployed)
    parts.close()


def test_the_ensemble_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    done = lb.distill(
        student="cnn", data=data(), method=lb.ONE(deploy="ensemble"), epochs=1,
        output=tmp_path / "run", quiet=True,
    )  # fmt: skip
    for form in ("onnx", "safetensors"):
        done.export(form, tmp_path / form)  # checked against the network, or refused
    assert "limbeck" not in {
        line.split()[1].split(".")[0]
        for file in (tmp_path / "safetensors").rglob("*.py")
        for line in file.read_text().splitlines()
        if line.strip().startswith(("import ", "from "))
    }


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"branches": 1}, "branches"),
        ({"temperature": 0.0}, "temperature"),
        ({"ramp_epochs": -1}, "ramp_epochs"),
        ({"deploy": "gate"}, "deploy"),
    ],
)
def test_bad_values(change, key):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        make_method("one", **change)
