"""The probe of gradient weights: from answers, from a run folder, on the page."""

import numpy as np
import pytest
from test_html import page_of

from limbeck.errors import DataError
from limbeck.reports.evidence import Arm
from limbeck.reports.predictions import Answers
from limbeck.reports.reading import read_runs
from limbeck.reports.rescaling import (
    Rescaling,
    probe_run,
    rescaling,
    rescaling_of,
    rescaling_plot,
    rescaling_table,
)


def softmax(values):
    top = np.exp(values - max(values))
    return top / top.sum()


def answers(seed=0, n=60, classes=4):
    rng = np.random.default_rng(seed)
    return Answers(
        rng.normal(size=(n, classes)), rng.integers(0, classes, n), rng.normal(size=(n, 4))
    )


def test_weights_by_a_plain_loop():
    one = answers()
    found = rescaling(one, share=0.7)
    for i, (z, v, t) in enumerate(zip(one.student, one.teacher, one.targets, strict=True)):
        q, p = softmax(z)[t], softmax(v)[t]
        assert found.weights[i] == pytest.approx(0.3 + 0.7 * (p - q) / (1 - q))
        assert (found.teacher[i], found.student[i]) == pytest.approx((p, q))
    alone = rescaling(one)
    assert alone.negative == pytest.approx((found.teacher < found.student).mean())


def test_a_teacher_that_is_sure_of_everything_weighs_all_alike():
    one = answers()
    sure = Answers(one.student, one.targets, 50.0 * np.eye(4)[one.targets])
    assert rescaling(sure).spread < 1e-6 < 0.1 < rescaling(one).spread


def test_seeds_are_joined_and_borrowed_teachers_left_out():
    one, two = answers(0), answers(1)
    arm = Arm("kd", 1, ())
    joined = rescaling_of(arm, [one, two])
    assert len(joined.weights) == 120
    borrowed = Answers(one.student, one.targets, one.teacher, borrowed=True)
    assert rescaling_of(arm, [borrowed, Answers(one.student, one.targets)]) is None


def test_table_and_plot():
    found = Rescaling(np.array([-5.0, 0.0, 0.5, 1.0]), *(np.linspace(0, 1, 4),) * 2)
    table = rescaling_table([(Arm("kd", 1, ()), found)])
    assert table.rows[0].cells[0].text == "kd"
    assert table.rows[0].cells[-2].text.startswith("25")
    assert table.rows[0].cells[-1].text == "1.00"  # weights and certainty rise together
    many = Rescaling(
        *(np.tile(part, 300) for part in (found.weights, found.teacher, found.student))
    )
    assert "One sample in 3 is drawn" in rescaling_plot(Arm("kd", 1, ()), many).caption


def test_the_page_has_it_where_there_is_a_teacher(study, regression, tmp_path):
    page = page_of([study], tmp_path / "a.html")
    assert "rescaling" in page.ids
    assert "Which samples the teacher weighs" in page.words
    assert any("Gradient weights of" in text for text in page.pictures)
    assert "rescaling" not in page_of([regression], tmp_path / "b.html").ids


def test_a_run_is_probed(study, regression):
    records = read_runs([study])
    taught = next(r for r in records if "teacher_logits" in (r.predictions or {}))
    found = probe_run(taught.path)
    assert len(found.weights) == len(taught.predictions["targets"])
    with pytest.raises(DataError, match="holds no labelled answers to a classification task"):
        probe_run(read_runs([regression])[0].path)
    alone = next((r for r in records if "teacher_logits" not in (r.predictions or {})), None)
    if alone is not None:
        with pytest.raises(DataError, match="no answers of a teacher"):
            probe_run(alone.path)
    with pytest.raises(DataError, match="no answers of a teacher"):
        rescaling(Answers(np.zeros((1, 2)), np.zeros(1, dtype=int)))
