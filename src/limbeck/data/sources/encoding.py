"""Columns of a table as numbers, fitted on train rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MISSING = "(missing)"


class TableEncoder:
    """Turns rows of a table into float32 rows.

    Args:
        categorical: "onehot" or "ordinal".
        categorical_columns: numeric columns that are to be read as categories.
        text: the table was text (CSV): a column of words in some rows but of numbers in all that
            are fitted on is numeric, whatever other rows hold.

    Attributes:
        feature_names: one for each encoded column: "age", "age (missing)", "sex=Female".
    """

    def __init__(
        self, categorical: str, categorical_columns: Sequence[str] = (), text: bool = False
    ) -> None:
        self.categorical, self.text = categorical, text
        self.forced = set(categorical_columns)
        self.columns: list[str] = []
        self.numeric: dict[str, tuple[float, float, float, bool]] = {}
        self.categories: dict[str, list[str]] = {}
        self.feature_names: list[str] = []

    def fit(self, frame: pd.DataFrame) -> TableEncoder:
        """Learn medians, means, standard deviations and categories of these rows."""
        self.columns = [str(name) for name in frame.columns]
        if not self.columns:
            raise DataError("the table has no input columns beside the target")
        for name in self.columns:
            column = frame[name]
            if name not in self.forced and self._is_numeric(column):
                self._fit_numeric(name, _numbers(column))
            else:
                self.categories[name] = sorted(set(_words(column)))
                self.feature_names += self._category_names(name)
        return self

    def _is_numeric(self, column: pd.Series[Any]) -> bool:
        import pandas as pd
        from pandas.api.types import is_bool_dtype, is_numeric_dtype

        if is_bool_dtype(column):
            return False
        if is_numeric_dtype(column) or not self.text:
            return bool(is_numeric_dtype(column))
        known = column.dropna()
        return len(known) > 0 and bool(pd.to_numeric(known, errors="coerce").notna().all())

    def _fit_numeric(self, name: str, values: np.ndarray[Any, Any]) -> None:
        holes = np.isnan(values)
        median = float(np.median(values[~holes])) if not holes.all() else 0.0
        filled = np.where(holes, median, values)
        spread = float(filled.std())
        # a constant column says nothing: 0, not a division by 0
        self.numeric[name] = (median, float(filled.mean()), spread or 1.0, bool(holes.any()))
        self.feature_names += [name, f"{name} {MISSING}"] if holes.any() else [name]

    def _category_names(self, name: str) -> list[str]:
        if self.categorical == "ordinal":
            return [name]
        return [f"{name}={value}" for value in self.categories[name]]

    def describe(self) -> tuple[dict[str, Any], ...]:
        """Return in plain data what ``transform`` does to each column, in order.

        A number is ``(x - mean) / std``, with ``missing`` in place of a missing one, and followed
        by 1 or 0 for "was missing" where ``indicator`` says so. A category is one number for each
        of ``categories`` ("onehot"), or ``position / (how many - 1)`` and -1 for another
        ("ordinal").
        """
        found: list[dict[str, Any]] = []
        for name in self.columns:
            if name in self.numeric:
                keys = ("missing", "mean", "std", "indicator")
                of_it = dict(zip(keys, self.numeric[name], strict=True))
                found.append({"column": name, "kind": "number", **of_it})
            else:
                kind, known = self.categorical, self.categories[name]
                found.append({"column": name, "kind": kind, "categories": list(known)})
        return tuple(found)

    def transform(self, frame: pd.DataFrame) -> Tensor:
        """Return float32 ``[rows, features]``.

        Raises:
            DataError: a column of the fitted table is missing, or has words instead of numbers.
        """
        parts: list[np.ndarray[Any, Any]] = []
        for name in self.columns:
            if name not in frame.columns:
                raise DataError(f"the test table lacks the column {name!r}")
            if name in self.numeric:
                median, mean, spread, indicated = self.numeric[name]
                values = _numbers(frame[name])
                holes = np.isnan(values)
                parts.append((np.where(holes, median, values) - mean) / spread)
                parts += [holes.astype(np.float64)] if indicated else []
            else:
                parts += self._encode(name, _words(frame[name]))
        return torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))

    def _encode(self, name: str, words: list[str]) -> list[np.ndarray[Any, Any]]:
        known = {value: number for number, value in enumerate(self.categories[name])}
        codes = np.array([known.get(word, -1) for word in words], dtype=np.float64)
        if self.categorical == "ordinal":
            return [np.where(codes < 0, -1.0, codes / max(len(known) - 1, 1))]
        return [(codes == number).astype(np.float64) for number in range(len(known))]


def read_targets(column: pd.Series[Any], task: str, strip: str = "") -> list[Any]:
    """Return the target of each row: class (whole number or word) or number; None where missing.

    Raises:
        DataError: a word where a number is expected, or a class that is a number but not whole.
    """
    empty = column.isna().tolist()
    if task == "regression":
        values = _numbers(column).tolist()
    else:
        values = [_class_name(value, strip) for value in column.tolist()]
        for row, (hole, value) in enumerate(zip(empty, values, strict=True)):
            if isinstance(value, float) and not hole:
                raise DataError(
                    f"column {column.name!r}, row {row}: label {value:g} is not a whole number "
                    "(task='regression' for real values)"
                )
    return [None if hole else value for hole, value in zip(empty, values, strict=True)]


def _class_name(value: Any, strip: str) -> Any:
    if isinstance(value, str):
        return value.strip(" " + strip).strip()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _numbers(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Return float64 with NaN for missing values; infinite ones are refused."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    words = np.isnan(values) & ~column.isna().to_numpy()
    if words.any():
        row = int(words.nonzero()[0][0])
        where = f"column {column.name!r}, row {column.index[row]}"  # of the file, not of a part
        raise DataError(f"{where}: {column.iloc[row]!r} is not a number")
    if np.isinf(values).any():
        row = int(np.isinf(values).nonzero()[0][0])
        where = f"column {column.name!r}, row {column.index[row]}"
        raise DataError(f"{where}: the value is infinite")
    return np.asarray(values)


def _words(column: pd.Series[Any]) -> list[str]:
    return [
        MISSING if hole else str(_class_name(value, ""))
        for hole, value in zip(column.isna().tolist(), column.tolist(), strict=True)
    ]
