"""EnsembleTeacher against closed forms in float64."""

import math

import pytest
import torch
from teacher_worlds import CPU, Net, batch_of, digits
from torch import nn

from limbeck.data import Batch, bundle_from
from limbeck.errors import TeacherError
from limbeck.teachers import EnsembleTeacher, LiveTeacher, PeersTeacher, SnapshotTeacher
from limbeck.testing.check_teacher import check_teacher

NETS = (0, 1, 2)


def parts(batch):
    return [Net(seed=seed).eval()(batch.inputs).double() for seed in NETS]


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.mark.parametrize("merge", ["logits", "probabilities"])
@pytest.mark.parametrize("weights", [None, (1, 2, 5), (0, 1, 3)])
def test_merges_as_said(data, merge, weights):
    batch = batch_of(data)
    teacher = EnsembleTeacher([Net(seed=s) for s in NETS], merge=merge, weights=weights)
    teacher.bind(data, CPU)
    shares = [w / sum(weights or (1, 1, 1)) for w in weights or (1, 1, 1)]
    logits = parts(batch)
    if merge == "logits":
        expected = sum(w * z for w, z in zip(shares, logits, strict=True))
    else:
        expected = sum(w * z.softmax(1) for w, z in zip(shares, logits, strict=True)).log()
    outputs = teacher.ask(batch)
    assert torch.allclose(outputs.logits.double(), expected, atol=1e-5)
    assert len(outputs.members) == 3
    for voice, z in zip(outputs.members, logits, strict=True):
        assert torch.allclose(voice.logits.double(), z, atol=1e-6)
    check_teacher(teacher, batch)
    teacher.close()


def test_probabilities_survive_extreme_logits():
    nets = [nn.Linear(2, 3, bias=False) for _ in range(2)]
    nets[0].weight.data = torch.tensor([[1e4, 0.0], [0.0, 0.0], [0.0, 0.0]])
    nets[1].weight.data = torch.tensor([[0.0, 0.0], [1e4, 0.0], [0.0, 0.0]])
    teacher = EnsembleTeacher(nets, merge="probabilities")
    logits = teacher.ask(Batch(torch.tensor([[1.0, 0.0]]))).logits[0]
    assert logits[:2].tolist() == pytest.approx([math.log(0.5)] * 2)
    assert torch.isfinite(logits).all()


def test_multilabel_merges_each_labels_sigmoid():
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 6), (torch.rand(40, 4) > 0.5).float()
    data = bundle_from((inputs, targets), task="multilabel")
    nets = [nn.Linear(6, 4), nn.Linear(6, 4)]
    teacher = EnsembleTeacher(nets, merge="probabilities", weights=(3, 1))
    teacher.bind(data, CPU)
    said = teacher.ask(Batch(inputs)).logits.sigmoid()
    expected = 0.75 * nets[0](inputs).sigmoid() + 0.25 * nets[1](inputs).sigmoid()
    assert torch.allclose(said, expected, atol=1e-6)


def test_regression_averages_outputs_and_has_no_probabilities():
    inputs = torch.randn(40, 6)
    data = bundle_from((inputs, torch.randn(40, 2)), task="regression")
    nets = [nn.Linear(6, 2), nn.Linear(6, 2)]
    teacher = EnsembleTeacher(nets)
    teacher.bind(data, CPU)
    expected = (nets[0](inputs) + nets[1](inputs)) / 2
    assert torch.allclose(teacher.ask(Batch(inputs)).logits, expected, atol=1e-6)
    with pytest.raises(TeacherError, match="regression has no probabilities"):
        EnsembleTeacher(nets, merge="probabilities").bind(data, CPU)


def test_class_counts_are_checked_for_each_member(data):
    teacher = EnsembleTeacher([Net(), Net(7)], name="zoo")
    with pytest.raises(TeacherError, match=r"teachers\.zoo\[1\]: gives 7 outputs, .* 10"):
        teacher.bind(data, CPU)
    with pytest.raises(TeacherError, match=r"\[8, 7\], \[8, 10\]"):
        EnsembleTeacher([Net(), Net(7)]).ask(batch_of(data))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EnsembleTeacher([]), "at least one"),
        (lambda: EnsembleTeacher([Net()], merge="probs"), "unknown merge 'probs'"),
        (lambda: EnsembleTeacher([Net()], weights=(1, 2)), "2 weights for 1 teachers"),
        (lambda: EnsembleTeacher([Net()], weights=(-1,)), "at least 0"),
        (lambda: EnsembleTeacher([Net()], weights=(math.nan,)), "at least 0"),
        (lambda: EnsembleTeacher([PeersTeacher()]), "peers cannot"),
        (lambda: EnsembleTeacher([3]), r"teachers\.ensemble\[0\]: expected an nn\.Module"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(TeacherError, match=message):
        build()


def test_fingerprint_covers_members_merge_and_weights():
    def print_of(nets=(0, 1), **options):
        return EnsembleTeacher([Net(seed=s) for s in nets], **options).fingerprint()

    prints = [
        print_of(),
        print_of((1, 0)),
        print_of((0, 2)),
        print_of(merge="probabilities"),
        print_of(weights=(1, 2)),
    ]
    assert len(set(prints)) == 5
    assert print_of() == print_of(weights=(7, 7))


def test_hands_everything_on_to_its_members(data):
    net = Net(seed=1).train()
    student = Net(seed=2)
    earlier = SnapshotTeacher()
    teacher = EnsembleTeacher([LiveTeacher(net), earlier])
    assert teacher.changes
    teacher.bind(data, CPU)
    teacher.meet(student)
    assert sum(p.numel() for p in teacher.module.parameters()) == 2 * sum(
        p.numel() for p in student.parameters()
    )
    assert list(teacher.state.children()) == [earlier.state]
    check_teacher(teacher, batch_of(data))
    assert "2 teachers" in teacher.describe()
    teacher.close()
    assert net.training
