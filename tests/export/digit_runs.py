"""Runs on the digits, quickly trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.recipe.running import run_recipe


def train(folder: Path, student: Any, *, epochs: int = 1, **more: Any) -> Path:
    """Train a student on the digits."""
    recipe = {
        "data": "digits",
        "student": student,
        "method": "plain",
        "train": {"epochs": epochs, "batch_size": 50},
        **more,
    }
    run_recipe(recipe, output=folder, quiet=True)
    return folder
