"""The Lightning module with any method: the weights of Limbeck's own loop, and its resume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_loops import (
    EPOCHS,
    RATE,
    SEED,
    SIZE,
    STEPS,
    Bank,
    Rows,
    Seams,
    assert_same_as_own,
    own_loop,
    stream,
    student,
    students,
    teacher,
)
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import limbeck as lb
from limbeck.integrations import IndexedDataset

pytest.importorskip("lightning")

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from limbeck.integrations.lightning import DistillationModule

pytestmark = [
    # Lightning's own advice and deprecations, which no module can answer
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*dirpath has changed.*"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
]

METHODS: dict[str, Any] = {
    "kd": "kd",
    "fitnet": lb.FitNet(weight=1.0),
    "sum": lb.KD() + lb.FitNet(weight=1.0),
    "smoothing": lb.LabelSmoothing() + lb.KD(),
    "e2kd": lb.E2KD(),
    "dml": lb.DML(),
}


def make(method: Any, *, momentum: float = 0.0, **changes: Any) -> DistillationModule:
    cohort = method == lb.DML()
    given: dict[str, Any] = {
        "teacher": None if cohort else teacher(),
        "example": stream()[0],
        "seed": SEED,
        **changes,
    }
    return DistillationModule(
        given.pop("student", students() if cohort else student()),
        given.pop("teacher"),
        method,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=momentum),
        **given,
    )


def lightning(folder: Path, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "default_root_dir": folder,
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **changes,
    }
    return Trainer(**settings)


def loader(form: str = "pair", epochs: int = EPOCHS) -> DataLoader[Any]:
    return DataLoader(Rows(form, epochs=epochs), batch_size=SIZE)


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_are_those_of_limbecks_own_loop(name: str, tmp_path: Path) -> None:
    own = own_loop(METHODS[name], tmp_path / "own", cohort=name == "dml")
    module = make(METHODS[name])
    lightning(tmp_path).fit(module, loader())
    assert_same_as_own(module.distillation.state_dict(), own)


# After the last step of an epoch, and after its end. Within an epoch Lightning itself begins the
# data anew unless the loader keeps a state.
@pytest.mark.parametrize("when", ["every_n_train_steps", "every_n_epochs"])
@pytest.mark.parametrize(
    "method", [lb.KD() + lb.FitNet(), Seams(), Bank()], ids=lambda m: str(m)[:9]
)
def test_resume_goes_on_to_the_same_bits(method: Any, when: str, tmp_path: Path) -> None:
    data = DataLoader(IndexedDataset(Rows(epochs=1)), batch_size=SIZE)

    def trainer(folder: Path) -> Trainer:
        often = {when: 1 if when == "every_n_epochs" else STEPS}
        keep = ModelCheckpoint(folder, "{step}", save_top_k=-1, **often)
        return lightning(folder, max_epochs=EPOCHS, callbacks=[keep], enable_checkpointing=True)

    first, second = make(method, momentum=0.9), make(method, momentum=0.9)
    trainer(tmp_path / "whole").fit(first, data)
    with torch.no_grad():  # nothing but the checkpoint may matter
        for parameter in second.parameters():
            parameter.add_(1.0)
    checkpoint = str(tmp_path / "whole" / f"step={STEPS}.ckpt")
    trainer(tmp_path / "again").fit(second, data, ckpt_path=checkpoint, weights_only=True)
    whole, again = first.distillation.state_dict(), second.distillation.state_dict()
    assert whole.keys() == again.keys()
    assert whole["position"].tolist() == [EPOCHS, EPOCHS * STEPS, 0, -1]
    assert [key for key in whole if not torch.equal(whole[key], again[key])] == []


def test_checkpoints_hold_student_and_adapters_and_no_teacher(tmp_path: Path) -> None:
    module = make(lb.FitNet())
    before = {k: v.clone() for k, v in module.distillation.training_state().items()}
    trainer = lightning(tmp_path)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    kept = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    begun = {".".join(key.split(".")[:2]) for key in kept}
    assert begun == {"distillation.student", "distillation.runtimes", "distillation.position"}
    weights = [key for key in before if key.endswith("weight")]
    assert weights
    assert not any(torch.equal(before[key], kept[f"distillation.{key}"]) for key in weights)
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert {id(p) for p in module.distillation.runtimes.parameters()} <= optimised
    plain = module.deploy()
    assert plain is module.student
    assert not plain.training
    assert not any(part._forward_hooks for part in plain.modules())


def test_validation_logs_the_plain_label_term_and_accuracy(tmp_path: Path) -> None:
    module = make(lb.KD() + lb.LabelSmoothing())
    trainer = lightning(tmp_path)
    trainer.fit(module, loader(), loader(epochs=1))
    rows = Rows(epochs=1)
    logits = module.eval()(rows.inputs).detach()
    loss = float(torch.nn.functional.cross_entropy(logits, rows.targets))
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(loss, rel=1e-4)
    right = float((logits.argmax(1) == rows.targets).float().mean())
    assert float(trainer.callback_metrics["val_accuracy"]) == pytest.approx(right)
    assert {"train_loss", "train_kd", "train_task"} <= set(trainer.callback_metrics)


def test_micro_batches_and_clipping(tmp_path: Path) -> None:
    """Two halves of a batch are the batch; a method's deltas are clipped with the rest."""
    whole, parts = (make(lb.KD(), student=_without_statistics()) for _ in range(2))
    rows = Rows(epochs=1)
    lightning(tmp_path).fit(whole, DataLoader(rows, batch_size=SIZE * 2))
    lightning(tmp_path, accumulate_grad_batches=2).fit(parts, DataLoader(rows, batch_size=SIZE))
    for one, other in zip(whole.student.parameters(), parts.student.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    seams = make(Seams())
    before = seams.student.head.bias.detach().clone()
    lightning(tmp_path, max_steps=1, gradient_clip_val=1e-9).fit(seams, loader())
    assert torch.allclose(seams.student.head.bias, before, atol=1e-8)


def _without_statistics() -> torch.nn.Module:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"num_classes": 10, "input_shape": (1, 8, 8), "channels": (4, 8)}
    return lb.build_model("cnn", norm="none", **sizes)


def test_a_restored_module_needs_no_trainer(tmp_path: Path) -> None:
    module = make(lb.KD() + lb.FitNet())
    trainer = lightning(tmp_path, precision="bf16-mixed")
    trainer.fit(module, loader("mapping"))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = DistillationModule.load_from_checkpoint(
        tmp_path / "one.ckpt",
        student=student(),
        teacher=teacher(),
        method=lb.KD() + lb.FitNet(),
        optimizer=torch.optim.SGD,
        example=stream()[0],
        weights_only=True,
    )
    for name, value in again.distillation.state_dict().items():
        assert torch.equal(value, module.distillation.state_dict()[name]), name


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("kcd", "method kcd: needs data whose samples"),
        ("dml", "method dml: needs several students"),
    ],
)
def test_what_clashes_is_one_clear_line(method: Any, line: str) -> None:
    with pytest.raises(lb.LimbeckError, match=line):
        make(method)


def test_a_strategy_that_shards_is_refused() -> None:
    class FSDPStrategy:
        pass

    class Around:
        strategy = FSDPStrategy()

    module = make("kd")
    module._trainer = Around()  # type: ignore[assignment]
    with pytest.raises(lb.LimbeckError, match="strategy: FSDPStrategy shards"):
        module.setup("fit")


JOB = Path(__file__).with_name("lightning_job.py")


@pytest.mark.slow
def test_two_processes_equal_one_in_stages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(JOB), str(tmp_path / "two.safetensors")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sys.path.insert(0, str(JOB.parent))
    from lightning_job import train as train_one

    one = train_one(tmp_path, SIZE, devices=1)
    two = load_file(tmp_path / "two.safetensors")
    assert two["position"].tolist() == [EPOCHS, EPOCHS * STEPS, 1, -1]
    for name, value in one.distillation.state_dict().items():
        assert torch.allclose(value.float(), two[name].float(), atol=1e-5), name
