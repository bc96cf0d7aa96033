"""From a run's folder to an exported one: written aside, checked, timed, then put in its place."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck._version import __version__
from limbeck.data.batch import Batch
from limbeck.data.bundle import DataBundle
from limbeck.engine.run_folder import RunFolder
from limbeck.errors import ExportError, ModelError, unknown
from limbeck.export.check import compare, refuse_if_different
from limbeck.export.formats import Asked, Format
from limbeck.export.model_card import model_card
from limbeck.export.preprocessing import FILE as PREPROCESSING
from limbeck.export.preprocessing import preprocessing
from limbeck.export.served import Forward
from limbeck.export.subject import Subject, make_subject
from limbeck.export.telling import summary_lines
from limbeck.export.to_int8 import INT8
from limbeck.export.to_onnx import ONNX
from limbeck.export.to_safetensors import SAFETENSORS
from limbeck.export.to_torch_export import TORCH_EXPORT
from limbeck.files import check_place, storage_errors, sync_folder, write_json, write_text
from limbeck.models import load_model, measure_latency
from limbeck.recipe.overrides import Overrides
from limbeck.recipe.running import data_of, finished_run
from limbeck.recipe.telling import tell

FORMATS = {form.name: form for form in (SAFETENSORS, ONNX, TORCH_EXPORT, INT8)}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A student that left.

    Attributes:
        folder: the exported folder.
        file: its main file.
        facts: what export.json says: the check, sizes, latencies, what was decided.
    """

    folder: Path
    file: Path
    facts: Mapping[str, Any]


def export_run(
    folder: str | Path,
    to: str,
    overrides: Overrides = (),
    *,
    output: str | Path | None = None,
    samples: int = 10_000,
    calibration: int = 512,
    with_preprocessing: bool = False,
    allow_code: bool = False,
    say: Say = tell,
) -> Exported:
    """Export the student of a finished run that a recipe can say.

    Args:
        folder: the run's folder.
        to: "safetensors", "onnx", "torch-export" or "int8".
        overrides: changes to the run's recipe, where its data have moved: ``data.root=...``.
        output: the exported folder; None: ``RUN/export/<to>``.
        samples: samples of the test part that the export is checked on (all, where fewer).
        calibration: training samples that int8 reads ranges from.
        with_preprocessing: build scaling and normalisation into the graph.
        allow_code: also import models from code that is not installed.
        say: gets each line for a person.

    Raises:
        LimbeckError: in one line; nothing is left behind.
    """
    run = finished_run(folder)
    form = _format(to)
    place = _place(run, form, output)
    here = f"run = limbeck.load_run({str(run.path)!r}, student=..., data=...)"
    data = data_of(run, f"export it in Python: {here}; run.export({to!r})", overrides)
    try:
        student = load_model(run.student, allow_code=allow_code)
    except ModelError as error:
        raise ExportError(f"{error}; in Python: {here}; run.export({to!r})") from error
    return export_student(
        run,
        student,
        data,
        to,
        output=place,
        samples=samples,
        calibration=calibration,
        with_preprocessing=with_preprocessing,
        say=say,
    )


def export_student(
    run: RunFolder,
    student: nn.Module,
    data: DataBundle,
    to: str,
    *,
    output: str | Path | None = None,
    forward: Forward | None = None,
    samples: int = 10_000,
    calibration: int = 512,
    with_preprocessing: bool = False,
    say: Say = tell,
) -> Exported:
    """Export a student that is in memory, with its run's data; see :func:`export_run`.

    Args:
        run: the folder of its run.
        student: the trained module; it is not changed.
        data: what it was trained and tested on.
        forward: ``forward(student, batch)`` where it is not called as ``student(inputs)``.
    """
    form = _format(to)
    place = _place(run, form, output)
    subject = make_subject(
        run,
        student,
        data,
        forward=forward,
        with_preprocessing=with_preprocessing,
        samples=samples,
        calibration=calibration,
    )
    if form.waits:
        say(form.waits)
    with _put_in(place) as aside, torch.no_grad():
        facts = _write_all(subject, form, aside)
    for line in summary_lines(facts, place):
        say(line)
    return Exported(place, place / facts["file"], facts)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ExportError("to: " + unknown("format", name, FORMATS))
    FORMATS[name].check_packages()
    return FORMATS[name]


def _place(run: RunFolder, form: Format, output: str | Path | None) -> Path:
    place = run.path / "export" / form.name if output is None else Path(output)
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise ExportError(
            f"output: {place} is there already; remove it or choose another folder (--output)"
        )
    check_place(place)
    return place


@contextmanager
def _put_in(place: Path) -> Iterator[Path]:
    """Give a folder aside; where all goes well it becomes ``place``, else nothing is left."""
    aside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    fresh = not place.parent.exists()
    try:
        with storage_errors(place):
            aside.mkdir(parents=True)
        yield aside
        with storage_errors(place):
            aside.replace(place)
            sync_folder(place.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if fresh and not place.exists():
            with suppress(OSError):
                place.parent.rmdir()


def _write_all(subject: Subject, form: Format, folder: Path) -> dict[str, Any]:
    with storage_errors(folder):
        written = form.write(subject, folder)
    check = compare(subject, written.ask)
    refuse_if_different(check, form)
    facts = {
        "format": 1,
        "limbeck": __version__,
        "run": subject.run.summary.get("name"),
        "to": form.name,
        "runtime": form.runtime,
        "file": written.file.name,
        "with_preprocessing": subject.baked,
        "check": check.as_dict(),
        "bytes": {
            "before": (subject.run.student / "model.safetensors").stat().st_size,
            "after": written.file.stat().st_size,
        },
        "latency": _latency(subject, written.ask),
        "notes": dict(written.notes),
    }
    contract = preprocessing(subject)
    write_json(folder / "export.json", facts)
    write_json(folder / PREPROCESSING, contract)
    write_text(folder / "README.md", model_card(subject, form, facts, contract))
    return facts


def _latency(subject: Subject, ask: Callable[[Any], Any]) -> dict[str, Any]:
    """Return medians in milliseconds for one sample and for a batch, before and after."""
    batch = subject.checked[0]
    return {
        "threads": torch.get_num_threads(),
        "repeats": _REPEATS,
        "ms": {
            str(size): _medians({"before": subject.served, "after": Asked(ask)}, batch, size)
            for size in sorted({1, len(batch)})
        },
    }


_REPEATS = 30


def _medians(models: Mapping[str, nn.Module], batch: Batch, size: int) -> dict[str, float]:
    """Time the models turn by turn, so that a busy machine is busy for both."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(_REPEATS + 3):  # three to warm up
        for name, model in models.items():
            once = measure_latency(model, batch.inputs, repeats=1, warmup=0, batch=size)
            if turn >= 3:
                times[name].append(once)
    return {name: statistics.median(found) for name, found in times.items()}
