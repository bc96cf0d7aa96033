"""Maps of classes: cells, ends, and what is too large to draw."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from limbeck.diagnostics import ClassGeometry
from limbeck.errors import DataError
from limbeck.reports.evidence import Arm, gather
from limbeck.reports.geometry import (
    cells_of,
    geometry_of,
    geometry_plot,
    geometry_section,
    geometry_table,
)
from limbeck.reports.reading import read_run, read_runs


def cosines(classes, seed=0):
    rows = np.random.default_rng(seed).normal(size=(classes, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_few_classes_are_shown_one_by_one():
    table, groups = cosines(5), np.array([1, 0, 1, 0, 2])
    cells, ends, what = cells_of(table, groups)
    order = [1, 3, 0, 2, 4]
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            assert cells[i, j] == table[a, b]
    assert (ends, what) == ([2, 4], "classes, by superclass")


def test_many_classes_are_means_over_superclasses():
    table, groups = cosines(26), np.arange(26) % 3
    groups[0] = 3  # alone in its superclass
    cells, ends, what = cells_of(table, groups)
    for i in range(4):
        for j in range(4):
            pairs = [
                table[a, b]
                for a in range(26)
                for b in range(26)
                if a != b and groups[a] == i and groups[b] == j
            ]
            mean = sum(pairs) / len(pairs) if pairs else math.nan
            assert cells[i, j] == pytest.approx(mean, nan_ok=True)
    assert (ends, what) == ([], "superclasses")


def test_table_and_map():
    found = [
        ClassGeometry(torch.from_numpy(cosines(5, s)), {"a": torch.tensor([0, 0, 1, 1, 1])})
        for s in (0, 1)
    ]
    arm = Arm("kd", 1, ())
    row = geometry_table([(arm, found)]).rows[0].cells
    assert [row[0].text, row[1].text] == ["kd", "a"]
    gaps = [one.within("a") - one.across("a") for one in found]
    assert row[4].value == pytest.approx(sum(gaps) / 2)
    plot = geometry_plot(arm, found[0])
    assert plot is not None
    # 25 cells less none that is 0: one each, filled by the arm's colour or the muted one
    filled = plot.svg.count("fill: var(--arm-1)") + plot.svg.count("fill: var(--muted)")
    assert filled >= 25
    each = ClassGeometry(torch.from_numpy(cosines(25)), {"a": torch.arange(25)})
    assert geometry_plot(arm, each) is None


def test_runs_without_superclasses_or_students_have_no_map(study, tmp_path):
    section = geometry_section(gather(read_runs([study])))
    assert (section.plots, section.table) == ((), None)
    folder = tmp_path / "own"
    shutil.copytree(min(study.glob("*/recipe.yaml")).parent, folder)
    (folder / "student").mkdir(exist_ok=True)
    saved = folder / "student" / "model.json"
    saved.write_text(json.dumps({"superclasses": {"a": [0] * 10}}))
    assert read_run(folder).superclasses == {"a": (0,) * 10}
    assert geometry_of(read_run(folder)) is None  # there is no network beside it
    saved.write_text("{")
    with pytest.raises(DataError, match=r"model\.json is damaged"):
        _ = read_run(folder).superclasses
