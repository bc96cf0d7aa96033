"""Limbeck: knowledge distillation on PyTorch.

Four ways in, each the previous plus one import: an equation (``limbeck.functional.kd``), a method
in a loop of your own (``limbeck.KD()(student_logits, teacher_logits, targets)``; one that reads
features or has adapters: ``limbeck.Distillation``), ``limbeck.distill(...)``, and a recipe on the
command line (``limbeck run recipe.yaml``).

Names are imported when they are first used, so that ``import limbeck`` is quick. Every registered
method is here under its class name: ``limbeck.KD``, ``limbeck.FitNet`` and so on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from limbeck._version import __version__

if TYPE_CHECKING:
    from limbeck import functional as functional
    from limbeck.api import Run as Run
    from limbeck.api import distill as distill
    from limbeck.api import load_run as load_run
    from limbeck.data import Batch as Batch
    from limbeck.data import DataBundle as DataBundle
    from limbeck.data import load_data as load_data
    from limbeck.engine.settings import Checkpoints as Checkpoints
    from limbeck.engine.settings import Optimizer as Optimizer
    from limbeck.engine.settings import Schedule as Schedule
    from limbeck.engine.settings import Train as Train
    from limbeck.errors import LimbeckError as LimbeckError
    from limbeck.integrations import Distillation as Distillation
    from limbeck.methods import Card as Card
    from limbeck.methods import Method as Method
    from limbeck.methods import all_methods as all_methods
    from limbeck.methods import register_method as register_method
    from limbeck.models import build_model as build_model
    from limbeck.reports import write_report as write_report
    from limbeck.taps import Outputs as Outputs
    from limbeck.teachers import Teacher as Teacher


_HOME = {
    "Batch": "limbeck.data",
    "Card": "limbeck.methods",
    "Checkpoints": "limbeck.engine.settings",
    "DataBundle": "limbeck.data",
    "Distillation": "limbeck.integrations",
    "LimbeckError": "limbeck.errors",
    "Method": "limbeck.methods",
    "Optimizer": "limbeck.engine.settings",
    "Outputs": "limbeck.taps",
    "Run": "limbeck.api",
    "Schedule": "limbeck.engine.settings",
    "Teacher": "limbeck.teachers",
    "Train": "limbeck.engine.settings",
    "all_methods": "limbeck.methods",
    "build_model": "limbeck.models",
    "distill": "limbeck.api",
    "load_data": "limbeck.data",
    "load_run": "limbeck.api",
    "register_method": "limbeck.methods",
    "write_report": "limbeck.reports",
}

__all__ = [
    "__version__",
    "functional",
    *_HOME,
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "functional":
        return importlib.import_module("limbeck.functional")
    if name[:1].isupper():
        from limbeck.methods import all_methods

        for method in all_methods().values():
            if method.__name__ == name:
                return method
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")


def __dir__() -> list[str]:
    from limbeck.methods import all_methods

    return sorted([*__all__, *(method.__name__ for method in all_methods().values())])
