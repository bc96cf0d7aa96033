"""Tensors inside what modules take and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def tensor_in(value: Any) -> Tensor | None:
    """Return ``value`` if it is a tensor, else the first tensor of a tuple, list or mapping."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            found = tensor_in(item)
            if found is not None:
                return found
    return None


def replace_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return ``value`` with the tensor that ``tensor_in`` finds replaced by ``change`` of it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            if tensor_in(item) is not None:
                copied: Any = dict(value) if type(value) is dict else type(value)(**value)
                copied[key] = replace_tensor(item, change)
                return copied
    if isinstance(value, list | tuple):
        items = list(value)
        for position, item in enumerate(items):
            if tensor_in(item) is not None:
                items[position] = replace_tensor(item, change)
                break
        named = hasattr(value, "_fields")  # a named tuple takes its items one by one
        return type(value)(*items) if named else type(value)(items)
    return value
