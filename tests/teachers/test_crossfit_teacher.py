"""CrossFitTeacher: nobody answers for a sample that they have seen."""

import dataclasses

import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from teacher_worlds import CPU, Net, batch_of, digits
from torch import nn

import limbeck as lb
from limbeck.data import Batch, batches
from limbeck.errors import TeacherError
from limbeck.teachers import CachedTeacher, CrossFitTeacher, EmaTeacher, Visits, cross_fit
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(scope="module")
def data():
    return digits(num_train=203)


class Says(nn.Module):
    """Always says its own number at class 0."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, inputs):
        return torch.full((len(inputs), 10), 0.0).index_fill(1, torch.tensor([0]), self.number)


def spoken(data, folds=4):
    """A cross-fit of networks that say the number of their fold; and what each was given."""
    given = []

    def fit(part):
        given.append(part.splits["train"].indices)
        return Says(float(len(given)))

    return cross_fit(fit, data, folds=folds), given


def training_batch(data, **more):
    options = {"batch_size": 64, "seed": 0, "epoch": 0, "augment": data.augment_train, **more}
    return next(iter(batches(data.splits["train"], **options)))[0]


def test_each_training_sample_is_answered_by_the_one_that_was_fitted_without_it(data):
    teacher, given = spoken(data)
    teacher.foresee(Visits())
    teacher.bind(data, CPU)
    batch = training_batch(data)
    said = teacher.ask(batch).logits[:, 0]
    for position, number in zip(batch.index.tolist(), said.tolist(), strict=True):
        without = [fold for fold, seen in enumerate(given, 1) if position not in seen.tolist()]
        assert without == [number]


def test_the_folds_part_the_training_samples_and_keep_class_shares(data):
    _, given = spoken(data, folds=4)
    train = data.splits["train"]
    left_out = [set(train.indices.tolist()) - set(seen.tolist()) for seen in given]
    assert sorted(i for fold in left_out for i in fold) == sorted(train.indices.tolist())
    assert max(map(len, left_out)) - min(map(len, left_out)) <= 1
    for label in range(10):
        counts = [int((train.base_targets[list(fold)] == label).sum()) for fold in left_out]
        assert max(counts) - min(counts) <= 1


def test_other_samples_are_answered_by_all(data):
    teacher, _ = spoken(data)
    teacher.foresee(Visits())
    teacher.bind(data, CPU)
    assert torch.equal(teacher.ask(batch_of(data, "test")).logits[:, 0], torch.full((8,), 2.5))
    check_teacher(teacher, batch_of(data, "test"))


def test_a_sample_that_none_has_seen_is_answered_by_all(data):
    teacher, _ = spoken(data)
    unseen = teacher.unseen.clone()
    place = int(training_batch(data).index[0])
    unseen[:, place] = True
    other = CrossFitTeacher(list(teacher.all.members), unseen, samples=teacher._samples)
    other.foresee(Visits())
    other.bind(data, CPU)
    assert float(other.ask(training_batch(data)).logits[0, 0]) == 2.5


def test_a_forest_is_less_sure_of_what_it_has_not_seen(data):
    def fit(part):
        view = part.splits["train"]
        raw = view.fetch(torch.arange(len(view)))
        inputs = part.augment_eval(raw.inputs, raw.index).flatten(1).numpy()
        return RandomForestClassifier(30, random_state=0).fit(inputs, raw.targets.numpy())

    teacher = cross_fit(fit, data, folds=3)
    teacher.foresee(Visits())
    teacher.bind(data, CPU)
    assert teacher.account["accuracy_seen"] == 1.0
    assert 0.7 < teacher.account["accuracy"] < 1.0
    assert teacher.account["nll"] > 2 * teacher.account["nll_seen"]


def test_in_a_run_live_and_cached_agree(data, tmp_path):
    def fit(part):
        torch.manual_seed(len(part.splits["train"]))
        return Net(seed=int(part.splits["train"].indices.sum()))

    losses = []
    for wrap in (lambda t: t, lambda t: CachedTeacher(t, tmp_path / "cache")):
        run = lb.distill(
            wrap(cross_fit(fit, data, folds=3)),
            "mlp",
            data,
            "kd",
            epochs=1,
            output=tmp_path / str(len(losses)),
            quiet=True,
        )
        losses.append(run.summary["metrics"]["validation"]["nll"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_refusals(data):
    teacher, _ = spoken(data)
    with pytest.raises(TeacherError, match="at least two teachers"):
        CrossFitTeacher([Net()], torch.ones(1, 3, dtype=torch.bool), samples="")
    with pytest.raises(TeacherError, match=r"unseen: expected bool \[2, 'samples'\]"):
        CrossFitTeacher([Net(), Net()], torch.ones(1, 3), samples="")
    with pytest.raises(TeacherError, match="must not change"):
        CrossFitTeacher([Net(), EmaTeacher()], torch.ones(2, 3, dtype=torch.bool), samples="")
    with pytest.raises(TeacherError, match="folds: expected 2 to 203"):
        cross_fit(lambda part: Net(), data, folds=1)
    with pytest.raises(TeacherError, match="needs the data"):
        teacher.bind(None, CPU)
    with pytest.raises(TeacherError, match="other training samples"):
        teacher.bind(digits(unlabelled=torch.zeros(3, 1, 8, 8, dtype=torch.uint8)), CPU)
    with pytest.raises(TeacherError, match="method kcd changes samples"):
        teacher.foresee(Visits(changing=("kcd",)))
    teacher.bind(data, CPU)
    with pytest.raises(TeacherError, match="cannot tell whether these are training samples"):
        teacher.ask(batch_of(data))
    with pytest.raises(TeacherError, match="no features"):
        teacher.set_taps(["act"])
    teacher.foresee(Visits())
    batch = training_batch(data)
    changed = torch.ones(len(batch), dtype=torch.bool)
    with pytest.raises(TeacherError, match="a sample was changed"):
        teacher.ask(dataclasses.replace(batch, changed=changed))
    teacher.close()  # what a later loop does with its samples it has not told
    teacher.bind(data, CPU)
    with pytest.raises(TeacherError, match="cannot tell whether these are training samples"):
        teacher.ask(batch_of(data))
    new = Batch(torch.zeros(2, 1, 8, 8))
    assert torch.equal(teacher.ask(new).logits[:, 0], torch.full((2,), 2.5))


def test_a_mixture_has_no_fold():
    mixed = digits(num_train=203, augment=[{"mixup": 0.5}])
    teacher, _ = spoken(mixed)
    with pytest.raises(TeacherError, match="of a mixture of two samples nobody can tell"):
        teacher.bind(mixed, CPU)
