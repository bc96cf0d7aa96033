"""Texts with a label each: read, tokenized and padded into memory."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from limbeck.data.augment import Augment
from limbeck.data.batch import IGNORE
from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.registry import register_data
from limbeck.data.samples import TensorSamples
from limbeck.data.sources.common import after_cuts, common_options, of_cuts
from limbeck.data.sources.text_rows import Column, Rows, read_rows
from limbeck.data.splits import Splits, make_splits
from limbeck.data.tokenizer import train_vocabulary
from limbeck.data.vocabulary import Vocabulary, load_vocabulary
from limbeck.errors import DataError, RecipeError, unknown

TASKS = ("classification", "regression")
TRAIN = "train"


@register_data("text")
def text(
    *,
    path: str,
    text: str | int | Sequence[str | int] = "text",
    target: str | int = "label",
    validation_path: str | None = None,
    test_path: str | None = None,
    task: str = "classification",
    header: bool = True,
    separator: str | None = None,
    quoting: bool = True,
    tokenizer: str = TRAIN,
    vocab_size: int = 8000,
    algorithm: str = "wordpiece",
    lowercase: bool = True,
    max_length: int = 128,
    trim: bool = True,
    test: float | int = 0.2,
    **common: Unpack[Common],
) -> DataBundle:
    """Texts, or pairs of texts, each with a class or a number. Needs transformers.

    Inputs are token numbers and their mask (of pairs, segments too), padded to the longest text.
    The vocabulary goes to ``hf/`` networks that are built from a configuration, and the tokenizer
    to the student's folder. A row without a label is an unlabelled sample.

    Args:
        path: .csv, .tsv, .jsonl, .parquet, or .txt with "label text" lines; also .gz.
        text: column of the text, by name or number (0 first); a list of two for pairs.
        target: column of the label.
        validation_path: a separate file for validation; None: cut from the file.
        test_path: a separate file for test; None: cut from the file.
        task: "classification" or "regression".
        header: whether the first line names the columns (CSV, TSV).
        separator: between values; None: by the file's ending; in .txt the first white space.
        quoting: whether quotation marks hold values together (CSV, TSV).
        tokenizer: a folder or a hub id; "train": trained on the texts of the train part alone.
        vocab_size: most tokens of a trained tokenizer.
        algorithm: of a trained tokenizer: "wordpiece" or "bpe".
        lowercase: whether a trained tokenizer drops case.
        max_length: most tokens of a text; longer ones are cut.
        trim: whether each batch is cut to its longest text (rounded up to a multiple of 8).
        test: number or share of samples for test where there is no test file.
        **common: options of every data set.

    Raises:
        DataError: a missing file or column, a row that cannot be read, a tokenizer that cannot be
            had, or a test class that train has not.
        RecipeError: an unknown task or algorithm, more than two columns of text, a bad length.
    """
    if task not in TASKS:
        raise RecipeError(unknown("task", task, TASKS))
    files = {"train": path, "validation": validation_path, "test": test_path}
    return bundle_of_rows(
        lambda: {
            part: read_rows(Path(file), header=header, separator=separator, quoting=quoting)
            for part, file in files.items()
            if file is not None
        },
        text=text,
        target=target,
        task=task,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        algorithm=algorithm,
        lowercase=lowercase,
        max_length=max_length,
        trim=trim,
        test=test,
        common=common,
        name=Path(path).name,
    )


def bundle_of_rows(
    read: Callable[[], dict[str, Rows]],
    *,
    text: str | int | Sequence[str | int],
    target: str | int,
    task: str,
    tokenizer: str,
    vocab_size: int,
    algorithm: str,
    lowercase: bool,
    max_length: int,
    trim: bool,
    test: float | int,
    common: Any,
    name: str,
) -> DataBundle:
    """Return the data of rows that ``read`` gives for "train" and perhaps other parts.

    The rest is as in ``text``; nothing is read before the options are found good.
    """
    columns = _columns(text)
    if isinstance(max_length, bool) or max_length < 2:
        raise RecipeError(f"max_length: expected a whole number of at least 2, got {max_length}")
    rows = read()
    texts = {part: [found.texts(column) for column in columns] for part, found in rows.items()}
    labels = {part: _labels(found, target, task) for part, found in rows.items()}
    classes = sorted({one for one in labels["train"] if one is not None}, key=_order)
    targets = {part: _targets(rows[part], found, task, classes) for part, found in labels.items()}
    options = common_options(common)
    if options.get("augment"):
        raise RecipeError("augment: texts have no pixels to augment; leave it out")
    splits = _splits(targets, options, test)
    if tokenizer == TRAIN:
        chosen = splits.train.tolist()
        vocabulary = train_vocabulary(
            [column[place] for place in chosen for column in texts["train"]],
            vocab_size,
            algorithm=algorithm,
            lowercase=lowercase,
            max_length=max_length,
        )
    else:
        vocabulary = load_vocabulary(tokenizer)
    inputs, notes = _inputs(vocabulary, texts, max_length)
    samples = {part: TensorSamples(inputs[part], targets[part]) for part in rows}
    bundle = bundle_from(
        samples["train"],
        samples.get("validation"),
        samples.get("test"),
        task=task,
        num_classes=len(classes) if task == "classification" else 1,
        class_names=[str(name) for name in classes] if task == "classification" else (),
        splits=splits,
        notes=(*_cut(rows), *notes),
        name=name,
        vocabulary=vocabulary,
        **after_cuts(options),
    )
    if not trim:
        return bundle
    trimmed = Augment(["trim"])
    return dataclasses.replace(bundle, augment_train=trimmed, augment_eval=trimmed)


def _columns(text: Any) -> list[Column]:
    columns = [text] if isinstance(text, str | int) else list(text)
    if len(columns) not in (1, 2):
        raise RecipeError(f"text: expected one column, or two for pairs, got {len(columns)}")
    return columns


def _labels(rows: Rows, target: Column, task: str) -> list[Any]:
    """Return a class (whole number or word) or number for each row; None where there is none."""
    found: list[Any] = []
    for number, value in enumerate(rows.column(target)):
        if isinstance(value, str):
            value = value.strip()
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            found.append(None)
            continue
        try:
            found.append(float(value) if task == "regression" else _class(value))
        except ValueError as error:
            raise DataError(
                f"{rows.path}, row {number}, column {target!r}: {value!r} is not a "
                + ("number" if task == "regression" else "class (task='regression' for numbers)")
            ) from error
    return found


def _class(value: Any) -> Any:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    text = str(value)
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def _order(name: Any) -> tuple[bool, Any]:
    return (isinstance(name, str), name)


def _targets(rows: Rows, labels: Sequence[Any], task: str, classes: Sequence[Any]) -> Tensor:
    if task == "regression":
        values = [math.nan if value is None else value for value in labels]
        return torch.tensor(values, dtype=torch.float32)[:, None]
    numbers = {name: number for number, name in enumerate(classes)}
    for row, value in enumerate(labels):
        if value is not None and value not in numbers:
            raise DataError(f"{rows.path}, row {row}: class {value!r} does not occur in train")
    return torch.tensor([IGNORE if value is None else numbers[value] for value in labels])


def _splits(targets: dict[str, Tensor], options: dict[str, Any], test: float | int) -> Splits:
    return make_splits(
        targets["train"],
        validation=options["validation_size"],
        test=None if "test" in targets else test,
        validation_targets=targets.get("validation"),
        test_targets=targets.get("test"),
        **of_cuts(options),
    )


def _inputs(
    vocabulary: Vocabulary, texts: dict[str, list[list[str]]], max_length: int
) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Return the inputs of every part, all of one length, and what to say about them."""
    encoded = {}
    for part, columns in texts.items():
        pairs = columns[1] if len(columns) > 1 else None
        try:
            encoded[part] = vocabulary.encode(columns[0], pairs, max_length)
        except DataError as error:
            raise DataError(f"{part}, {error}") from None
    lengths = [len(row["input_ids"]) for rows in encoded.values() for row in rows]
    full = sum(length == max_length for length in lengths)
    notes = [f"{vocabulary.size:,} tokens known, {sum(lengths) / len(lengths):.1f} a text"]
    if full:
        notes.append(f"{full:,} of {len(lengths):,} texts reach max_length {max_length}")
    padded = {part: vocabulary.padded(rows, max(lengths)) for part, rows in encoded.items()}
    return padded, tuple(notes)


def _cut(rows: dict[str, Rows]) -> tuple[str, ...]:
    cut = [part for part in ("validation", "test") if part not in rows]
    return (f"{' and '.join(cut)} cut from the file",) if cut else ()
