"""Methods: one paper, one file. Asking for one by name finds it; see ``limbeck methods``."""

from limbeck.methods.base import Method, Runtime, Stage
from limbeck.methods.card import Card, Cost, Paper
from limbeck.methods.compose import MethodSum, as_methods, default_task_weight
from limbeck.methods.context import Context
from limbeck.methods.registry import all_methods, get_method, make_method, register_method

__all__ = [
    "Card",
    "Context",
    "Cost",
    "Method",
    "MethodSum",
    "Paper",
    "Runtime",
    "Stage",
    "all_methods",
    "as_methods",
    "default_task_weight",
    "get_method",
    "make_method",
    "register_method",
]
