"""Recipes that are right, one for each way of writing things; tests damage them."""

from pathlib import Path
from typing import Any

MODEL_TEACHER = {"model": "cnn", "weights": "random", "channels": [8, 16]}

GOOD: dict[str, dict[str, Any]] = {
    "short": {"data": "digits", "student": "cnn", "method": "plain"},
    "kd": {
        "version": 1,
        "name": "kd",
        "seed": 3,
        "task": {"kind": "classification", "weight": 0.1},
        "data": {"name": "digits", "labels_per_class": 10, "seed": 1},
        "teacher": {
            **MODEL_TEACHER,
            "normalize": {"mean": [0.3], "std": [0.4]},
        },
        "student": {"model": "cnn", "channels": [4, 8], "layers": 1},
        "method": {"name": "kd", "temperature": 2, "weight": 0.9},
        "train": {
            "epochs": 2,
            "batch_size": 32,
            "clip_norm": 1.0,
            "optimizer": {"name": "adamw", "lr": 0.003, "betas": [0.9, 0.99]},
            "schedule": {"name": "multistep", "milestones": [0.5, 0.75], "gamma": 0.2},
        },
        "checkpoints": {"every_epochs": 1, "keep": 1},
        "trackers": ["tensorboard"],
    },
    "trained": {
        "data": {"name": "digits", "label_fraction": 0.1},
        "teacher": {
            "train": {
                "student": {"model": "cnn", "norm": "group"},
                "method": "plain",
                "train": {"epochs": 2, "schedule": {"warmup_epochs": 1}},
            }
        },
        "student": "cnn",
        "method": "kd",
    },
    "ensemble": {
        "data": "digits",
        "teachers": {
            "big": {"ensemble": [MODEL_TEACHER, MODEL_TEACHER], "weights": [1, 2]},
            "solo": MODEL_TEACHER,
            "rule": {"virtual": {"kind": "smoothing", "correct": 0.9}},
        },
        "student": {"model": "mlp", "widths": [32]},
        "method": [{"name": "kd", "teacher": "big"}, {"name": "fitnet", "teacher": "solo"}],
    },
    "calibrated": {
        "data": "digits",
        "teacher": {"calibrated": MODEL_TEACHER, "temperature": "auto-nll"},
        "student": "cnn",
        "method": {"name": "kd", "reduction": "elementwise"},
    },
    "cached": {
        "data": {"name": "digits", "augment": ["flip"]},
        "teachers": {
            "big": {
                "cache": MODEL_TEACHER,
                "codec": {"name": "topk", "k": 4, "temperature": 2},
                "budget": "2GB",
            },
            "few": {"cache": {"ensemble": [MODEL_TEACHER]}, "codec": "float16", "inputs": "clean"},
        },
        "student": "cnn",
        "method": [
            {"name": "kd", "teacher": "big", "temperature": 2},
            {"name": "kd", "teacher": "few"},
        ],
        "train": {"views": 2},
    },
    "cohort": {
        "data": "digits",
        "student": {"models": ["cnn", {"model": "mlp", "widths": [16]}], "deploy": "ensemble"},
        "method": "dml",
        "train": {"epochs": 1, "ema": 0.99, "deploy": "ema"},
    },
    "forest": {
        "data": "digits",
        "teacher": {"sklearn": {"estimator": "RandomForestClassifier", "n_estimators": 5}},
        "student": [{"model": "cnn", "dropout": 0.1}],
        "method": "kd",
        "train": {"precision": "bfloat16", "views": 4},
    },
    "online": {
        "data": "digits",
        "teacher": {"online": "cnn"},
        "student": ["mlp", "mlp"],
        "method": [{"name": "kd", "teacher": "teacher"}, "dml"],
    },
    "snapshot": {
        "data": "digits",
        "teacher": {"snapshot": {"every": 2}},
        "student": {"model": "cnn"},
        "method": ["label_smoothing"],
        "output": "runs/here",
    },
}

SHIPPED = sorted(
    path
    for path in (Path(__file__).parents[2] / "recipes").rglob("*.yaml")
    if path.name not in ("study.yaml", "claims.yaml")
)
"""The recipes that come with Limbeck; studies have tests of their own."""
