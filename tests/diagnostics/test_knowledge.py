"""What a teacher adds to labels: weights of samples and kin of classes, by plain loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.data import bundle_from, eval_batches, load_data
from limbeck.diagnostics import Rescaling, class_geometry, measure_knowledge
from limbeck.diagnostics.telling import knowledge_as_plain, knowledge_lines
from limbeck.errors import LimbeckError, ShapeError, TapError, TeacherError
from limbeck.models import build_model
from limbeck.teachers import as_teacher

GROUPS = torch.tensor([0, 1, 0, 2, 1])


def by_hand(weight: torch.Tensor, groups: list[int]) -> tuple[float, float]:
    rows = weight.tolist()
    means: dict[bool, list[float]] = {True: [], False: []}
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j:
                sizes = math.hypot(*one) * math.hypot(*other)
                cosine = sum(a * b for a, b in zip(one, other, strict=True)) / sizes
                means[groups[i] == groups[j]].append(cosine)
    return sum(means[True]) / len(means[True]), sum(means[False]) / len(means[False])


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_cosines_within_and_across_by_a_plain_loop(head: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).double()
    if head == "conv":
        network = nn.Sequential(nn.Conv2d(4, 5, 1)).double()
        network.roles = lambda: {"head": "0"}
    weight = network[-1].weight.detach().flatten(1)
    odd = torch.tensor([1, 0, 1, 0, 1])
    found = class_geometry(network, {"a": GROUPS, "odd": odd})
    for name, groups in (("a", GROUPS), ("odd", odd)):
        within, across = by_hand(weight, groups.tolist())
        assert found.within(name) == pytest.approx(within, rel=1e-12)
        assert found.across(name) == pytest.approx(across, rel=1e-12)


def test_a_hierarchy_without_pairs_has_no_mean() -> None:
    found = class_geometry(
        nn.Sequential(nn.Linear(2, 3)), {"own": torch.arange(3), "one": torch.zeros(3)}
    )
    assert math.isnan(found.within("own"))
    assert math.isnan(found.across("one"))
    assert found.across("own") == pytest.approx(found.within("one"))


def test_the_generators_own_directions_have_its_similarity() -> None:
    from limbeck.data.sources.hierarchy import class_directions

    head = nn.Linear(16, 12, bias=False).double()
    rng = torch.Generator().manual_seed(0)
    head.weight.data = class_directions(3, 4, 0.7, 16, rng)
    found = class_geometry(nn.Sequential(head), {"group": torch.arange(12) // 4})
    assert found.within("group") == pytest.approx(0.7)
    assert found.across("group") == pytest.approx(0.0, abs=1e-12)


def test_heads_and_hierarchies_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(TapError, match="Sequential has no linear head"):
        class_geometry(nn.Sequential(nn.ReLU()), {"a": GROUPS})
    wide = nn.Sequential(nn.Conv2d(4, 5, 3))
    wide.roles = lambda: {"head": "0"}
    with pytest.raises(TapError, match="the head of Sequential has no matrix of weights"):
        class_geometry(wide, {"a": GROUPS})
    with pytest.raises(ShapeError, match=r"superclasses\.a: 5 classes, the network has 4"):
        class_geometry(nn.Sequential(nn.Linear(2, 4)), {"a": GROUPS})


def ranks(values: list[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of theirs."""
    below = [sum(other < one for other in values) for one in values]
    return [
        b + (sum(other == one for other in values) + 1) / 2
        for one, b in zip(values, below, strict=True)
    ]


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_by_a_plain_loop(ties: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40))
    if ties:
        x, y = x.round(), y.round()
    first, second = ranks(x.tolist()), ranks(y.tolist())
    pairs = [(a - 20.5, b - 20.5) for a, b in zip(first, second, strict=True)]
    expected = sum(a * b for a, b in pairs) / math.sqrt(
        sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs)
    )
    assert Rescaling(x, y, y).rank_correlation == pytest.approx(expected, rel=1e-12)
    assert Rescaling(y**3, y, x).rank_correlation == pytest.approx(1.0)
    assert math.isnan(Rescaling(x, np.ones(40), y).rank_correlation)


def two_networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return tuple(
        build_model("mlp", num_classes=4, input_shape=(6,), widths=widths) for widths in ([5], [9])
    )


def test_what_a_teacher_adds_sample_by_sample() -> None:
    data = load_data("hierarchy", superclasses=2, classes=2, dim=6, samples=100)
    student, network = two_networks()
    teacher = as_teacher(network)
    teacher.bind(data, torch.device("cpu"))
    found = measure_knowledge(student, teacher, data, split="validation", share=0.7)
    view = data.splits["validation"]
    for i, batch in enumerate(eval_batches(view, 1, data.augment_eval)):
        with torch.no_grad():
            z, v = (one(batch.inputs).double()[0] for one in (student, network))
        q, p = z.exp() / z.exp().sum(), v.exp() / v.exp().sum()
        label = int(batch.targets)
        weight = 0.3 + 0.7 * float((p[label] - q[label]) / (1 - q[label]))
        assert found.rescaling.weights[i] == pytest.approx(weight, rel=1e-5, abs=1e-6)
    assert found.teacher is not None
    assert found.teacher.within("group") == pytest.approx(
        by_hand(network.get_submodule("head").weight.detach().double(), [0, 0, 1, 1])[0]
    )
    plain = knowledge_as_plain(found)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["num_samples"] == len(view)
    bare = replace(found, student=None, teacher=None)
    assert list(knowledge_lines(bare))[-1].startswith("cosines of classes: none (the data know no")
    teacher.close()


def test_data_without_labels_or_classes_are_one_line() -> None:
    student, network = two_networks()
    x, y = torch.randn(40, 6), torch.arange(40) % 4
    data = bundle_from((x, y), num_classes=4, validation_size=8, test_size=8)
    teacher = as_teacher(network)
    teacher.bind(data, torch.device("cpu"))
    assert measure_knowledge(student, teacher, data).student is None  # no superclasses
    with pytest.raises(LimbeckError, match=r"one of the splits train, .*and 'tset'"):
        measure_knowledge(student, teacher, data, split="tset")
    other = as_teacher(build_model("mlp", num_classes=5, input_shape=(6,), widths=[3]))
    other.bind(None, torch.device("cpu"))
    with pytest.raises(TeacherError, match="tells 5 classes apart, the student 4"):
        measure_knowledge(student, other, data)
    other.close()
    unknown = torch.full((8,), -100)
    bare = bundle_from((x, y), test=(x[:8], unknown), num_classes=4, validation_size=8)
    with pytest.raises(LimbeckError, match="the split 'test' has no labelled samples"):
        measure_knowledge(student, teacher, bare)
    numbers = bundle_from((x, x[:, :1]), validation_size=8, test_size=8)
    with pytest.raises(LimbeckError, match=r"expected classification .* got regression and 'test'"):
        measure_knowledge(student, teacher, numbers)
    teacher.close()


RECIPE = {
    "name": "small",
    "data": {"name": "hierarchy", "superclasses": 3, "classes": 2, "dim": 9, "samples": 300},
    "student": {"model": "mlp", "widths": [4]},
    "method": "plain",
    "train": {"epochs": 1, "batch_size": 32},
}


def test_the_command_line_and_the_report_tell_the_same(tmp_path: Path, capsys) -> None:
    from limbeck.cli.app import main
    from limbeck.recipe.running import run_recipe
    from limbeck.reports import write_report
    from limbeck.reports.reading import read_run
    from limbeck.reports.rescaling import probe_run

    def ask(*options: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["diagnose", *options])
        assert ended.value.code == code
        said = capsys.readouterr()
        return said.err if code else said.out

    teacher, taught = {**RECIPE, "student": {"model": "mlp", "widths": [16]}}, tmp_path / "taught"
    run_recipe({**RECIPE, "method": "kd", "teacher": {"train": teacher}}, output=taught, quiet=True)
    told = json.loads(ask(str(taught), "--knowledge", "--json"))
    kept = probe_run(taught)
    assert told["num_samples"] == len(kept.weights) == 90
    assert told["weights"]["rank_correlation"] == pytest.approx(kept.rank_correlation, abs=1e-3)
    assert told["weights"]["median"] == pytest.approx(kept.quantile(0.5), abs=1e-5)
    within = told["cosines"]["student"]["group"]["within"]
    lines = ask(str(taught), "--knowledge")
    assert f"student  group      within {within:6.3f}" in lines
    assert "rank correlation with the teacher's probability of the label" in lines
    assert read_run(taught).superclasses == {"group": (0, 0, 1, 1, 2, 2)}
    page = write_report([taught], tmp_path / "page.html").read_text()
    assert "Which classes lie together" in page
    assert f"mean cosine {within:.2f} within".replace("-", "−") in page

    alone = tmp_path / "alone"
    run_recipe(RECIPE, output=alone, quiet=True)
    assert "expected one teacher, the run has none" in ask(str(alone), "--knowledge", code=2)
    assert "within" in ask(str(alone), "--knowledge", "--teacher", str(taught))
    both = ask(str(alone), "--knowledge", "--loyalty", code=2)
    assert "--loyalty and --knowledge: each is a question of its own; ask one" in both
