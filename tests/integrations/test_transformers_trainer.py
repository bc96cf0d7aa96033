"""The transformers Trainer with any method: the weights of Limbeck's own loop, and its resume."""

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
    network,
    own_loop,
    stream,
    student,
    teacher,
)
from safetensors.torch import load_file
from torch import nn

import limbeck as lb

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import TrainingArguments

from limbeck.integrations.transformers import STATE_FILE, DistillationTrainer

METHODS: dict[str, Any] = {
    "kd": "kd",
    "fitnet": lb.FitNet(weight=1.0),
    "sum": lb.KD() + lb.FitNet(weight=1.0),
    "smoothing": lb.LabelSmoothing() + lb.KD(),
    "e2kd": lb.E2KD(),
    "seams": Seams(),
}


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": SIZE,
        "per_device_eval_batch_size": SIZE,
        "optim": "sgd",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": SEED,
        "dataloader_pin_memory": False,
        **changes,
    }
    return TrainingArguments(**settings)


def make(method: Any, folder: Path, **changes: Any) -> DistillationTrainer:
    options = {
        name: changes.pop(name)
        for name in ("task_weight", "compute_loss_func", "forward", "eval_dataset", "data")
        if name in changes
    }
    model = changes.pop("model", None) or student()
    rows = changes.pop("rows", None) or Rows("mapping")
    big = changes.pop("teacher", None) or teacher()
    args = arguments(folder, **changes)
    return DistillationTrainer(
        model, args, teacher=big, method=method, train_dataset=rows, **options
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_are_those_of_limbecks_own_loop(name: str, tmp_path: Path) -> None:
    epochs = 1 if name == "seams" else EPOCHS  # which counts epochs, and the Trainer's is one
    own = own_loop(METHODS[name], tmp_path / "own", epochs=epochs)
    trainer = make(METHODS[name], tmp_path / "trainer", rows=Rows("mapping", epochs=epochs))
    trainer.train()
    assert_same_as_own(trainer.distillation.state_dict(), own)
    assert trainer.model is trainer.distillation.student
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_the_loss_is_that_of_a_loop_written_by_hand(tmp_path: Path) -> None:
    net, big = student().train(), teacher()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for batch in stream():
        logits = net(batch.inputs)
        with torch.no_grad():
            said = big(batch.inputs)
        soft = nn.functional.kl_div(
            (logits / 4).log_softmax(1), (said / 4).softmax(1), reduction="batchmean"
        )
        loss = 0.1 * nn.functional.cross_entropy(logits, batch.targets) + 0.9 * 16 * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainer = make("kd", tmp_path)
    trainer.train()
    for ours, theirs in zip(trainer.model.parameters(), net.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_micro_batches_count_by_their_samples_and_labels(tmp_path: Path) -> None:
    rows = Rows("mapping")
    rows.targets[::3] = -100
    rows.inputs, rows.targets = rows.inputs[:44], rows.targets[:44]  # the last step: 16 and 12
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nets = [_named(net) for _ in range(2)]
    whole = make("kd", tmp_path, model=nets[0], rows=rows, per_device_train_batch_size=32)
    whole.train()
    parts = make("kd", tmp_path, model=nets[1], rows=rows, gradient_accumulation_steps=2)
    parts.train()
    assert whole.state.global_step == parts.state.global_step == 2
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    first, second = (
        [entry for entry in trainer.state.log_history if "kd" in entry]
        for trainer in (whole, parts)
    )
    for ours, theirs in zip(first, second, strict=True):
        for key in ("loss", "kd", "task"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), key


class _Named(nn.Module):
    """A network that takes its inputs by name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net(inputs)


def _named(net: nn.Module) -> nn.Module:
    import copy

    return _Named(copy.deepcopy(net))


@pytest.mark.parametrize("save_steps", [3, STEPS])
@pytest.mark.parametrize(
    "method", [lb.KD() + lb.FitNet(), Seams(), Bank()], ids=lambda m: str(m)[:9]
)
def test_resume_goes_on_to_the_same_bits(method: Any, save_steps: int, tmp_path: Path) -> None:
    changes = {
        "num_train_epochs": EPOCHS,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "rows": Rows("mapping", epochs=1),
        "optim_args": "momentum=0.9",
    }
    first = make(method, tmp_path / "whole", **changes)
    first.train()
    checkpoint = tmp_path / "whole" / f"checkpoint-{save_steps}"
    second = make(method, tmp_path / "again", **changes)
    with torch.no_grad():  # nothing but the checkpoint may matter
        for parameter in second.distillation.parameters():
            parameter.add_(1.0)
    second.train(resume_from_checkpoint=str(checkpoint))
    whole, again = first.distillation.state_dict(), second.distillation.state_dict()
    assert whole.keys() == again.keys()
    assert [key for key in whole if not torch.equal(whole[key], again[key])] == []


def test_checkpoints_hold_a_plain_student_and_the_rest_beside_it(tmp_path: Path) -> None:
    trainer = make("fitnet", tmp_path, save_strategy="epoch")
    before = {k: v.clone() for k, v in trainer.distillation.training_state().items()}
    trainer.train()
    folder = tmp_path / f"checkpoint-{STEPS * EPOCHS}"
    assert load_file(folder / "model.safetensors").keys() == student().state_dict().keys()
    beside = load_file(folder / STATE_FILE)
    weights = [key for key in beside if key.endswith("weight")]
    assert weights
    assert not any(torch.equal(beside[key], before[key]) for key in weights)
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    adapters = {id(p) for p in trainer.distillation.runtimes.parameters()}
    assert adapters
    assert adapters <= optimised
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / STATE_FILE).exists()
    with pytest.raises(lb.LimbeckError, match="make a new DistillationTrainer"):
        trainer.train()


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    make("kd", tmp_path / "kd", save_strategy="epoch").train()
    checkpoint = str(tmp_path / "kd" / f"checkpoint-{STEPS * EPOCHS}")
    with pytest.raises(lb.LimbeckError, match=r"limbeck.safetensors: no state of these methods"):
        make("fitnet", tmp_path / "other").train(resume_from_checkpoint=checkpoint)
    (Path(checkpoint) / STATE_FILE).unlink()
    with pytest.raises(lb.LimbeckError, match=r"resume with the method, student and teachers"):
        make("kd", tmp_path / "other").train(resume_from_checkpoint=checkpoint)


def test_evaluation_is_the_plain_label_term_and_keeps_predictions_whole(tmp_path: Path) -> None:
    rows = Rows("mapping", epochs=1)
    trainer = make(
        lb.KD() + lb.LabelSmoothing(), tmp_path, eval_dataset=rows, task_weight=0.3, bf16=False
    )
    trainer.train()
    said = trainer.predict(rows)
    with torch.no_grad():
        logits = trainer.model(rows.inputs)
    assert torch.allclose(torch.as_tensor(said.predictions), logits, atol=1e-5)
    loss = nn.functional.cross_entropy(logits, rows.targets)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(loss), rel=1e-4)


def test_autocast_trains_and_evaluates(tmp_path: Path) -> None:
    trainer = make(
        lb.KD() + lb.FitNet(),
        tmp_path,
        bf16=True,
        eval_strategy="epoch",
        eval_dataset=Rows("mapping"),
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("method", "changes", "line"),
    [
        ("kcd", {}, "method kcd: needs data whose samples"),
        ("dml", {}, "method dml: needs several students"),
        ("kd", {"label_smoothing_factor": 0.1}, r"write method=lb.LabelSmoothing\(epsilon=0.1\)"),
        ("kd", {"compute_loss_func": max}, "compute_loss_func: the loss is the method's"),
        ("kd", {"label_names": ["a", "b"]}, "args.label_names: expected one name, got a, b"),
    ],
)
def test_what_clashes_is_one_clear_line(
    method: Any, changes: Any, line: str, tmp_path: Path
) -> None:
    with pytest.raises(lb.LimbeckError, match=line) as told:
        make(method, tmp_path, **changes)
    assert "\n" not in str(told.value)


def test_no_training_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(lb.LimbeckError, match="train_dataset: expected a data set, got None"):
        DistillationTrainer(student(), arguments(tmp_path), teacher=network(4))


def test_sentences_with_transformers_models(tmp_path: Path) -> None:
    """Two small BERTs with columns to remove, padding and pairs of layers."""
    from datasets import Dataset
    from transformers import BertConfig, BertForSequenceClassification

    def bert(width: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=40, hidden_size=width, num_labels=3, **sizes)
        return BertForSequenceClassification(config)

    words = torch.randint(5, 40, (24, 7))
    columns = {
        "input_ids": words.tolist(),
        "attention_mask": torch.ones_like(words).tolist(),
        "label": (words.sum(1) % 3).tolist(),
        "text": ["not for the model"] * 24,
    }
    pairs = (("bert.encoder.layer.1", "bert.encoder.layer.1"),)
    trainer = make(
        lb.KD() + lb.FitNet(weight=1.0, pairs=pairs),
        tmp_path,
        model=bert(16, 1),
        teacher=bert(24, 2),
        rows=Dataset.from_dict(columns),
        save_strategy="epoch",
    )
    trainer.train()
    assert {"kd", "fitnet", "task"} <= set(trainer.state.log_history[0])
    again = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-2")
    for name, value in again.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


JOB = Path(__file__).with_name("trainer_job.py")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(JOB), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sys.path.insert(0, str(JOB.parent))
    from trainer_job import trainer_of

    one = trainer_of(tmp_path / "one", SIZE)
    one.train()
    two = load_file(tmp_path / "two.safetensors")
    for name, value in one.distillation.state_dict().items():
        assert torch.allclose(value.float(), two[name].float(), atol=1e-5), name
