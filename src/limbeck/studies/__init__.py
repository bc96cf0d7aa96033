"""Studies: a grid of recipes with seeds and trials, its statistics and its verdicts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.studies.loading import load_study as load_study
    from limbeck.studies.loading import study_schema as study_schema
    from limbeck.studies.results import StudyResults as StudyResults
    from limbeck.studies.running import StudyInterrupted as StudyInterrupted
    from limbeck.studies.running import run_study as run_study

_HOME = {
    "StudyInterrupted": "running",
    "StudyResults": "results",
    "load_study": "loading",
    "run_study": "running",
    "study_schema": "loading",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    """Find a name when it is used: statistics alone must not bring the engine with them."""
    if name in _HOME:
        return getattr(importlib.import_module(f"limbeck.studies.{_HOME[name]}"), name)
    raise AttributeError(f"module 'limbeck.studies' has no attribute {name!r}")
