"""Every method's first eight steps, in float64 through the whole engine, stay what they were.

A golden curve proves nothing about being right (the faithful tests do that); it shows that a change
of the code which should change nothing did change nothing.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import default_dtype, log_of, make_plan, run

from limbeck.methods import all_methods

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "LIMBECK_UPDATE_GOLDEN"
MAKE = f"{UPDATE}=1 pytest tests/methods/test_golden_curves.py -k {{name}}"
# What to run where a method alone, with its defaults, is no good check in eight steps.
RUNS: dict[str, list[Any]] = {
    "crd": [{"name": "crd", "num_negatives": 16, "dim": 8}],
    "backward": ["kd", {"name": "backward", "rounds": 1}],
    # Few centres: which of many good arrangements of many it is would be a matter of rounding.
    "quest": [{"name": "quest", "codewords": 4}],
    "letkd1": [{"name": "letkd1", "codewords": 4}],
    "letkd2": [{"name": "letkd2", "codewords": 4, "subclasses": 2}],
    "lad": [{"name": "lad", "weight": 1.0}],  # its own is made for AdamW
    "mask": ["kd", "mask"],
    "sskd": [{"name": "sskd", "fit_epochs": 2}],
    "superfeatures": ["kd", "superfeatures"],
    "chimeric": ["ked", {"name": "chimeric", "samples": 60, "epochs": 1}],
    "kcd": ["kd", {"name": "kcd", "stage_epochs": 1, "tau": 0.6}],
}


def curve(name: str, folder: Path) -> list[dict[str, float]]:
    with default_dtype(torch.float64):  # adapters, too
        run(make_plan(*RUNS.get(name, [name]), wide=True, epochs=_epochs(name)), folder)
    dropped = ("kind", "epoch", "step", "lr")
    return [{k: v for k, v in r.items() if k not in dropped} for r in log_of(folder)]


def _epochs(name: str) -> int:
    """Epochs for some eight steps: half of the samples have no label and need a teacher."""
    if name == "backward":
        return 3  # its fewest parts
    return 2 if all_methods()[name].card.supervision != "labels" else 4


# A curve of every kind; those of all others are slow together.
QUICK = {"kd", "fitnet", "fsp", "dml", "crd", "kcd", "e2kd", "pvr", "simkd", "backward", "deit"}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in all_methods()
    ],
)
def test_golden_curve(name, tmp_path):
    found, file = curve(name, tmp_path / "run"), GOLDEN / f"{name}.json"
    if os.environ.get(UPDATE) == "1":
        file.write_text(json.dumps(found, indent=1) + "\n")
    if not file.exists():
        pytest.fail(f"no golden curve of {name}; make one with: {MAKE.format(name=name)}")
    golden = json.loads(file.read_text())
    assert len(found) == len(golden) >= 7
    for step, (now, then) in enumerate(zip(found, golden, strict=True)):
        assert now == pytest.approx(then, rel=1e-6, abs=1e-12), f"step {step}"


def test_every_golden_curve_has_a_method():
    assert {file.stem for file in GOLDEN.glob("*.json")} == set(all_methods())


def test_two_runs_agree_to_far_more_digits_than_are_compared(tmp_path):
    assert curve("kd", tmp_path / "a") == curve("kd", tmp_path / "b")
