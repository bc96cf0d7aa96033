"""QuEST and letKD: what is guessed, from where, and what stays in the student."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from feature_runs import prepare, runtimes_of
from method_runs import digits, log_of, make_cnn, make_plan, run, same_weights, teacher_network
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from limbeck import functional
from limbeck.data.batch import Batch
from limbeck.engine import distiller
from limbeck.engine.running import run_plan
from limbeck.engine.signals import Interrupted
from limbeck.errors import MethodError, ShapeError, TapError
from limbeck.methods import make_method
from limbeck.methods.codebooks import Codewords, Subclasses, refuse_rows, student_positions
from limbeck.methods.context import Context
from limbeck.methods.letkd import first_block
from limbeck.models import build_model, load_model, model_spec
from limbeck.models.grown import Grafted
from limbeck.models.knowledge_layer import as_positions
from limbeck.taps import tapping
from limbeck.taps.outputs import Outputs
from limbeck.teachers.live import LiveTeacher

NAMES = ("quest", "letkd1", "letkd2")


def built(name: str, **arguments):
    torch.manual_seed(3)
    return build_model(name, num_classes=10, input_shape=(1, 16, 16), **arguments)


def everything_seen(tap: str):
    view = digits().splits["train"]
    batch = view.fetch(torch.arange(len(view)))
    with tapping(teacher_network(), tap) as store, torch.no_grad():
        teacher_network()(digits().augment_eval(batch.inputs, batch.index))
    return store[tap], batch.targets


# What is learned before the first step.


def test_words_are_centres_of_what_the_teacher_shows(tmp_path, monkeypatch):
    seen = runtimes_of(monkeypatch)
    run(make_plan({"name": "quest", "codewords": 12}), tmp_path / "run")
    words = seen[0][1]["targets.0.words"]
    rows = as_positions(everything_seen("stages.1")[0]).mT.flatten(0, 1)
    best = KMeans(12, n_init=10, random_state=1).fit(rows.numpy()).inertia_
    assert words.shape == (12, 16)
    assert torch.cdist(rows, words).square().amin(dim=1).sum() < 1.1 * best


def test_sub_classes_are_fitted_on_labelled_samples(tmp_path, monkeypatch):
    seen = runtimes_of(monkeypatch)
    run(make_plan({"name": "letkd2", "subclasses": 3}), tmp_path / "run")
    state = seen[0][1]
    feature, labels = everything_seen("stages.0")
    known = labels >= 0
    assert not known.all()
    rows = as_positions(feature[known]).mT.flatten(0, 1)
    owners = labels[known].repeat_interleave(feature[0, 0].numel())
    lda = LinearDiscriminantAnalysis(n_components=8).fit(rows.double().numpy(), owners.numpy())
    expected = lda.transform(rows.double().numpy())
    projection, offset = state["targets.0.projection"], state["targets.0.offset"]
    assert len(projection) == min(9, 8)
    found = (rows @ projection.T + offset).numpy()
    for mine, theirs in zip(found.T, expected.T, strict=True):
        assert abs(np.corrcoef(mine, theirs)[0, 1]) > 1 - 1e-4
    decisions, centres = state["targets.0.decisions"], state["targets.0.centres"]
    assert decisions.shape == (30, 30)
    torch.testing.assert_close(decisions.sum(dim=1), torch.ones(30))
    assert centres.shape == (10, 3, 8)
    inside = torch.from_numpy(found).mT[None]
    own = centres[4][centres[4].isfinite().all(dim=1)]
    at = inside[0].mT[owners == 4]
    means = [at[torch.cdist(at, own).argmin(dim=1) == k].mean(dim=0) for k in range(len(own))]
    torch.testing.assert_close(torch.stack(means), own, atol=1e-3, rtol=1e-3)


def test_the_number_of_words_follows_the_data_unless_it_is_said(tmp_path):
    run(make_plan("quest"), tmp_path / "run")
    positions = 64 * 4 * 4
    records = log_of(tmp_path / "run", "epoch")
    assert {record["quest/codewords"] for record in records} == {positions // 8}


def test_few_positions_are_drawn_from_all_samples(tmp_path, monkeypatch):
    shown = []
    learn = Codewords.learn
    monkeypatch.setattr(
        Codewords,
        "learn",
        lambda self, rows, *rest: (shown.append(len(rows)), learn(self, rows, *rest)),
    )
    run(make_plan({"name": "quest", "codewords": 4, "max_positions": 100}), tmp_path / "run")
    assert shown == [100]


def test_a_class_with_fewer_positions_than_sub_classes_has_fewer():
    target = Subclasses(channels=4, classes=3, subclasses=5, components=2)
    rows = torch.randn(42, 4)
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 2)
    target.learn(rows, labels, 0)
    assert target.centres.isfinite().all(dim=2).sum(dim=1).tolist() == [5, 5, 2]
    said = target(rows.T[None], torch.tensor([2]))
    assert (said.argmax(dim=1) // 5 == 2).any()
    torch.testing.assert_close(said.sum(dim=1), torch.ones(1, 42))


# What a step says.


def test_letkd_without_its_share_is_quest():
    teacher, student, other = make_cnn(5, 7), make_cnn(3, 4), make_cnn(3, 4)
    other.load_state_dict(student.state_dict())
    torch.manual_seed(9)
    quest = prepare(make_method("quest", codewords=6), student, teacher, 8)
    torch.manual_seed(9)
    letkd = prepare(make_method("letkd1", codewords=6, ratio=0), other, teacher, 8)
    inputs = torch.rand(5, 1, 8, 8)
    student.eval()
    letkd.student.eval()
    with tapping(student, quest.student_taps()) as ours:
        plain = student(inputs)
    with tapping(letkd.student, letkd.student_taps()) as grown:
        assert torch.equal(letkd.student(inputs), plain)
    with tapping(teacher.eval(), quest.teacher_taps()) as theirs:
        heard = Outputs(teacher(inputs), dict(theirs))
    batch = Batch(inputs=inputs)
    values = [
        runtime.losses(Outputs(plain, dict(store)), heard, batch, Context())
        for runtime, store in ((quest, ours), (letkd, grown))
    ]
    torch.testing.assert_close(values[0]["quest"], values[1]["letkd1"])


def test_without_weights_the_student_learns_as_by_the_task_alone(tmp_path):
    """Half of the samples have no label; those of the plain run are the rest."""
    data = digits()
    known = data.splits["train"]
    chosen = known.select(known.indices[known.labelled])
    data = dataclasses.replace(data, splits={**data.splits, "train": chosen})
    silent = {"name": "letkd1", "weight": 0, "ratio": 0, "codewords": 4}
    plain = run(make_plan("plain", data=data), tmp_path / "plain").student
    grown = run(make_plan(silent, data=data), tmp_path / "grown").student
    inner = {
        name.replace(".inner", ""): value
        for name, value in grown.state_dict().items()
        if ".part." not in name
    }
    assert all(torch.equal(inner[name], value) for name, value in plain.state_dict().items())


def test_both_terms_are_what_the_equations_say():
    teacher, student = built("resnet20"), built("resnet14")
    method = make_method("letkd2", codewords=6, subclasses=2, inner_weight=0.5)
    ctx = Context(example=Batch(inputs=torch.rand(2, 1, 16, 16)), num_outputs=3)
    runtime = method.prepare(student, {"teacher": LiveTeacher(teacher)}, None, ctx)
    assert runtime.teacher_taps() == ("layer3.0", "stages[-1]")
    assert runtime.student_taps() == ("layer3.inner.0.part.templates", "layer3.part.templates")
    inputs, labels = torch.rand(4, 1, 16, 16), torch.tensor([2, -100, 0, 1])
    with tapping(runtime.student.eval(), runtime.student_taps()) as store:
        said = Outputs(runtime.student(inputs), dict(store))
    with tapping(teacher.eval(), runtime.teacher_taps()) as store:
        heard = Outputs(teacher(inputs), dict(store))
    terms = runtime.losses(said, heard, Batch(inputs=inputs, targets=labels), ctx)
    inner, outer = runtime.targets
    words = functional.codeword_probabilities(heard.features["stages[-1]"].flatten(2), outer.words)
    expected = functional.assignment_kl(said.features["layer3.part.templates"], words)
    torch.testing.assert_close(terms["letkd2"], expected)
    inner.decisions.copy_(torch.rand(6, 6).softmax(dim=1))
    terms = runtime.losses(said, heard, Batch(inputs=inputs, targets=labels), ctx)
    values = []
    for at, label in ((0, 2), (2, 0), (3, 1)):
        for place in range(16):
            f = heard.features["layer3.0"][at].flatten(1)[:, place]
            inside = inner.projection @ f + inner.offset
            k = int((inner.centres[label] - inside).square().sum(dim=1).argmin())
            wanted = inner.decisions[2 * label + k]
            guess = said.features[runtime.student_taps()[0]][at, :, place].log_softmax(dim=0)
            values.append((wanted * (wanted.log() - guess)).sum())
    torch.testing.assert_close(terms["letkd2_subclass"], 0.5 * torch.stack(values).mean())
    nobody = Batch(inputs=inputs, targets=torch.full((4,), -100))
    assert float(runtime.losses(said, heard, nobody, ctx)["letkd2_subclass"].detach()) == 0


def test_a_teachers_larger_map_is_pooled_two_by_two():
    feature = torch.rand(2, 3, 4, 6)
    pooled = nn.functional.avg_pool2d(feature, 2)
    torch.testing.assert_close(student_positions(feature, (2, 3)), pooled.flatten(2))
    assert torch.equal(student_positions(feature, (4, 6)), feature.flatten(2))
    spread = student_positions(feature, (8, 12)).reshape(2, 3, 8, 12)
    torch.testing.assert_close(spread, nn.functional.interpolate(feature, scale_factor=2.0))


# Where the layers go, and what stays.


def test_the_second_layer_follows_the_first_block():
    assert first_block(built("resnet20"), "stages[-1]") == "layer3.0"
    assert first_block(built("wrn16_1"), "stages[-1]") == "layer3.0"
    assert first_block(make_cnn(4, 8), "stages[-1]") is None  # a row of plain layers


@pytest.mark.parametrize("name", ["letkd1", "letkd2"])
def test_the_layer_stays_and_the_folder_rebuilds_it(name, tmp_path):
    spec = model_spec("cnn", num_classes=10, input_shape=(1, 8, 8), channels=[4, 8])
    plan = dataclasses.replace(make_plan(name), student_spec=spec)
    outcome = run(plan, tmp_path / "run")
    grafted = [m for m in outcome.student.modules() if isinstance(m, Grafted)]
    assert len(grafted) == int(name[-1])
    assert any(".part.values.weight" in key for key in outcome.student.state_dict())
    again = load_model(tmp_path / "run" / "student")
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(inputs), outcome.student(inputs))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["student"]["model"] == "cnn (grown)"


def test_quest_leaves_nothing_behind(tmp_path):
    outcome = run(make_plan("quest"), tmp_path / "run")
    assert list(outcome.student.state_dict()) == list(make_cnn(4, 8).state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_equals_an_undisturbed_one_and_fits_nothing_again(name, tmp_path):
    whole = run(make_plan(name), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 5)
        with pytest.raises(Interrupted):
            run(make_plan(name), tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller, "fit_runtimes", lambda *_: pytest.fail("fitted again"))
        resumed = run_plan(make_plan(name), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, resumed.student)
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")


def test_other_methods_read_the_grown_student_by_the_names_of_before(tmp_path):
    outcome = run(make_plan("ofd", "letkd1", "at", "kd"), tmp_path / "run")
    assert {"ofd", "letkd1", "at", "kd"} <= set(log_of(tmp_path / "run")[0])
    assert outcome.student is not None


# What cannot be.


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"codewords": 0}, r"method\.codewords: expected a whole number of at least 1"),
        ({"temperature": 0}, r"method\.temperature: expected a number above 0"),
        ({"max_positions": 0}, r"method\.max_positions: expected a whole number"),
        ({"codewords": 9, "max_positions": 8}, r"method\.codewords: expected at most .* 8, got 9"),
        ({"ratio": -1}, r"method\.ratio: expected a number of at least 0"),
        ({"inner_ratio": -1}, r"method\.inner_ratio: expected a number of at least 0"),
        ({"inner_weight": -1}, r"method\.inner_weight: expected a number of at least 0"),
        ({"subclasses": 0}, r"method\.subclasses: expected a whole number of at least 1"),
        ({"components": 0}, r"method\.components: expected a whole number of at least 1"),
    ],
)
def test_settings_out_of_range_are_one_line(arguments, line):
    with pytest.raises(MethodError, match=line):
        make_method("letkd2", **arguments)


def test_more_words_than_positions_are_refused(tmp_path):
    plan = make_plan({"name": "quest", "codewords": 5000})
    with pytest.raises(MethodError, match=r"method\.codewords: expected at most 1024, .* got 5000"):
        run(plan, tmp_path / "run")


@pytest.mark.parametrize("most", [{}, {"max_positions": 101}], ids=["all", "drawn"])
def test_as_many_words_as_positions_will_do(tmp_path, most):
    words = most.get("max_positions", 1024)
    run(make_plan({"name": "quest", "codewords": words, **most}, epochs=1), tmp_path / "run")


def words_of(rows: int) -> tuple[Codewords, torch.Tensor, torch.Tensor]:
    return Codewords(4, 8, 1.0), torch.randn(rows, 4), torch.zeros(rows, dtype=torch.int64)


@pytest.mark.parametrize(
    ("target", "rows", "labels", "line"),
    [
        (*words_of(7), r"codewords: expected at most 7, .*'layer' that was looked at, got 8"),
        (Codewords(4, 8, 1.0), torch.full((9, 4), torch.nan), None, "'layer': .* not all finite"),
        (
            Subclasses(4, 3, 2, 2),
            torch.randn(3, 4),
            torch.arange(3),
            "sub-classes need more labelled positions than classes, got 3 of 3 classes",
        ),
        (Subclasses(4, 3, 2, 2), torch.zeros(0, 4), None, "than classes, got 0 of 0 classes"),
        (Subclasses(4, 3, 2, 2), torch.ones(9, 4), torch.arange(9) % 3, "the same at every"),
    ],
    ids=["few", "nan", "a position a class", "none", "dead"],
)
def test_what_cannot_be_clustered_is_one_line(target, rows, labels, line):
    labels = torch.zeros(len(rows), dtype=torch.int64) if labels is None else labels
    with pytest.raises(MethodError, match=line):
        refuse_rows(target, "layer", rows, labels)


def test_more_components_than_there_are_are_refused(tmp_path):
    plan = make_plan({"name": "letkd2", "components": 9})
    with pytest.raises(MethodError, match=r"method\.components: expected at most 8 .* got 9"):
        run(plan, tmp_path / "run")


def test_forms_that_differ_name_what_can_be_named():
    vit = built("vit", dim=8, depth=2, heads=2, patch=4)
    for name, key in (("quest", "pairs"), ("letkd1", "pairs"), ("letkd2", "pairs")):
        with pytest.raises(ShapeError, match=rf"method {name}: .*{key}: penultimate for the vec"):
            prepare(make_method(name), vit, built("resnet8"))
    with pytest.raises(ShapeError, match="inner: penultimate for the vectors"):
        prepare(make_method("letkd2", pairs="penultimate"), vit, built("resnet8"))
    prepare(make_method("letkd2", pairs="penultimate", inner="penultimate"), vit, built("resnet8"))
    other = built("vit", dim=8, depth=2, heads=2, patch=8)
    with pytest.raises(ShapeError, match="the numbers of tokens differ"):
        prepare(make_method("quest"), vit, other)


def test_a_network_of_one_stage_says_where_the_second_layer_can_go():
    method = make_method("letkd2", codewords=4)
    with pytest.raises(TapError, match=r"method letkd2: .*say where the second layer goes \(inner"):
        prepare(method, make_cnn(4), make_cnn(4), 8)


def test_a_layer_goes_to_a_module():
    method = make_method("letkd1", codewords=4, pairs=(("input", "stages[-1]"),))
    with pytest.raises(MethodError, match="student tap 'input': a layer is put behind"):
        prepare(method, make_cnn(4, 8), make_cnn(4, 8), 8)


def test_sub_classes_need_class_indices():
    runtime = prepare(
        make_method("letkd2", codewords=4, components=1), make_cnn(4, 8), make_cnn(4, 8), 8
    )
    said = Outputs(
        torch.zeros(2, 10), {tap: torch.zeros(2, 1, 1) for tap in runtime.student_taps()}
    )
    heard = Outputs(said.logits, {t: torch.zeros(2, 4, 1, 1) for t in runtime.teacher_taps()})
    for targets, found in ((None, "none"), (torch.rand(2, 10), "float32 of shape")):
        batch = Batch(inputs=said.logits, targets=targets)
        with pytest.raises(MethodError, match=f"one class index for each sample, got .*{found}"):
            runtime.losses(said, heard, batch, Context())
