"""Forms that strangers read and write: arrays, frames with named columns, plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_arrays(inputs: Any) -> Any:
    """Return inputs with every tensor as a NumPy array; half precision as float32."""
    if isinstance(inputs, Tensor):
        half = inputs.dtype in (torch.bfloat16, torch.float16)
        return (inputs.float() if half else inputs).cpu().numpy()
    if isinstance(inputs, Mapping):
        return {key: as_arrays(value) for key, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return type(inputs)(as_arrays(value) for value in inputs)
    return inputs


def as_float64(said: Any) -> np.ndarray[Any, Any]:
    """Return a tensor, array or nested list of numbers as a float64 array."""
    if isinstance(said, Tensor):
        return said.detach().cpu().double().numpy()
    return np.asarray(said, dtype=np.float64)


def column_order(estimator: Any, feature_names: Sequence[str]) -> tuple[int, ...] | None:
    """Return which column of the data each of the estimator's features is.

    None where the order is the same already, or where it cannot be known: the estimator was not
    fitted on named columns, or the data's have other names.
    """
    wanted = [str(one) for one in getattr(estimator, "feature_names_in_", ())]
    have = list(feature_names)
    if wanted == have or len(set(have)) < len(have) or sorted(wanted) != sorted(have):
        return None
    return tuple(have.index(one) for one in wanted)


def with_names(estimator: Any, table: Any) -> Any:
    """Return the table as a data frame where the estimator was fitted on named columns.

    So it selects columns by name as it was taught to, and does not warn about missing names.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or not isinstance(table, np.ndarray) or table.shape[1:] != (len(names),):
        return table
    try:
        import pandas as pd
    except ImportError:
        return table
    return pd.DataFrame(table, columns=list(names))
