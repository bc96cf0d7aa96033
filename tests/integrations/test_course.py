"""Stages, chosen samples and cohorts in the loops of other engines: the weights of our own loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from foreign_loops import (
    EPOCHS,
    RATE,
    SEED,
    SIZE,
    STEPS,
    Rows,
    assert_same_as_own,
    digits,
    own_loop,
    stream,
    student,
    students,
    teacher,
)
from torch.utils.data import DataLoader, Dataset

import limbeck as lb
from limbeck.data.seeds import mix
from limbeck.functional import keep_schedule
from limbeck.methods.ft import FTRuntime
from limbeck.methods.kcd import KCDRuntime
from limbeck.methods.mlkd import MLKDRuntime
from limbeck.teachers import RouteTeacher

MOMENTUM = 0.9
STAGED: dict[str, Any] = {
    "fitnet": lb.FitNet(hint_epochs=1) + lb.KD(),
    "fsp": lb.FSP(pairs=(("stages.0", "stages.0"), ("stages.1", "stages.1"))) + lb.KD(),
    "ab": lb.AB(init_epochs=1) + lb.KD(),
    "residual": lb.Residual() + lb.KD(),
}
CHOOSING = lb.KD() + lb.KCD(stage_epochs=1, tau=0.25)
SIZES = keep_schedule(SIZE * STEPS, 0.25, EPOCHS, 1)
CHOSEN = sum(math.ceil(size / SIZE) for size in SIZES)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
]


class OneEpoch(Dataset[Any]):
    """The stream of two epochs as a set whose second half the second epoch reads."""

    def __init__(self, form: str = "pair") -> None:
        self.rows, self.epoch = Rows(form), 0

    def __len__(self) -> int:
        return SIZE * STEPS

    def __getitem__(self, index: int) -> Any:
        return self.rows[index + self.epoch * len(self)]


def by_hand(method: Any, folder: Path, **options: Any) -> lb.Distillation:
    made = lb.Distillation(
        student(), teacher(), method, example=stream()[0], epochs=EPOCHS, seed=SEED, **options
    )
    train(made)
    return made


def train(made: lb.Distillation, *, stop: Any = None, state: Any = None) -> dict[str, Any]:
    """Train from the beginning or from a state, up to (epoch, batch); return all to go on from."""
    optimizer = torch.optim.SGD(made.parameters(), lr=RATE, momentum=MOMENTUM)
    first = (0, 0)
    if state is not None:
        made.load_state_dict(state["distillation"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["next"]
    made.train()
    for epoch in range(first[0], EPOCHS):
        made.epoch_start(optimizer)
        given = stream()[epoch * STEPS : (epoch + 1) * STEPS]
        for number, batch in enumerate(made.batches(SIZE) if made.chooses_samples else given):
            if (epoch, number) < first:
                continue
            if (epoch, number) == stop:
                held = {name: value.clone() for name, value in made.state_dict().items()}
                return {"distillation": held, "optimizer": optimizer.state_dict(), "next": stop}
            optimizer.zero_grad()
            made(batch).backward()
            made.before_step()
            optimizer.step()
            made.after_step()
        made.epoch_end()
    return made.state_dict()


def by_lightning(method: Any, folder: Path, **options: Any) -> lb.Distillation:
    pytest.importorskip("lightning")
    from lightning.pytorch import Callback, Trainer

    from limbeck.integrations.lightning import DistillationModule

    cohort = options.pop("cohort", False)
    module = DistillationModule(
        students() if cohort else student(),
        None if cohort else teacher(),
        method,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM),
        example=stream()[0],
        seed=SEED,
        **options,
    )
    rows = OneEpoch()

    class Turn(Callback):
        def on_train_epoch_end(self, *arguments: Any) -> None:
            rows.epoch = 1

    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Turn()],
        reload_dataloaders_every_n_epochs=1,
    )
    chooses = module.distillation.chooses_samples
    trainer.fit(module, module.batches(SIZE) if chooses else DataLoader(rows, batch_size=SIZE))
    return module.distillation


def by_trainer(method: Any, folder: Path, **options: Any) -> lb.Distillation:
    made = trainer_of(method, folder, **options)
    made.train()
    return made.distillation


def trainer_of(method: Any, folder: Path, **options: Any) -> Any:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from transformers import TrainerCallback, TrainingArguments

    from limbeck.integrations.transformers import DistillationTrainer

    cohort, rows = options.pop("cohort", False), OneEpoch("mapping")
    changes = options.pop("args", {})

    class Turn(TrainerCallback):
        def on_epoch_end(self, *arguments: Any, **more: Any) -> None:
            rows.epoch = 1

    settings: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": SIZE,
        "optim": "sgd",
        "optim_args": f"momentum={MOMENTUM}",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "seed": SEED,
        "dataloader_pin_memory": False,
        **changes,
    }
    if "data" not in options:
        options["train_dataset"] = rows
    return DistillationTrainer(
        students() if cohort else student(),
        TrainingArguments(**settings),
        teacher=None if cohort else teacher(),
        method=method,
        callbacks=[Turn()],
        **options,
    )


LOOPS: dict[str, Callable[..., lb.Distillation]] = {
    "by hand": by_hand,
    "Lightning": by_lightning,
    "Trainer": by_trainer,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", STAGED)
def test_stages_are_those_of_limbecks_own_loop(name: str, loop: str, tmp_path: Path) -> None:
    own = own_loop(STAGED[name], tmp_path / "own", momentum=MOMENTUM)
    made = LOOPS[loop](STAGED[name], tmp_path)
    assert made.has_stages
    assert_same_as_own(made.state_dict(), own)


@pytest.mark.parametrize("loop", LOOPS)
def test_chosen_samples_are_those_of_limbecks_own_loop(loop: str, tmp_path: Path) -> None:
    own = own_loop(CHOOSING, tmp_path / "own", momentum=MOMENTUM)
    made = LOOPS[loop](CHOOSING, tmp_path, data=digits())
    assert made.state_dict()["position"].tolist() == [EPOCHS, CHOSEN, 0, EPOCHS - 1]
    assert_same_as_own(made.state_dict(), own)


def test_a_cohort_learns_in_a_transformers_trainer(tmp_path: Path) -> None:
    own = own_loop(lb.DML(), tmp_path / "own", cohort=True, momentum=MOMENTUM)
    made = trainer_of(lb.DML(), tmp_path, cohort=True, eval_dataset=Rows("mapping", epochs=1))
    made.train()
    assert_same_as_own(made.distillation.state_dict(), own)
    rows = Rows(epochs=1)
    with torch.no_grad():
        mean = torch.stack([one(rows.inputs) for one in made.model.members]).mean(dim=0)
    loss = float(torch.nn.functional.cross_entropy(mean, rows.targets))
    assert made.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("stop", [(0, 2), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("method", [STAGED["fitnet"], CHOOSING], ids=["staged", "choosing"])
def test_going_on_from_any_step_gives_the_same_bits(method: Any, stop: Any) -> None:
    def make() -> lb.Distillation:
        options: dict[str, Any] = {"example": stream()[0], "epochs": EPOCHS, "seed": SEED}
        return lb.Distillation(student(), teacher(), method, data=digits(), **options)

    whole = train(make())
    held = train(make(), stop=stop)
    again = train(make(), state=held)
    assert whole.keys() == again.keys()
    assert [key for key in whole if not torch.equal(whole[key], again[key])] == []


def test_a_loop_that_misses_a_beginning_is_told() -> None:
    staged = lb.Distillation(
        student(), teacher(), STAGED["fitnet"], example=stream()[0], epochs=EPOCHS
    )
    staged(stream()[0])
    staged.epoch_end()
    with pytest.raises(lb.LimbeckError, match=r"stage distil: .* call epoch_start\(optimizer\)"):
        staged(stream()[0])
    data = digits()
    choosing = lb.Distillation(student(), teacher(), CHOOSING, example=stream()[0], data=data)
    with pytest.raises(lb.LimbeckError, match=r"kcd: chooses .* distillation.batches\(size\)"):
        choosing(stream()[0])
    with pytest.raises(lb.LimbeckError, match=r"batches: the training data are not known"):
        lb.Distillation(student(), teacher(), example=stream()[0]).batches(SIZE)


@pytest.mark.parametrize("method", [lb.Residual(), lb.SimKD(), lb.ONE(), lb.LetKD1()])
@pytest.mark.parametrize("training", [True, False])
def test_what_a_method_adds_to_a_student_is_in_its_mode(method: Any, training: bool) -> None:
    given = student().train(training)
    options: dict[str, Any] = {"example": stream()[0], "epochs": EPOCHS, "data": digits()}
    made = lb.Distillation(given, teacher(), method, **options)
    assert {part.training for part in made.student.modules()} == {training}


@pytest.mark.parametrize(("kind", "seam"), [(MLKDRuntime, "batch"), (KCDRuntime, "examples")])
def test_a_teacher_on_a_route_takes_over_before_any_method_asks(
    kind: Any, seam: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    route, spoke, was = RouteTeacher([teacher(), teacher()], at=[0, 1]), [], getattr(kind, seam)

    def note(self: Any, *arguments: Any) -> Any:
        spoke.append(route.current)
        return was(self, *arguments)

    monkeypatch.setattr(kind, seam, note)
    method = lb.MLKD() if kind is MLKDRuntime else CHOOSING
    options: dict[str, Any] = {"example": stream()[0], "epochs": EPOCHS, "data": digits()}
    made = lb.Distillation(student(), route, method, **options)
    for _ in range(EPOCHS):
        made(next(iter(made.batches(SIZE))))
        made.after_step()
        made.epoch_end()
    assert spoke == [0, 1]


def test_what_is_fitted_is_fitted_before_samples_are_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def noted(was: Any) -> Any:
        def seam(self: Any, *arguments: Any) -> Any:
            order.append(self.method.name)
            return was(self, *arguments)

        return seam

    monkeypatch.setattr(FTRuntime, "fit", noted(FTRuntime.fit))
    monkeypatch.setattr(KCDRuntime, "examples", noted(KCDRuntime.examples))
    made = lb.Distillation(
        student(), teacher(), CHOOSING + lb.FT(), example=stream()[0], data=digits(), seed=SEED
    )
    batch = next(iter(made.batches(SIZE)))
    assert order == ["ft", "kcd"]
    made(batch)
    assert made._ctx.generator.initial_seed() == mix(SEED, 0, 0)  # a choice's draws are its own


@pytest.mark.parametrize("args", [{"gradient_accumulation_steps": 2}, {"world_size": 2}])
def test_a_trainer_refuses_what_chosen_samples_cannot_have(args: Any, tmp_path: Path) -> None:
    from limbeck.integrations.transformers import _refuse_arguments

    if "world_size" in args:

        class Args:
            world_size, gradient_accumulation_steps = 2, 1

        with pytest.raises(lb.LimbeckError, match="args: method kcd chooses samples"):
            _refuse_arguments(Args, "kcd")
        return
    with pytest.raises(lb.LimbeckError, match="args: method kcd chooses samples"):
        trainer_of(CHOOSING, tmp_path, data=digits(), args=args)


def test_a_trainer_says_where_chosen_samples_come_from(tmp_path: Path) -> None:
    with pytest.raises(lb.LimbeckError, match="train_dataset: samples are chosen from data"):
        trainer_of(CHOOSING, tmp_path, data=digits(), train_dataset=Rows("mapping"))
    made = trainer_of(CHOOSING, tmp_path, data=digits())
    with pytest.raises(lb.LimbeckError, match="epochs differ in length, and Trainer resumes"):
        made.train(resume_from_checkpoint=True)


def test_lightning_refuses_what_it_could_not_do(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from limbeck.integrations.lightning import DistillationModule

    class Strategy:
        _ddp_kwargs: ClassVar[dict[str, Any]] = {}

    class Around:
        strategy, world_size = Strategy(), 2
        max_epochs, estimated_stepping_batches = EPOCHS, 8

    def module(method: Any) -> Any:
        made = DistillationModule(
            student(), teacher(), method, optimizer=list, example=stream()[0], data=digits()
        )
        made._trainer = Around()  # type: ignore[assignment]
        return made

    with pytest.raises(lb.LimbeckError, match="kcd: chooses samples, here in one process only"):
        module(CHOOSING).setup("fit")
    with pytest.raises(lb.LimbeckError, match="ddp_find_unused_parameters_true"):
        module(STAGED["fitnet"]).on_train_start()
