"""What black boxes are given and how their answers are read: arrays, tensors, named columns."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from teacher_worlds import CPU, Net, batch_of, cancer, digits

from limbeck.data import Batch, bundle_from
from limbeck.errors import TeacherError
from limbeck.teachers import BlackBoxTeacher, LiveTeacher, as_teacher, fit_sklearn
from limbeck.teachers.digest import function_digest
from limbeck.teachers.forms import column_order
from limbeck.testing import check_teacher


def test_a_torch_callable_and_an_array_callable_are_both_heard() -> None:
    data = digits()
    net, batch = Net().eval(), batch_of(digits())
    weights = np.linspace(-1, 1, 640).reshape(64, 10)

    def on_arrays(inputs):
        scores = np.exp(inputs.reshape(len(inputs), -1).astype(np.float64) @ weights)
        return scores / scores.sum(axis=1, keepdims=True)

    for function in (lambda x: net(x).softmax(-1), on_arrays):
        teacher = as_teacher(function)
        teacher.bind(data, CPU)
        check_teacher(teacher, batch)
    with torch.no_grad():
        expected = net(batch.inputs).log_softmax(-1)
    heard = as_teacher(lambda x: net(x).softmax(-1)).ask(batch).logits
    assert torch.allclose(heard, expected, atol=1e-5)


def test_the_form_is_settled_at_the_first_question() -> None:
    forms = []

    def picky(inputs):
        forms.append(type(inputs).__name__)
        return inputs.new_full((len(inputs), 2), 0.5)  # tensors only

    teacher = BlackBoxTeacher(picky)
    for _ in range(3):
        teacher.ask(Batch(torch.zeros(4, 3)))
    assert forms == ["ndarray", "Tensor", "Tensor", "Tensor"]


def test_an_error_in_both_forms_says_both() -> None:
    def broken(inputs):
        raise ValueError(f"no {type(inputs).__name__}")

    wanted = "ValueError: no ndarray; with tensors: ValueError: no Tensor"
    with pytest.raises(TeacherError, match=wanted):
        BlackBoxTeacher(broken).ask(Batch(torch.zeros(1, 4)))


def test_networks_with_predict_are_called() -> None:
    class Network:
        def predict(self, inputs):
            raise AssertionError("labels, not probabilities")

        def __call__(self, inputs):
            return np.tile([0.25, 0.75], (len(inputs), 1))

    said = BlackBoxTeacher(Network()).ask(Batch(torch.zeros(3, 4))).logits
    assert torch.allclose(said.exp(), torch.tensor([0.25, 0.75]).expand(3, 2))


def test_values_are_for_regression() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(60, 3)
    data = bundle_from((inputs, inputs[:, :2]), task="regression")
    teacher = BlackBoxTeacher(lambda x: x[:, :2] * 2, gives="values")
    teacher.bind(data, CPU)
    assert torch.allclose(teacher.ask(Batch(inputs)).logits, inputs[:, :2] * 2)
    with pytest.raises(TeacherError, match="'values' is for regression, the task is class"):
        BlackBoxTeacher(lambda x: x, gives="values").bind(cancer(), CPU)


def test_classes_by_name_are_put_at_the_datas_classes() -> None:
    names = ("malignant", "benign")  # not in the order in which scikit-learn sorts them
    data = cancer(class_names=names)
    batch = batch_of(data, size=200)
    words = np.array(names)[batch.targets.numpy()]
    estimator = LogisticRegression(max_iter=300).fit(batch.inputs.numpy(), words)
    assert estimator.classes_.tolist() == ["benign", "malignant"]
    teacher = BlackBoxTeacher(estimator)
    teacher.bind(data, CPU)
    heard = teacher.ask(batch).logits
    expected = estimator.predict_proba(batch.inputs.numpy())[:, [1, 0]]
    assert np.allclose(heard.exp().numpy(), expected, atol=1e-5)
    assert float((heard.argmax(1) == batch.targets).float().mean()) > 0.95
    stranger = LogisticRegression(max_iter=300).fit(batch.inputs.numpy(), np.char.upper(words))
    with pytest.raises(TeacherError, match=r"class indices 0, 1, ... or the data's class names"):
        BlackBoxTeacher(stranger).bind(data, CPU)


def test_an_estimator_fitted_on_a_frame_gets_columns_by_name() -> None:
    pd = pytest.importorskip("pandas")
    names = tuple(f"feature {number}" for number in range(30))
    data = cancer(feature_names=names)
    batch = batch_of(data, size=200)
    shuffled = list(np.random.default_rng(0).permutation(names))
    frame = pd.DataFrame(batch.inputs.numpy(), columns=list(names))
    chosen = make_column_transformer((StandardScaler(), ["feature 3", "feature 20"]))
    for model in (LogisticRegression(max_iter=300), make_pipeline(chosen, LogisticRegression())):
        model.fit(frame[shuffled], batch.targets.numpy())
        teacher = BlackBoxTeacher(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            teacher.bind(data, CPU)
            heard = teacher.ask(batch).logits
        expected = model.predict_proba(frame[shuffled])
        assert np.allclose(heard.exp().numpy(), expected, atol=1e-6)
        plain = BlackBoxTeacher(model)
        plain.bind(dataclasses.replace(data, feature_names=()), CPU)
        assert plain.fingerprint() != teacher.fingerprint()  # it is given other columns


def test_column_order_is_known_or_not_touched() -> None:
    class Fitted:
        feature_names_in_ = np.array(["b", "a", "c"], dtype=object)

    assert column_order(Fitted(), ("a", "b", "c")) == (1, 0, 2)
    assert column_order(Fitted(), ("b", "a", "c")) is None
    assert column_order(Fitted(), ("a", "b", "d")) is None
    assert column_order(Fitted(), ("a", "a", "b")) is None
    assert column_order(object(), ("a", "b")) is None


def test_rows_with_a_missing_label_are_not_fitted_on() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(200, 3)
    targets = (inputs[:, :2] > 0).float()
    whole = bundle_from((inputs, targets), task="multilabel")
    view = whole.splits["train"]
    holes = view.base_targets.clone()
    holes[view.indices[::2], 0] = math.nan
    partly = dataclasses.replace(whole, splits={**whole.splits, "train": view.with_targets(holes)})
    kept = dataclasses.replace(
        whole, splits={**whole.splits, "train": view.select(view.indices[1::2])}
    )
    prints = [
        fit_sklearn("DecisionTreeClassifier", {"max_depth": 2}, data).fingerprint()
        for data in (partly, kept, whole)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_forwards_of_one_name_have_the_fingerprint_of_their_code() -> None:
    net = Net()
    forwards = [lambda m, b: m(b.inputs), lambda m, b: m(b.inputs * 2), lambda m, b: m(b.inputs)]
    prints = [LiveTeacher(net, forward=forward).fingerprint() for forward in forwards]
    assert prints[0] == prints[2] != prints[1]

    def scaled(by):
        return lambda m, b: m(b.inputs * by)

    assert function_digest(scaled(2)) == function_digest(scaled(2)) != function_digest(scaled(3))
    nested = [lambda m, b: [x + 1 for x in b], lambda m, b: [x + 2 for x in b]]
    assert function_digest(nested[0]) != function_digest(nested[1])
    assert function_digest(lambda m, b=1: b) != function_digest(lambda m, b=2: b)
