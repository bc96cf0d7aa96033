"""Teachers fitted from a specification."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from teacher_worlds import CPU, batch_of, cancer, digits

from limbeck.data import IGNORE, bundle_from
from limbeck.errors import TeacherError
from limbeck.teachers import fit_sklearn
from limbeck.testing.check_teacher import check_teacher


def labelled_arrays(data):
    view = data.splits["train"]
    raw = view.fetch(torch.arange(len(view)))
    kept = raw.targets != IGNORE
    inputs = data.augment_eval(raw.inputs, raw.index)
    return inputs[kept].flatten(1).numpy(), raw.targets[kept].numpy()


def test_is_the_estimator_fitted_by_hand_on_labelled_samples():
    data = digits(labels_per_class=20)
    assert not bool(data.splits["train"].labelled.all())
    teacher = fit_sklearn("RandomForestClassifier", {"n_estimators": 15}, data, seed=5)
    teacher.bind(data, CPU)
    batch = batch_of(data, "test", 64)
    check_teacher(teacher, batch)
    inputs, targets = labelled_arrays(data)
    assert len(targets) == 200
    hand = RandomForestClassifier(15, random_state=5).fit(inputs, targets)
    expected = hand.predict_proba(batch.inputs.flatten(1).numpy())
    assert np.allclose(teacher.ask(batch).logits.exp().numpy(), expected, atol=1e-6)
    assert float((teacher.ask(batch).logits.argmax(1) == batch.targets).float().mean()) > 0.8


def test_seed_decides_and_an_explicit_state_wins():
    data = cancer()

    def print_of(seed, **arguments):
        return fit_sklearn(
            "RandomForestClassifier", {"n_estimators": 3, **arguments}, data, seed=seed
        ).fingerprint()

    assert print_of(1) == print_of(1)
    assert print_of(1) != print_of(2)
    assert print_of(1, random_state=7) == print_of(2, random_state=7)


def test_boosting_on_breast_cancer_generalises():
    data = cancer()
    teacher = fit_sklearn("HistGradientBoostingClassifier", {"max_iter": 30}, data)
    assert isinstance(teacher.function, HistGradientBoostingClassifier)
    teacher.bind(data, CPU)
    batch = batch_of(data, "test", len(data.splits["test"]))
    assert float((teacher.ask(batch).logits.argmax(1) == batch.targets).float().mean()) > 0.9


def test_regressor_for_regression():
    torch.manual_seed(0)
    inputs = torch.randn(120, 4)
    data = bundle_from((inputs, inputs[:, :1] * 2 - 1), task="regression")
    teacher = fit_sklearn("Ridge", None, data)
    teacher.bind(data, CPU)
    batch = batch_of(data)
    assert torch.allclose(teacher.ask(batch).logits, batch.inputs[:, :1] * 2 - 1, atol=0.1)
    with pytest.raises(TeacherError, match="unknown scikit-learn regressor"):
        fit_sklearn("RandomForestClassifier", None, data)


def test_multilabel():
    torch.manual_seed(0)
    inputs = torch.randn(120, 4)
    data = bundle_from((inputs, (inputs[:, :3] > 0).float()), task="multilabel")
    teacher = fit_sklearn("KNeighborsClassifier", {"n_neighbors": 3}, data)
    teacher.bind(data, CPU)
    check_teacher(teacher, batch_of(data))


def test_mistakes_are_named():
    data = cancer()
    with pytest.raises(TeacherError, match="did you mean 'RandomForestClassifier'"):
        fit_sklearn("RandomForrestClassifier", None, data)
    with pytest.raises(TeacherError, match="'n_estimator': did you mean 'n_estimators'"):
        fit_sklearn("RandomForestClassifier", {"n_estimator": 3}, data)
    with pytest.raises(TeacherError, match=r"cannot be fitted: .*max_depth"):
        fit_sklearn("RandomForestClassifier", {"max_depth": "deep"}, data)
    with pytest.raises(TeacherError, match="VotingClassifier cannot be fitted"):
        fit_sklearn("VotingClassifier", None, data)
    view = data.splits["train"]
    bare = view.with_targets(torch.full_like(view.base_targets, IGNORE))
    unlabelled = dataclasses.replace(data, splits={**data.splits, "train": bare})
    with pytest.raises(TeacherError, match="no labelled training samples"):
        fit_sklearn("RandomForestClassifier", None, unlabelled)
