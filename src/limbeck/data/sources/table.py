"""Tables: CSV and Parquet files with a target column."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.registry import register_data
from limbeck.data.sources.common import after_cuts, common_options, of_cuts, require
from limbeck.data.sources.encoding import TableEncoder, read_targets
from limbeck.data.splits import make_splits
from limbeck.errors import DataError, RecipeError, unknown

if TYPE_CHECKING:
    import pandas as pd


@register_data("table")
def table(
    *,
    path: str,
    target: str | int,
    test_path: str | None = None,
    task: str = "classification",
    header: bool = True,
    separator: str | None = None,
    categorical: str = "onehot",
    categorical_columns: Sequence[str | int] = (),
    drop: Sequence[str | int] = (),
    missing: Sequence[str] = ("?",),
    strip: str = "",
    test: float | int = 0.2,
    **common: Unpack[Common],
) -> DataBundle:
    """A table: one row a sample. Everything is fitted on the train part alone.

    Numeric columns are standardised; a missing number becomes the train median, and a column that
    lacks some in train gets an indicator. Categories are one column each ("onehot") or one
    number in [0, 1] ("ordinal"); a missing one is a category of its own, an unseen one is no
    category (zeros, or -1). Samples whose target is missing have no label. Needs pandas.

    Args:
        path: CSV (.csv, .tsv, also .gz) or Parquet file.
        target: column of the target: its name, or its number (0 first, -1 last).
        test_path: a separate test file; None: cut from the file.
        task: "classification" or "regression".
        header: whether the first line names the columns (CSV).
        separator: between values; None: tab for .tsv, else comma.
        categorical: "onehot" or "ordinal".
        categorical_columns: columns of numbers that are categories.
        drop: columns that are not used.
        missing: words that mean a missing value, beside the empty one and NA.
        strip: characters taken off both ends of class names (beside spaces).
        test: number or share of samples for test where there is no test file.
        **common: options of every data set.

    Raises:
        DataError: a missing file or column, or a test class that train has not.
    """
    if task not in ("classification", "regression"):
        raise RecipeError(unknown("task", task, ["classification", "regression"]))
    if categorical not in ("onehot", "ordinal"):
        raise RecipeError(unknown("categorical", categorical, ["onehot", "ordinal"]))
    frames = [_read(Path(path), header, separator, missing)]
    if test_path is not None:
        frames.append(_read(Path(test_path), header, separator, missing))
    column = _column(frames[0], target, header)
    answers = [read_targets(_answers(frame, column), task, strip) for frame in frames]
    classes = sorted({name for name in answers[0] if name is not None}, key=_order)
    targets = [_as_tensor(values, task, classes) for values in answers]
    notes = [f"validation{'' if test_path else ' and test'} cut from the file"]
    if header and _reads_like_values(frames[0]):
        notes.append(f"the first line was taken for names ({_first_names(frames[0])})")
    options = common_options(common)
    splits = make_splits(
        targets[0],
        validation=options["validation_size"],
        test=None if test_path else test,
        test_targets=targets[1] if test_path else None,
        **of_cuts(options),
    )
    unused = [column, *(_column(frames[0], name, header) for name in drop)]
    inputs = [frame.drop(columns=unused, errors="ignore") for frame in frames]
    _only_single_values(inputs[0])
    encoder = TableEncoder(
        categorical,
        [_column(frames[0], name, header) for name in categorical_columns],
        text=Path(path).suffix != ".parquet",
    )
    encoder.fit(inputs[0].iloc[splits.train.numpy()])
    encoded = [encoder.transform(frame) for frame in inputs]
    return bundle_from(
        (encoded[0], targets[0]),
        test=(encoded[1], targets[1]) if test_path else None,
        task=task,
        num_classes=len(classes) if task == "classification" else 1,
        class_names=[str(name) for name in classes] if task == "classification" else (),
        splits=splits,
        **after_cuts(options),
        feature_names=tuple(encoder.feature_names),
        encoding=encoder.describe(),
        notes=tuple(notes),
        name=Path(path).name,
    )


def _read(path: Path, header: bool, separator: str | None, missing: Sequence[str]) -> pd.DataFrame:
    require("pandas", "pandas", "tables")
    import pandas as pd

    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"no file {path}: expected a CSV or Parquet table (data.path=)")
    try:
        if path.suffix == ".parquet":
            require("pyarrow", "pyarrow", "tables")
            frame = pd.read_parquet(path)
        else:
            tabs = ".tsv" in path.suffixes
            frame = pd.read_csv(
                path,
                sep=separator or ("\t" if tabs else ","),
                header=0 if header else None,
                na_values=list(missing),
                skipinitialspace=True,
                low_memory=False,  # one kind a column, not one a chunk
            )
    except (ValueError, OSError, EOFError, zlib.error) as error:
        line = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as a table: {line}") from error
    if not len(frame):
        raise DataError(f"{path} is empty: expected at least one row")
    frame.columns = [str(name) for name in frame.columns]
    return frame


def _only_single_values(frame: pd.DataFrame) -> None:
    """Refuse columns of lists, images and bytes, which Parquet may have."""
    for name in frame.columns:
        known = frame[name].dropna()
        value: Any = known.iloc[0] if len(known) else None
        if isinstance(value, bytes | dict | list) or getattr(value, "ndim", 0) > 0:
            raise DataError(
                f"column {name!r} holds more than one value a row (images or lists): "
                "data: {name: hf-dataset} reads such Parquet files; or data.drop= it"
            )


def _column(frame: pd.DataFrame, name: str | int, header: bool) -> str:
    """Return a column's name from its name or number."""
    names = list(frame.columns)
    if isinstance(name, int) and not isinstance(name, bool):
        if not -len(names) <= name < len(names):
            raise DataError(f"column {name}: the table has {len(names)} columns")
        return str(names[name])
    if name in names:
        return str(name)
    if not header:
        raise DataError(
            f"unknown column {name!r}: without a header columns are numbers, 0 to "
            f"{len(names) - 1} (-1: the last)"
        )
    hint = ""
    if _reads_like_values(frame):
        hint = f"; the first line reads like values ({_first_names(frame)}): header: false?"
    raise DataError(unknown("column", str(name), names) + hint)


def _reads_like_values(frame: pd.DataFrame) -> bool:
    """Whether names are words and numbers mixed, as those of a table without a header are."""
    numbers = [name.replace(".", "", 1).lstrip("-").isdigit() for name in frame.columns]
    return any(numbers) and not all(numbers)


def _first_names(frame: pd.DataFrame) -> str:
    return ", ".join([*frame.columns[:3], "…"])


def _answers(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    if column not in frame.columns:
        raise DataError(f"the test table lacks the column {column!r}")
    return frame[column]


def _order(name: Any) -> tuple[bool, Any]:
    return (isinstance(name, str), name)


def _as_tensor(values: Sequence[Any], task: str, classes: Sequence[Any]) -> torch.Tensor:
    from limbeck.data.batch import IGNORE

    if task == "regression":
        rows = [float("nan") if value is None else float(value) for value in values]
        return torch.tensor(rows, dtype=torch.float32)[:, None]
    numbers = {name: number for number, name in enumerate(classes)}
    for row, value in enumerate(values):
        if value is not None and value not in numbers:
            raise DataError(
                f"test, sample {row}: class {value!r} does not occur in train"
                + _strip_hint(value, classes)
            )
    return torch.tensor([IGNORE if value is None else numbers[value] for value in values])


def _strip_hint(value: Any, classes: Sequence[Any]) -> str:
    """Return what to strip where test writes the classes of train with a sign more at an end."""
    for name in classes:
        if isinstance(value, str) and isinstance(name, str) and name and name in value:
            before, _, after = value.partition(name)
            extra = "".join(dict.fromkeys(before + after))
            return f", {name!r} does; strip: {extra!r} takes the rest off"
    return ""
