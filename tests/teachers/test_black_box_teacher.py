"""BlackBoxTeacher over plain functions and real scikit-learn estimators."""

import math

import numpy as np
import pytest
import torch
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from teacher_worlds import CPU, Net, batch_of, cancer, digits

from limbeck.data import Batch, Normalize, bundle_from
from limbeck.errors import TeacherError
from limbeck.teachers import BlackBoxTeacher
from limbeck.testing.check_teacher import check_teacher


@pytest.fixture(scope="module")
def table():
    return cancer()


@pytest.fixture(scope="module")
def images():
    return digits()


def arrays(data, split="train"):
    view = data.splits[split]
    raw = view.fetch(torch.arange(len(view)))
    inputs = data.augment_eval(raw.inputs, raw.index)
    return inputs.flatten(1).numpy(), raw.targets.numpy()


def softmax(values):
    shifted = np.exp(values - values.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


MAKERS = {
    "gradient boosting": lambda s: GradientBoostingClassifier(n_estimators=8, random_state=s),
    "histogram boosting": lambda s: HistGradientBoostingClassifier(max_iter=5, random_state=s),
    "forest": lambda s: RandomForestClassifier(12, random_state=s),
    "logistic": lambda s: LogisticRegression(C=1 + s, max_iter=300),
    "pipeline": lambda s: make_pipeline(StandardScaler(), LogisticRegression(C=1 + s)),
    "neighbours": lambda s: KNeighborsClassifier(5 + 2 * s),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_estimators_on_breast_cancer(table, kind):
    inputs, targets = arrays(table)
    estimator = MAKERS[kind](0).fit(inputs, targets)
    teacher = BlackBoxTeacher(estimator, name=kind)
    teacher.bind(table, CPU)
    batch = batch_of(table, "test", 16)
    check_teacher(teacher, batch)
    expected = np.log(np.maximum(estimator.predict_proba(batch.inputs.numpy()), 1e-12))
    assert np.allclose(teacher.ask(batch).logits.numpy(), expected, atol=1e-5)
    twin = MAKERS[kind](0).fit(inputs, targets)
    other = MAKERS[kind](1).fit(inputs[:-40], targets[:-40])
    prints = []
    for model in (twin, other):
        voice = BlackBoxTeacher(model)
        voice.bind(table, CPU)
        prints.append(voice.fingerprint())
    assert prints[0] == teacher.fingerprint()
    assert prints[1] != teacher.fingerprint()


@pytest.mark.parametrize("kind", ["forest", "gradient boosting", "histogram boosting"])
def test_one_changed_leaf_changes_the_fingerprint(table, kind):
    estimator = MAKERS[kind](0).fit(*arrays(table))
    teacher = BlackBoxTeacher(estimator)
    before = teacher.fingerprint()  # no probe needed: all is read
    assert "parameters and fitted arrays" in teacher.describe()
    assert "cannot be read" not in teacher.describe()
    if kind == "forest":
        estimator.estimators_[3].tree_.value[0, 0, 0] += 1e-6
    elif kind == "gradient boosting":
        estimator.estimators_[2, 0].tree_.threshold[0] += 1e-6
    else:
        estimator._predictors[0][0].nodes["value"][-1] += 1e-6
    assert teacher.fingerprint() != before


def test_forest_on_digits_images_is_right_and_its_votes_are_kept(images):
    inputs, targets = arrays(images)
    teacher = BlackBoxTeacher(RandomForestClassifier(30, random_state=0).fit(inputs, targets))
    teacher.bind(images, CPU)
    batch = batch_of(images, "test", 100)
    assert batch.inputs.shape == (100, 1, 8, 8)
    logits = teacher.ask(batch).logits
    assert float((logits.argmax(1) == batch.targets).float().mean()) > 0.9
    assert float(logits.min()) == pytest.approx(math.log(1e-12))


def test_classes_never_seen_get_the_floor(images):
    inputs, targets = arrays(images)
    kept = ~np.isin(targets, (3, 7))
    estimator = RandomForestClassifier(8, random_state=0).fit(inputs[kept], targets[kept])
    teacher = BlackBoxTeacher(estimator, floor=1e-6)
    teacher.bind(images, CPU)
    batch = batch_of(images, "test", 20)
    said = teacher.ask(batch).logits.exp()
    own = estimator.predict_proba(batch.inputs.flatten(1).numpy())
    assert np.allclose(said[:, [3, 7]].numpy(), 1e-6)
    assert np.allclose(said[:, estimator.classes_].numpy(), np.maximum(own, 1e-6), atol=1e-6)
    check_teacher(teacher, batch)


def test_more_classes_than_the_data_are_refused(images):
    inputs, targets = arrays(images)
    estimator = LogisticRegression(max_iter=50, C=0.01).fit(inputs[:200], targets[:200] + 1)
    with pytest.raises(TeacherError, match="fitted on class 10, the data have 10"):
        BlackBoxTeacher(estimator).bind(images, CPU)
    names = LogisticRegression().fit(inputs[:200, :2], np.where(targets[:200] > 4, "hi", "lo"))
    with pytest.raises(TeacherError, match="labels such as 'hi'"):
        BlackBoxTeacher(names).ask(Batch(torch.zeros(2, 2)))


def test_functions_take_arrays_or_tensors(images):
    batch = batch_of(images)
    net = Net().eval()

    def on_arrays(inputs):
        assert isinstance(inputs, np.ndarray)
        assert inputs.shape == (len(inputs), 1, 8, 8)
        with torch.no_grad():
            return softmax(net(torch.from_numpy(inputs)).numpy())

    def on_tensors(inputs):
        assert isinstance(inputs, torch.Tensor)
        return net(inputs)

    with torch.no_grad():
        expected = net(batch.inputs)
    first = BlackBoxTeacher(on_arrays)
    second = BlackBoxTeacher(on_tensors, takes="tensor", gives="logits")
    for teacher in (first, second):
        teacher.bind(images, CPU)
        check_teacher(teacher, batch)
    assert torch.allclose(first.ask(batch).logits, expected.log_softmax(1), atol=1e-5)
    assert torch.equal(second.ask(batch).logits, expected)
    assert first.fingerprint() != second.fingerprint()
    assert "on_arrays" in first.describe()
    assert "answers to the probe" in first.describe()


def test_functions_are_fingerprinted_by_what_they_answer(images):
    def constant(values):
        return lambda inputs: np.tile(values, (len(inputs), 1))

    row = np.full(10, 0.1)
    other = row.copy()
    other[0], other[1] = 0.11, 0.09
    probe = batch_of(images).inputs

    def print_of(values):
        return BlackBoxTeacher(constant(values), probe=probe).fingerprint()

    assert print_of(row) == print_of(row.copy())
    assert print_of(row) != print_of(other)
    with pytest.raises(TeacherError, match="bind it to data, or give probe="):
        BlackBoxTeacher(constant(row)).fingerprint()


def test_estimators_with_unreadable_parts_are_asked_too(table):
    inputs, targets = arrays(table)
    estimator = KNeighborsClassifier(5, algorithm="kd_tree").fit(inputs, targets)
    teacher = BlackBoxTeacher(estimator)
    with pytest.raises(TeacherError, match="cannot be fingerprinted without samples"):
        teacher.fingerprint()
    teacher.bind(table, CPU)
    assert len(teacher.fingerprint()) == 64
    assert "KDTree cannot be read" in teacher.describe()


def test_support_vectors_and_networks_are_read(table):
    inputs, targets = arrays(table)
    mlp = MLPClassifier((4,), max_iter=400, random_state=0, tol=0.1).fit(inputs, targets)
    teacher = BlackBoxTeacher(mlp)
    before = teacher.fingerprint()
    mlp.coefs_[0][0, 0] += 1e-5
    assert teacher.fingerprint() != before
    with pytest.raises(TeacherError, match="SVC has no predict_proba"):
        BlackBoxTeacher(SVC().fit(inputs, targets)).bind(table, CPU)


def test_inputs_are_a_copy_it_may_write_to():
    def rude(inputs):
        inputs *= 0
        return np.full((len(inputs), 2), 0.5)

    batch = Batch(torch.rand(3, 4))
    kept = batch.inputs.clone()
    BlackBoxTeacher(rude).ask(batch)
    assert torch.equal(batch.inputs, kept)


def test_sees_inputs_under_its_own_statistics(images):
    seen = []

    def watch(inputs):
        seen.append(inputs)
        return np.full((len(inputs), 10), 0.1)

    teacher = BlackBoxTeacher(watch, normalization=Normalize())
    teacher.bind(images, CPU)
    raw = images.splits["train"].fetch(torch.arange(4))
    teacher.ask(batch_of(images, size=4))
    assert np.allclose(seen[-1], raw.inputs.numpy() / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[0.5, 0.6]], "sum to 1.1, expected 1"),
        ([[-0.1, 1.1]], "-0.1 as a probability"),
        ([[2.0, 3.0]], "say gives='logits'"),
        ([[math.nan, 1.0]], "NaN or infinite"),
        ([[0.2, 0.3, 0.5]], r"shape \[1, 3\], expected \[1, 2\]"),
        ([0.5, 0.5], r"shape \[2\], expected"),
        ([[0.5, 0.5]] * 2, r"shape \[2, 2\], expected \[1, 2\]"),
    ],
)
def test_answers_that_are_no_probabilities(answer, message):
    teacher = BlackBoxTeacher(lambda inputs: np.array(answer), num_outputs=2)
    with pytest.raises(TeacherError, match=message):
        teacher.ask(Batch(torch.zeros(1, 4)))


def test_answers_within_tolerance_are_taken():
    teacher = BlackBoxTeacher(lambda inputs: np.array([[0.5, 0.5005]]))
    assert teacher.ask(Batch(torch.zeros(1, 4))).logits.exp().sum() == pytest.approx(1.0005)


def test_errors_inside_the_function_are_one_line():
    def broken(inputs):
        raise RuntimeError("no\nluck")

    with pytest.raises(TeacherError, match=r"cannot answer: RuntimeError: no$"):
        BlackBoxTeacher(broken).ask(Batch(torch.zeros(1, 4)))


def test_regression_hands_values_over():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(80, 5)).astype(np.float32)
    targets = (inputs @ rng.normal(size=(5, 1))).astype(np.float32)
    data = bundle_from((torch.from_numpy(inputs), torch.from_numpy(targets)), task="regression")
    for estimator in (LinearRegression(), RandomForestRegressor(5, random_state=0)):
        estimator.fit(inputs, targets[:, 0])
        teacher = BlackBoxTeacher(estimator)
        assert teacher.task == "regression"
        teacher.bind(data, CPU)
        batch = batch_of(data)
        check_teacher(teacher, batch)
        expected = estimator.predict(batch.inputs.numpy())[:, None]
        assert np.allclose(teacher.ask(batch).logits.numpy(), expected, atol=1e-5)


def test_multilabel_forest_with_a_label_always_off():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(120, 5)).astype(np.float32)
    targets = np.stack([inputs[:, 0] > 0, inputs[:, 1] > 0, inputs[:, 0] > 99], 1).astype(int)
    data = bundle_from(
        (torch.from_numpy(inputs), torch.from_numpy(targets).float()), task="multilabel"
    )
    forest = RandomForestClassifier(10, random_state=0).fit(inputs, targets)
    teacher = BlackBoxTeacher(forest, floor=1e-4)
    teacher.bind(data, CPU)
    batch = batch_of(data)
    check_teacher(teacher, batch)
    said = teacher.ask(batch).logits.sigmoid().numpy()
    own = forest.predict_proba(batch.inputs.numpy())
    assert np.allclose(said[:, 0], own[0][:, 1].clip(1e-4, 1 - 1e-4), atol=1.1e-4)
    assert np.allclose(said[:, 2], 1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gives": "probs"}, "unknown gives 'probs'"),
        ({"takes": "torch"}, "unknown takes 'torch'"),
        ({"floor": 0}, r"floor: expected a number in \(0, 0.5\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(TeacherError, match=message):
        BlackBoxTeacher(lambda inputs: inputs, **arguments)


def test_things_that_cannot_answer():
    with pytest.raises(TeacherError, match="expected a callable, or an object with predict_proba"):
        BlackBoxTeacher(3)
    teacher = BlackBoxTeacher(lambda inputs: np.full((len(inputs), 2), 0.5))
    with pytest.raises(TeacherError, match="a black box has no gradients"):
        teacher.ask(Batch(torch.zeros(1, 4)), require_grad=True)
    with pytest.raises(TeacherError, match="outputs only"):
        teacher.set_taps(["stages"])
    assert not teacher.can_give("features")
    with pytest.raises(TeacherError, match="gives 3 outputs, the data have 2"):
        BlackBoxTeacher(lambda x: x, num_outputs=3).bind(cancer(), CPU)
