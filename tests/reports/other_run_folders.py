"""Run folders of tasks other than classification, from tiny networks that are really trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from run_folders import digits, mlp, size_of, write_text
from safetensors.numpy import save_file
from sklearn.datasets import load_diabetes
from torch import Tensor


def write_regression_run(folder: Path, name: str, seed: int, width: int = 8) -> Path:
    """A student on scikit-learn's diabetes table; no teacher, so the summary has none."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    inputs = torch.tensor(x[order] * 20).float()
    targets = torch.tensor((y[order] - y.mean()) / y.std()).float()[:, None]
    student = mlp(10, width, 1)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    rows: list[dict[str, Any]] = []

    def measure(part: slice) -> dict[str, float]:
        with torch.no_grad():
            error = (student(inputs[part]) - targets[part]).square().mean().item()
        return {"mse": error, "r2": 1 - error / targets[part].var(correction=0).item()}

    for epoch in range(10):
        for part in torch.randperm(300).split(50):
            loss = F.mse_loss(student(inputs[part]), targets[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rows.append({"kind": "train", "epoch": epoch, "step": len(rows), "loss": loss.item()})
        rows.append(
            {"kind": "eval", "epoch": epoch, "step": len(rows), "split": "validation"}
            | measure(slice(300, 370))
        )
    test = slice(370, 442)
    write_text(
        folder, {"name": name, "task": "regression", "seed": seed, "data": "diabetes"}, rows, []
    )
    summary = {
        "name": name,
        "status": "done",
        "seed": seed,
        "student": size_of(student),
        "teachers": {},
        "metrics": {"validation": measure(slice(300, 370)), "test": measure(test)},
        "method": [],
        "task_weight": 1.0,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    with torch.no_grad():
        save_file(
            {"student_logits": student(inputs[test]).numpy(), "targets": targets[test].numpy()},
            folder / "predictions.safetensors",
        )
    return folder


def write_multilabel_run(folder: Path, name: str, seed: int) -> Path:
    """Three yes-or-no questions about a digit: even? above four? prime?"""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    data = digits(1097)

    def labels(y: Tensor) -> Tensor:
        prime = torch.isin(y, torch.tensor([2, 3, 5, 7]))
        return torch.stack([y % 2 == 0, y > 4, prime], 1).float()

    student = mlp(64, 8, 3)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    rows: list[dict[str, Any]] = []

    def measure(x: Tensor, y: Tensor) -> dict[str, float]:
        with torch.no_grad():
            guess, truth = student(x) > 0, labels(y).bool()
        f1 = 2 * (guess & truth).sum(0) / (guess.sum(0) + truth.sum(0)).clamp(min=1)
        return {"f1": float(f1.mean())}

    for epoch in range(5):
        for part in torch.randperm(1097).split(64):
            loss = F.binary_cross_entropy_with_logits(
                student(data.train[part]), labels(data.targets[part])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rows.append({"kind": "train", "epoch": epoch, "step": len(rows), "loss": loss.item()})
        rows.append(
            {"kind": "eval", "epoch": epoch, "step": len(rows), "split": "validation"}
            | measure(*data.validation)
        )
    write_text(folder, {"name": name, "task": "multilabel", "seed": seed}, rows, [])
    summary = {
        "name": name,
        "status": "done",
        "seed": seed,
        "student": size_of(student),
        "metrics": {"test": measure(*data.test)},
        "method": ["plain"],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    x, y = data.test
    with torch.no_grad():
        save_file(
            {"student_logits": student(x).numpy(), "targets": labels(y).numpy()},
            folder / "predictions.safetensors",
        )
    return folder
