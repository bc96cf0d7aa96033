"""Loyalty: what a student's answers hang on, beside its teacher's; against scipy, text by text."""

from __future__ import annotations

import copy
import math

import pytest
import torch

transformers = pytest.importorskip("transformers")

from test_gkd import bert, by_hand, plan_of, texts  # noqa: E402

from limbeck.data.batch import Batch  # noqa: E402
from limbeck.diagnostics.telling import loyalty_lines  # noqa: E402
from limbeck.engine.loyalty import measure_loyalty  # noqa: E402
from limbeck.engine.running import run_plan  # noqa: E402
from limbeck.errors import TeacherError  # noqa: E402
from limbeck.taps import TappedModel  # noqa: E402
from limbeck.teachers.live import LiveTeacher  # noqa: E402


def test_loyalty_is_that_of_scipy_and_full_to_oneself():
    from scipy.stats import pearsonr

    small, big = bert(2, 5), bert(4, 7)
    inputs, targets = texts()
    batches = [Batch(inputs, targets)]
    teacher = LiveTeacher(big)
    found = measure_loyalty(small, teacher, batches, torch.device("cpu"))
    values = []
    for network in (small, big):
        (slope,) = by_hand(network)
        with TappedModel(copy.deepcopy(network).double().eval(), ("embeddings",)) as tapped:
            values.append((slope * tapped(inputs).features["embeddings"]).sum(2).detach())
    lengths = inputs["attention_mask"].sum(1).tolist()
    expected = [
        pearsonr(values[0][i, :n].numpy(), values[1][i, :n].numpy())[0]
        for i, n in enumerate(lengths)
    ]
    # Correlations of two points are 1 or -1; float32 decides nothing here.
    assert found["saliency_loyalty"] == pytest.approx(sum(expected) / 16, abs=1e-4)
    oneself = measure_loyalty(copy.deepcopy(big), teacher, batches, torch.device("cpu"))
    assert oneself == pytest.approx(dict.fromkeys(oneself, 1.0), abs=1e-6)
    assert small.training == bert(2, 5).training
    teacher.close()


def test_a_run_measures_loyalty_where_it_is_asked_to(tmp_path):
    plan = plan_of("kd", measure_saliency=True)
    metrics = run_plan(plan, tmp_path / "run", quiet=True).summary["metrics"]["test"]
    assert metrics["label_loyalty"] == metrics["agreement"]
    assert -1 <= metrics["saliency_loyalty"] <= 1
    assert 1 - math.sqrt(math.log(2)) <= metrics["probability_loyalty"] <= 1
    other = run_plan(plan_of("kd"), tmp_path / "other", quiet=True).summary["metrics"]["test"]
    assert "saliency_loyalty" not in other


def test_a_black_box_has_no_saliency():
    from limbeck.teachers import as_teacher

    teacher = as_teacher(lambda batch: torch.zeros(16, 3))
    with pytest.raises(TeacherError, match="gives no gradients, which saliency is made of"):
        measure_loyalty(bert(1, 0), teacher, [], torch.device("cpu"))


def test_lines_for_a_person():
    found = {"label_loyalty": 0.5, "probability_loyalty": 0.75, "saliency_loyalty": None}
    told = list(loyalty_lines(found))
    assert told[0] == "label       0.500  same class as the teacher"
    assert told[2].startswith("saliency        –  correlation")
