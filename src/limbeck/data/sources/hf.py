"""Hugging Face data sets: from a folder, from files, or from the hub."""

from __future__ import annotations

import glob
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from limbeck.data.bundle import Common, DataBundle
from limbeck.data.registry import register_data
from limbeck.data.sources.common import require
from limbeck.data.sources.hf_columns import from_hf
from limbeck.errors import DataError, LimbeckError, RecipeError, nearest

FILES = {".parquet": "parquet", ".arrow": "arrow"}


@register_data("hf-dataset")
def hf_dataset(
    *,
    path: str | None = None,
    id: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    unlabelled_split: str | None = None,
    image: str | None = None,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    task: str | None = None,
    num_classes: int | None = None,
    size: int | Sequence[int] | None = None,
    mode: str = "RGB",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    test: float | int = 0.2,
    memory: bool | None = None,
    num_workers: int = 0,
    **common: Unpack[Common],
) -> DataBundle:
    """A Hugging Face data set of images or numbers: saved, in Parquet or Arrow files, or by id.

    Splits named train, validation (val, valid, dev) and test are used as such; missing ones are
    cut from train. No code of a data set is ever run. Needs the packages datasets and, for
    images, Pillow.

    Args:
        path: a folder written by ``save_to_disk``; a folder of files such as
            ``train-00000.parquet``, ``test-00000.parquet``; a .parquet or .arrow file or a glob of
            these (train alone).
        id: instead of ``path``: a data set on the hub, or in the cache of an earlier download.
        config: of an ``id``: which of its configurations.
        revision: of an ``id``: branch, tag or commit.
        train_split: split to train on; None: "train", or the only one.
        validation_split: None: one of the names above where there is one.
        test_split: likewise.
        unlabelled_split: further train samples whose labels, if any, are not used.
        image: column of the images; None: the only one.
        columns: columns of numbers, or of lists of numbers of one length; None: all but the label
            where there is no image. Several numbers become one row of inputs, standardised by the
            train part; one list becomes a tensor; several lists a mapping of tensors.
        label: column of the label; None: one named label, labels, target, targets or y, or the
            only one that holds classes.
        task: "classification", "multilabel" or "regression"; None: by the label column.
        num_classes: None: counted in train, where the label column does not say.
        size: side in pixels, or (height, width), that images are resized to; None: they all have
            one size.
        mode: "RGB" or "L" (grey).
        mean: statistics of pixels in [0, 1], one a channel; None: (0.5, ...).
        std: likewise; None: (0.25, ...).
        test: number or share of samples for test where there is no such split.
        memory: whether pixels are held in memory; None: where they take at most 2 GiB and half of
            what is free. What is not held is decoded as it is read: the same bits, slower.
        num_workers: processes that decode ahead, for images that are not held in memory.
        **common: options of every data set.

    Raises:
        DataError: nothing there, no such split or column, text (which ``data: {name: text}``
            reads), or an image that cannot be read: each named.
    """
    if (path is None) == (id is None):
        raise RecipeError("expected either data.path= (on disk) or data.id= (on the hub)")
    require("datasets", "datasets", "data")
    for key, value in (("config", config), ("revision", revision)):
        if value is not None and id is None:
            raise RecipeError(f"{key}: belongs to data.id=, not to data.path=")
    found = _from_hub(id, config, revision) if id is not None else _from_disk(str(path))
    return from_hf(
        found,
        train_split=train_split,
        validation_split=validation_split,
        test_split=test_split,
        unlabelled_split=unlabelled_split,
        image=image,
        columns=columns,
        label=label,
        task=task,
        num_classes=num_classes,
        size=size,
        mode=mode,
        mean=mean,
        std=std,
        test=test,
        memory=memory,
        num_workers=num_workers,
        name=id or Path(str(path)).name,
        **common,
    )


def _from_hub(id: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    import datasets

    with _one_line(f"{id!r} cannot be had from the hub, nor from the cache of a download"):
        found: Mapping[str, Any] = datasets.load_dataset(id, config, revision=revision)
    return found


def _from_disk(path: str) -> Any:
    import datasets

    place = Path(path).expanduser()
    if place.is_dir():
        saved = any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))
        with _one_line(f"{place} cannot be read as a data set"):
            if saved:
                return datasets.load_from_disk(str(place))
            _some_files(place)
            return datasets.load_dataset(str(place))
    files = [str(place)] if place.is_file() else sorted(glob.glob(str(place)))  # noqa: PTH207
    kinds = {FILES.get(Path(file).suffix) for file in files}
    if not files:
        near = place.parent.is_dir() and nearest(
            place.name, [p.name for p in place.parent.iterdir()]
        )
        hint = f" (did you mean {near!r}?)" if near else ""
        raise DataError(
            f"no file or folder {place}{hint}: expected what save_to_disk wrote, or .parquet or "
            ".arrow files; a data set on the hub is data.id="
        )
    if len(kinds) > 1 or None in kinds:
        raise DataError(f"{place}: expected .parquet or .arrow files, got {Path(files[0]).name}")
    with _one_line(f"{place} cannot be read as a data set"):
        return datasets.load_dataset(str(kinds.pop()), data_files={"train": files})


def _some_files(folder: Path) -> None:
    if not any(path.suffix in FILES for path in folder.rglob("*")):
        raise DataError(
            f"{folder} holds no data set: expected what save_to_disk wrote, or .parquet or .arrow "
            "files (folders of images are data: {name: images})"
        )


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn whatever reading raises into one line; draw bars on a terminal only.

    The hub's client says each of its tries to reach it; what it says last is enough.
    """
    import datasets

    client, drawn = logging.getLogger("huggingface_hub"), datasets.is_progress_bar_enabled()
    level = client.level
    client.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    except LimbeckError:
        raise
    except Exception as error:  # of many libraries; all of them are about these files
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else None
        line = " ".join(str(cause or error).split()) or type(error).__name__
        raise DataError(f"{what}: {line}") from error
    finally:
        client.setLevel(level)
        if drawn:
            datasets.enable_progress_bars()
