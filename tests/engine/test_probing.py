"""Linear probes: features of a trained student, tried on data that it has not learned from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.data import bundle_from, load_data
from limbeck.engine.probing import check_probe, linear_probe
from limbeck.engine.running import run_plan
from limbeck.errors import RecipeError
from limbeck.models import Cohort, build_model
from limbeck.recipe import build_plan, load_recipe

CPU = torch.device("cpu")


class Given(nn.Module):
    """A network whose features are its inputs, some of them."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.head = nn.Linear(end - start, 3)
        self.start, self.end = start, end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1)[:, self.start : self.end])


def corners(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples whose class stands in number 0 and 1 together: neither tells it alone."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    x = torch.randn(count, 6, generator=generator) * 0.05
    x[:, 0] += (y // 2).float()
    x[:, 1] += (y % 2).float()
    return x, y


@pytest.fixture(scope="module")
def four() -> Any:
    return bundle_from(corners(0, 400), validation=corners(1, 40), test=corners(2, 400))


def test_it_finds_what_is_in_the_features_and_no_more(four: Any) -> None:
    assert linear_probe(Given(0, 6), four, CPU) > 0.99
    assert 0.4 < linear_probe(Given(0, 1), four, CPU) < 0.6  # two classes of four look alike
    assert linear_probe(Given(2, 6), four, CPU) < 0.35  # noise


def test_members_of_an_ensemble_stand_side_by_side(four: Any) -> None:
    assert linear_probe(Cohort([Given(0, 1), Given(1, 2)]), four, CPU) > 0.99


def test_the_network_is_left_as_it_was(four: Any) -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 8), nn.Linear(8, 3))
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    linear_probe(network, four, CPU)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_samples_without_a_label_are_passed_over() -> None:
    data = load_data("digits", label_fraction=0.3)
    network = build_model("mlp", num_classes=10, input_shape=(1, 8, 8), widths=[64])
    assert linear_probe(network, data, CPU) > 0.8  # random features of digits are worth something


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ((torch.rand(30, 5), torch.arange(30) % 3), "probe: the student reads inputs of 1x8x8, th"),
        ((torch.rand(30, 1, 8, 8), torch.rand(30)), "probe: expected data with classes, got regr"),
    ],
)
def test_data_that_cannot_be_read_are_one_line(other: Any, line: str) -> None:
    with pytest.raises(RecipeError) as found:
        check_probe(bundle_from(other), load_data("digits"))
    assert str(found.value).startswith(line)


def test_a_recipe_names_its_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = {
        "data": {"name": "digits", "num_train": 200},
        "student": {"models": ["mlp", "mlp"], "deploy": "ensemble"},
        "method": "dml",
        "probe": "digits",
        "train": {"epochs": 1},
    }
    plan = build_plan(load_recipe(document, ["probe.num_train=100"]))
    assert plan.probe is not None
    assert len(plan.probe.splits["train"]) == 100
    outcome = run_plan(plan, tmp_path / "run", quiet=True)
    assert 0.5 < outcome.summary["metrics"]["test"]["probe_accuracy"] <= 1
    assert "probe_accuracy" not in outcome.summary["metrics"]["validation"]
    with pytest.raises(
        RecipeError, match=r"probe\.name: unknown data source 'digit': did you mean 'digits'"
    ):
        load_recipe({**document, "probe": "digit"})
