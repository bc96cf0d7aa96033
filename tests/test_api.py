"""``limbeck.distill`` for any two modules and any form of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import limbeck as lb
from limbeck.errors import DataError, RecipeError


def odd_teacher() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def odd_student() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def samples(count: int = 96) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return x, x[:, :3].argmax(dim=1)


def test_five_lines(tmp_path: Path) -> None:
    big, small = odd_teacher(), odd_student()
    before = [p.clone() for p in small.parameters()]
    train, val = TensorDataset(*samples()), TensorDataset(*samples(30))
    run = lb.distill(
        teacher=big, student=small, data=(train, val), epochs=2, output=tmp_path / "r", quiet=True
    )
    assert type(run.student) is nn.Sequential
    assert {"accuracy", "agreement", "ece", "nll"} <= run.metrics.keys()
    assert run.report().is_file()
    assert all(torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))


def test_tensors_and_a_sum_of_methods(tmp_path: Path) -> None:
    method = lb.KD(temperature=2) + 0.5 * lb.FitNet(pairs=(("1", "1"),), projector="linear")
    run = lb.distill(
        odd_teacher(), odd_student(), samples(), method, epochs=1, output=tmp_path / "r", quiet=True
    )
    assert run.summary["task_weight"] == pytest.approx(0.1)
    assert len(run.summary["method"]) == 2


class Dictionaries(Dataset[dict[str, Tensor]]):
    """Items as transformers' datasets have them."""

    def __init__(self) -> None:
        self.x, self.y = samples(64)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"features": self.x[index], "labels": self.y[index]}


class Keyword(nn.Module):
    """Takes its input by name and returns an object with ``.logits``, as transformers do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(features)}


def test_batches_by_name(tmp_path: Path) -> None:
    run = lb.distill(
        Keyword(16), Keyword(4), Dictionaries(), epochs=1, output=tmp_path / "r", quiet=True
    )
    assert isinstance(run.student, Keyword)


class TwoInputs(nn.Module):
    """A module with a calling convention of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = odd_student()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.net(torch.cat([left, right], dim=1))


def test_a_forward_of_the_users(tmp_path: Path) -> None:
    def forward(model: nn.Module, batch: lb.Batch) -> Tensor:
        return model(batch.inputs[:, :2], batch.inputs[:, 2:])

    run = lb.distill(
        TwoInputs(),
        TwoInputs(),
        samples(),
        epochs=1,
        forward=forward,
        output=tmp_path / "r",
        quiet=True,
    )
    assert run.metrics["agreement"] >= 0


def test_a_data_loader_is_read_through_its_data_set(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(*samples()), batch_size=16, shuffle=True)
    run = lb.distill(
        odd_teacher(),
        odd_student(),
        loader,
        lb.KD() + lb.KCD(stage_epochs=1),
        epochs=2,
        output=tmp_path / "r",
        quiet=True,
    )
    assert run.summary["steps"] > 0


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self):
        yield from zip(*samples(48), strict=True)


def test_a_stream_serves_methods_that_need_no_index(tmp_path: Path) -> None:
    loader = DataLoader(Stream(), batch_size=16)
    lb.distill(odd_teacher(), odd_student(), loader, epochs=1, output=tmp_path / "r", quiet=True)
    with pytest.raises(DataError, match=r"kcd needs the index .* write data=YourMapStyleDataset"):
        lb.distill(odd_teacher(), odd_student(), loader, lb.KD() + lb.KCD(), quiet=True)


def test_a_cohort_needs_no_teacher(tmp_path: Path) -> None:
    run = lb.distill(
        student=[odd_student(), odd_teacher()],
        data=samples(),
        method="dml",
        epochs=2,
        output=tmp_path / "r",
        quiet=True,
    )
    assert type(run.student) is nn.Sequential
    assert run.summary["best_member"] in (0, 1)


def test_regression_and_several_labels(tmp_path: Path) -> None:
    x, _ = samples()
    run = lb.distill(
        odd_teacher(), odd_student(), (x, x[:, :3]), epochs=1, output=tmp_path / "a", quiet=True
    )
    assert {"mse", "mae", "r2"} <= run.metrics.keys()
    run = lb.distill(
        odd_teacher(),
        odd_student(),
        (x, (x[:, :3] > 0).float()),
        task="multilabel",
        epochs=1,
        output=tmp_path / "b",
        quiet=True,
    )
    assert {"map", "f1", "agreement"} <= run.metrics.keys()


def test_a_run_opens_again_and_resumes(tmp_path: Path) -> None:
    options = {"output": tmp_path / "r", "quiet": True, "epochs": 1}
    run = lb.distill(student="mlp", data="digits", method="plain", **options)
    again = lb.load_run(tmp_path / "r")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(run.student(x), again.student(x))
    assert run.metrics == again.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": None}, "student: expected a module"),
        ({"data": None}, "data: expected a data set"),
        ({"method": "dkd9"}, "unknown method 'dkd9': did you mean"),
        ({"train": {"epoch": 3}}, "train: unknown key 'epoch': did you mean 'epochs'"),
        ({"teacher": 3}, "teacher"),
        ({"epochs": 0}, "train.epochs: expected a whole number of at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, object], message: str, tmp_path: Path) -> None:
    arguments = {
        "teacher": odd_teacher(),
        "student": odd_student(),
        "data": samples(),
        "output": tmp_path / "r",
        "quiet": True,
    }
    with pytest.raises(lb.LimbeckError, match=message) as caught:
        lb.distill(**{**arguments, **change})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_class_counts_that_differ_are_said() -> None:
    teacher = nn.Sequential(nn.Linear(6, 5))
    with pytest.raises(lb.LimbeckError, match=r"gives 5 outputs, the data have 3"):
        lb.distill(teacher, odd_student(), samples(), quiet=True)
    with pytest.raises(RecipeError, match=r"student: gives outputs of shape \(2, 5\)"):
        lb.distill(odd_teacher(), teacher, samples(), quiet=True)


def test_a_method_in_a_loop_of_ones_own() -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    terms = lb.KD(temperature=2)(student, teacher, torch.tensor([0, 1, 2, 0]))
    expected = 0.9 * lb.functional.kd(student, teacher, temperature=2)
    assert torch.equal(terms["kd"], expected)


def test_what_is_about_to_be_done_is_said_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (samples(), samples(30))
    lb.distill(odd_teacher(), odd_student(), parts, epochs=1, output=tmp_path / "r")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("data  ")
    assert lines[0].endswith("test cut from train")
    first = next(i for i, line in enumerate(lines) if line.startswith("kd: epoch 1/1"))
    assert "task weight  0.1 (default of kd)" in lines[:first]
    assert lines[-2].startswith("test: accuracy")
    assert lines[-1] == f"student: {tmp_path / 'r' / 'student'}"


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"epoch": 3}, "train: unknown key 'epoch': did you mean 'epochs'?"),
        ({"optimizer": {"lrr": 1}}, "train.optimizer: unknown key 'lrr': did you mean 'lr'?"),
        ({"optimizer": "adamm"}, "train.optimizer.name: unknown choice 'adamm'"),
        ({"optimizer": 3}, "train.optimizer: expected a name or a mapping, got 3"),
        ({"schedule": "cosin"}, "train.schedule.name: unknown choice 'cosin': did you mean"),
        ({"deploy": "bst"}, "train.deploy: unknown choice 'bst': did you mean 'best'?"),
        ({"precision": "fp16"}, "train.precision: unknown choice 'fp16'"),
    ],
)
def test_training_settings_are_checked(train: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        lb.distill(odd_teacher(), odd_student(), samples(), train=train, output=tmp_path / "r")
    assert str(caught.value).startswith(line)
    assert not (tmp_path / "r").exists()


def test_an_optimizer_by_its_name_alone(tmp_path: Path) -> None:
    run = lb.distill(
        odd_teacher(),
        odd_student(),
        samples(),
        epochs=1,
        lr=0.01,
        train={"optimizer": "adamw", "schedule": "constant"},
        output=tmp_path / "r",
        quiet=True,
    )
    recipe = yaml.safe_load((run.path / "recipe.yaml").read_text())
    assert recipe["train"]["optimizer"]["name"] == "adamw"
    assert recipe["train"]["optimizer"]["lr"] == 0.01
    assert recipe["train"]["schedule"]["name"] == "constant"


def test_cycles_are_held_against_the_epochs_that_are_asked_for(tmp_path: Path) -> None:
    options = {"output": tmp_path / "r", "quiet": True, "train": {"schedule": {"cycles": 40}}}
    with pytest.raises(RecipeError, match=r"^train.schedule: expected at most 2 cycles, one for"):
        lb.distill(None, odd_student(), samples(), "plain", epochs=2, **options)
    run = lb.distill(None, odd_student(), samples(), "plain", epochs=40, **options)
    rates = [float(one) for one in _rates(run.path)]
    assert len(rates) == 40
    assert rates == pytest.approx([rates[0]] * 40)  # each epoch a cycle, each ends at one rate


def _rates(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["lr"] for line in lines if line["kind"] == "train"]
