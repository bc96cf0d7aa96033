"""Run folders (format 1) written from tiny networks that are really trained, in plain torch."""

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

IGNORE = -100


@dataclass
class Digits:
    """scikit-learn's digits: 1,097 for training (some labelled), 300 validation, 400 test."""

    train: Tensor
    targets: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    labelled: int


def digits(labelled: int = 120) -> Digits:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    inputs, targets = torch.tensor(x[order] / 16.0).float(), torch.tensor(y[order])
    hidden = targets[:1097].clone()
    hidden[labelled:] = IGNORE
    return Digits(
        inputs[:1097],
        hidden,
        (inputs[1097:1397], targets[1097:1397]),
        (inputs[1397:], targets[1397:]),
        labelled,
    )


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_teacher(data: Digits, seed: int, width: int = 64, epochs: int = 6) -> nn.Module:
    """A teacher sees its own labels of all training samples."""
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    labels = torch.tensor(y[order])[: len(data.train)]
    model = mlp(64, width, width, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(64):
            loss = F.cross_entropy(model(data.train[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def metrics_of(logits: Tensor, targets: Tensor, teacher: Tensor | None = None) -> dict[str, float]:
    p = logits.softmax(1)
    confidence, guess = p.max(1)
    right = (guess == targets).float()
    bins = (confidence * 15).ceil().clamp(1, 15)
    gap = sum(abs(float((right - confidence)[bins == b].sum())) for b in range(1, 16)) / len(
        targets
    )
    result = {
        "accuracy": float(right.mean()),
        "nll": float(F.cross_entropy(logits, targets)),
        "brier": float((p - F.one_hot(targets, 10)).square().sum(1).mean()),
        "ece": gap,
    }
    if teacher is not None:
        result["agreement"] = float((guess == teacher.argmax(1)).float().mean())
        result["kl_to_teacher"] = float(
            F.kl_div(logits.log_softmax(1), teacher.softmax(1), reduction="batchmean")
        )
    return result


def size_of(model: nn.Module) -> dict[str, float]:
    """Parameters, multiply-adds and measured latency of one sample."""
    x = torch.zeros(1, next(model.parameters()).shape[1])
    with torch.no_grad():
        times = []
        for _ in range(20):
            start = time.perf_counter()
            model(x)
            times.append((time.perf_counter() - start) * 1000)
    weights = sum(p.numel() for p in model.parameters())
    return {
        "parameters": weights,
        "flops": 2 * sum(p.numel() for p in model.parameters() if p.ndim == 2),
        "latency_ms": float(np.median(times)),
    }


def write_run(
    folder: Path,
    name: str,
    seed: int,
    data: Digits,
    teacher: nn.Module | None,
    weight: float = 0.9,
    temperature: float = 4.0,
    epochs: int = 12,
    width: int = 8,
    predictions: bool = True,
    status: str = "done",
) -> Path:
    """Train one student and leave its run folder."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    student = mlp(64, width, 10)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    rows: list[dict[str, Any]] = []
    timing: list[dict[str, Any]] = []
    task_weight = 0.1 if teacher else 1.0
    used = len(data.train) if teacher else data.labelled
    step = 0
    for epoch in range(epochs):
        start = time.perf_counter()
        # As many steps for every arm, however few samples it may use.
        order = torch.cat([torch.randperm(used) for _ in range(-(-len(data.train) // used))])
        for part in order[: len(data.train)].split(64):
            x, y = data.train[part], data.targets[part]
            logits = student(x)
            labelled = y != IGNORE
            task = (
                F.cross_entropy(logits[labelled], y[labelled])
                if labelled.any()
                else logits.sum() * 0
            )
            loss, terms = task_weight * task, {"task": task.item()}
            if teacher is not None:
                with torch.no_grad():
                    soft = (teacher(x) / temperature).softmax(1)
                kd = temperature**2 * F.kl_div(
                    (logits / temperature).log_softmax(1), soft, reduction="batchmean"
                )
                loss, terms = loss + weight * kd, {**terms, "kd": kd.item()}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            rows.append(
                {
                    "kind": "train",
                    "epoch": epoch,
                    "step": step,
                    "loss": loss.item(),
                    **terms,
                    "lr": 0.1,
                }
            )
        with torch.no_grad():
            x, y = data.validation
            seen = metrics_of(student(x), y, teacher(x) if teacher else None)
        rows.append({"kind": "eval", "epoch": epoch, "step": step, "split": "validation", **seen})
        rows.append({"kind": "epoch", "epoch": epoch, "step": step, "samples": len(data.train)})
        timing.append({"epoch": epoch, "seconds": time.perf_counter() - start})
    method: list[dict[str, Any]] = (
        [{"name": "kd", "weight": weight, "temperature": temperature}]
        if teacher
        else [{"name": "plain"}]
    )
    recipe: dict[str, Any] = {
        "format": 1,
        "name": name,
        "task": "classification",
        "seed": seed,
        "data": {"name": "digits", "labelled": data.labelled, "validation": 300, "test": 400},
        "student": {"model": "mlp", "arguments": {"widths": [64, width, 10]}},
        "method": method,
        "train": {
            "epochs": epochs,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0},
            "schedule": {"name": "constant"},
        },
    }
    if teacher is not None:
        recipe["teachers"] = {"teacher": {"train": "teacher.yaml"}}
    write_text(folder, recipe, rows, timing)
    if status != "done":
        return folder
    with torch.no_grad():
        x, y = data.test
        logits = student(x)
        answers = teacher(x) if teacher else None
        final = {"validation": seen, "test": metrics_of(logits, y, answers)}
        summary: dict[str, Any] = {
            "format": 1,
            "name": name,
            "status": "done",
            "best_epoch": epochs - 1,
            "deployed": "last",
            "metrics": final,
            "student": {**size_of(student), "model": "mlp"},
            "teachers": {},
            "method": method,
            "task_weight": task_weight,
            "seed": seed,
            "samples_seen": len(data.train) * epochs,
            "steps": step,
            "seconds": sum(row["seconds"] for row in timing),
            "data": {
                "name": "digits",
                "train": len(data.train),
                "labelled": data.labelled,
                "validation": 300,
                "test": 400,
            },
        }
        if teacher is not None and answers is not None:
            summary["teachers"] = {
                "teacher": {
                    **size_of(teacher),
                    "model": "mlp",
                    "metrics": {"test": metrics_of(answers, y)},
                }
            }
    (folder / "summary.json").write_text(json.dumps(summary))
    if predictions:
        arrays = {"student_logits": logits.numpy(), "targets": y.numpy()}
        if answers is not None:
            arrays["teacher_logits"] = answers.numpy()
        save_file(arrays, folder / "predictions.safetensors")
    return folder


def write_text(
    folder: Path, recipe: dict[str, Any], rows: list[dict[str, Any]], timing: list[dict[str, Any]]
) -> None:
    environment = {
        "limbeck": "0.1.0",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "command": f"limbeck run {recipe['name']}.yaml seed={recipe['seed']}",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timing))


def write_study(root: Path, seeds: int, arms: tuple[str, ...] = ("alone", "KD")) -> list[Path]:
    """Arms × seeds; the teacher is the same for every run."""
    data = digits()
    teacher = train_teacher(data, seed=100)
    settings: dict[str, dict[str, Any]] = {
        "alone": {"teacher": None},
        "KD": {"teacher": teacher},
        "KD, τ=1": {"teacher": teacher, "temperature": 1.0},
        "KD, labels only": {"teacher": teacher, "weight": 0.02},
    }
    folders = []
    for arm in arms:
        for seed in range(seeds):
            folder = root / f"{arm.replace(' ', '-')}-{seed}"
            folders.append(write_run(folder, arm, seed, data, **settings[arm]))
    return folders
