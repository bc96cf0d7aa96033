"""``limbeck.distill``: a teacher, a student and data in; the best student and a Run out."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from limbeck.data import DataBundle, bundle_from, from_hf, load_data
from limbeck.data.sources.hf_columns import is_hf, parts_of, transforms_itself
from limbeck.engine.plan import Plan
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.running import Outcome, run_plan
from limbeck.engine.settings import Checkpoints, Optimizer, Schedule, Train
from limbeck.errors import DataError, RecipeError, unknown
from limbeck.methods import Method, MethodSum, as_methods, default_task_weight
from limbeck.models import Cohort, SharedWidths, build_model, load_model, model_spec
from limbeck.models.hf import with_vocabulary
from limbeck.recipe import describe_plan
from limbeck.recipe.running import headlines
from limbeck.recipe.telling import tell
from limbeck.teachers import as_teachers

if TYPE_CHECKING:
    from limbeck.export import Exported


class Run:
    """A finished run.

    Attributes:
        path: the run's folder.
        student: the plain trained module, in evaluation mode: no hooks, no adapters.
        summary: everything summary.json says.
    """

    def __init__(
        self,
        outcome: Outcome,
        data: DataBundle | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        self._data, self._forward = data, forward
        self.path: Path = outcome.folder.path
        self.student: nn.Module = outcome.student
        self.summary: Mapping[str, Any] = outcome.summary

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics on the test part: accuracy, NLL, ECE, agreement with the teacher and so on."""
        return dict(self.summary["metrics"].get("test", {}))

    def report(self, out: Path | str | None = None) -> Path:
        """Write one self-contained HTML page (default: ``report.html`` in the run's folder)."""
        from limbeck.reports import write_report

        return write_report([self.path], Path(out) if out else self.path / "report.html")

    def export(
        self,
        to: str,
        output: str | Path | None = None,
        *,
        samples: int = 10_000,
        calibration: int = 512,
        with_preprocessing: bool = False,
        quiet: bool = False,
    ) -> Exported:
        """Write the student for another runtime, and check it against the student.

        Args:
            to: "safetensors", "onnx", "torch-export" or "int8".
            output: the exported folder; None: ``export/<to>`` in the run's folder.
            samples: test samples that the export is checked on, at most.
            calibration: training samples that int8 reads ranges from.
            with_preprocessing: take raw inputs; build scaling and normalisation into the graph.
            quiet: print nothing.

        Returns:
            where it is (``.folder``, ``.file``) and what was measured (``.facts``).

        Raises:
            LimbeckError: in one line; nothing is left behind.
        """
        from limbeck.export import export_student
        from limbeck.recipe.running import data_of

        folder = RunFolder(self.path)
        data = self._data
        if data is None:
            data = data_of(folder, "pass data=... to limbeck.load_run")
        return export_student(
            folder,
            self.student,
            data,
            to,
            output=output,
            forward=self._forward,
            samples=samples,
            calibration=calibration,
            with_preprocessing=with_preprocessing,
            say=_nobody if quiet else tell,
        )

    def push_to_hub(
        self,
        repository: str,
        *,
        to: str = "safetensors",
        private: bool = False,
        api: Any = None,
        **options: Any,
    ) -> str:
        """Export the student and upload it with its model card; return its address.

        Args:
            repository: "OWNER/NAME" on the Hugging Face Hub; made where it does not exist.
            to: the format, as for :meth:`export`.
            private: whether a new repository is private.
            api: a ``huggingface_hub.HfApi`` of your own; None: one by your login.
            options: further options of :meth:`export`.
        """
        from limbeck.export import hub_api, push_folder

        api = hub_api(repository) if api is None else api
        exported = self.export(to, **options)
        return push_folder(exported.folder, repository, api, private=private)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:.4g}" for name, value in self.metrics.items())
        return f"Run({str(self.path)!r}, {shown})"


def distill(
    teacher: Any = None,
    student: Any = None,
    data: Any = None,
    method: str | Method | MethodSum | Sequence[Any] = "kd",
    *,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    train: Train | Mapping[str, Any] | None = None,
    checkpoints: Checkpoints | None = None,
    task: str | None = None,
    task_weight: float | None = None,
    num_classes: int | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    seed: int = 0,
    name: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Run:
    """Train the student that the method and the teacher can give.

    Args:
        teacher: a module; a Teacher; a list of modules (an ensemble); an object with
            ``predict_proba`` or a callable that gives probabilities; a folder with a saved student;
            an ONNX file; a mapping of these by name; None for methods that need none. A timm module
            is shown its inputs as its ``pretrained_cfg`` says.
        student: a module (a copy of it is trained), a name of ``limbeck.models``, or a list of
            these: a cohort, whose members are each other's teacher "peers"; or a ``SharedWidths``.
        data: a data set or ``(x, y)`` tensors, or ``(train, validation[, test])`` of these, or the
            name of a bundled set, or a DataBundle, or a ``datasets.Dataset`` or ``DatasetDict``.
            Missing parts are cut from train. A DataLoader is read through its data set.
        method: a name, a method such as ``lb.KD(temperature=2)``, or a sum of methods.
        epochs: passes over the training part; None: 30.
        lr: peak learning rate; None: that of the optimiser's default.
        batch_size: samples a step; None: 64.
        train: further training settings, as ``lb.Train(...)`` or a mapping of its fields.
        checkpoints: when to write checkpoints, and how many stay.
        task: "classification", "multilabel" or "regression"; None: guessed from the targets.
        task_weight: weight of the one task term; None: that of the leftmost method's paper.
        num_classes: None: counted in the training labels.
        forward: ``forward(model, batch)`` for models that are not called as ``model(inputs)``.
        seed: seed of everything random in training.
        name: name of the arm in tables; None: made from the method.
        output: the run's folder; None: ``runs/<name>-<seed>`` with a number where that exists.
        resume: go on with the run in ``output``.
        quiet: print nothing.

    Returns:
        A Run with ``.student``, ``.metrics`` and ``.report()``.

    Raises:
        LimbeckError: one line that says what does not fit, before anything is trained.

    Example:
        >>> import limbeck as lb
        >>> run = lb.distill(student="mlp", data="digits", method="plain", epochs=1,
        ...                  output="/tmp/limbeck-doctest", quiet=True)   # doctest: +SKIP
    """
    if student is None:
        raise RecipeError("student: expected a module, a model's name or a list of these, got None")
    methods = as_methods(method)
    bundle = _as_bundle(data, task, num_classes, methods)
    make_student, spec = _as_student(student, bundle)
    settings = _as_train(train, epochs, lr, batch_size, data)
    name = name or re.sub(r"\W+", "-", "+".join(m.name for m in methods)).strip("-")
    past = any(one.teacher == "self" for one in methods)
    plan = Plan(
        name=name,
        data=bundle,
        make_student=make_student,
        methods=methods,
        teachers=as_teachers(teacher, isinstance(student, list | tuple), forward, past),
        task_weight=task_weight,
        train=settings,
        checkpoints=checkpoints or Checkpoints(),
        seed=seed,
        student_spec=spec,
        forward=forward,
        recipe=_record(name, bundle, student, teacher, methods, task_weight, settings, seed),
        cohort=student.deploy if isinstance(student, SharedWidths) else "best",
    )
    folder = Path(output) if output is not None else _free_folder(name, seed)
    silent = quiet or os.environ.get("RANK", "0") != "0"
    for line in [] if silent else describe_plan(plan):
        tell(line)
    outcome = run_plan(plan, folder, resume=resume, quiet=quiet)
    for line in [] if silent else headlines(outcome)[:-1]:  # the last is for the command line
        tell(line)
    return Run(outcome, bundle, forward)


def load_run(path: str | Path, student: nn.Module | None = None, data: Any = None) -> Run:
    """Open a finished run.

    Args:
        path: the run's folder.
        student: a module to fill with the trained weights; needed where Limbeck cannot rebuild
            the student by name.
        data: as for :func:`distill`; needed by ``export`` where the run was started from Python.
    """
    folder = RunFolder.open(path)
    loaded = load_model(folder.student, student)
    bundle = None if data is None else _as_bundle(data, folder.summary["task"], None, ())
    return Run(Outcome(folder, loaded, folder.summary), bundle)


def _nobody(line: str) -> None:
    """Say nothing."""


def _as_bundle(
    data: Any, task: str | None, num_classes: int | None, methods: Sequence[Method]
) -> DataBundle:
    if isinstance(data, DataBundle):
        return data
    if isinstance(data, str):
        return load_data(data)
    if data is None:
        raise RecipeError("data: expected a data set, (x, y) tensors or parts of these, got None")
    of_hf = _hf_bundle(data, task, num_classes)
    if of_hf is not None:
        return of_hf
    parts = data if _is_parts(data) else (data,)
    read = [_as_dataset(part, methods) for part in parts]
    return bundle_from(*read, task=task, num_classes=num_classes)


def _hf_bundle(data: Any, task: str | None, num_classes: int | None) -> DataBundle | None:
    """Read Hugging Face data sets by their columns; None where these are none, or transformed."""
    parts = [_set_of(part) for part in (data if isinstance(data, tuple | list) else (data,))]
    if not parts or not all(is_hf(part) for part in parts):
        return None
    names = ("train", "validation", "test")
    splits = parts[0] if isinstance(parts[0], Mapping) and len(parts) == 1 else None
    if splits is None and any(isinstance(part, Mapping) for part in parts):
        raise DataError("data: expected one DatasetDict, or data sets (train, validation, test)")
    if splits is None:
        splits = dict(zip(names, parts, strict=False))
    if any(transforms_itself(part) for part in parts):  # items say what they are, not columns
        named, _ = parts_of(splits, dict.fromkeys(names))
        return bundle_from(**named, task=task, num_classes=num_classes)
    return from_hf(splits, task=task, num_classes=num_classes)


def _set_of(part: Any) -> Any:
    """Return the Hugging Face data set that a plain DataLoader is over, else what was given."""
    if not isinstance(part, DataLoader) or not is_hf(part.dataset):
        return part
    from torch.utils.data import default_collate

    return part.dataset if part.collate_fn is default_collate else part


def _is_parts(data: Any) -> bool:
    """Whether a tuple is (train, validation[, test]) rather than (x, y)."""
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        return False
    return not all(hasattr(part, "shape") for part in data) and not (
        isinstance(data[0], Mapping) and hasattr(data[1], "shape")
    )


def _as_dataset(part: Any, methods: Sequence[Method]) -> Any:
    """Read a DataLoader through its data set; hold a stream in memory where no index is needed."""
    if not isinstance(part, DataLoader):
        return part
    if not isinstance(part.dataset, IterableDataset):
        from torch.utils.data import default_collate

        from limbeck.data import DatasetSamples

        if part.collate_fn is default_collate:
            return part.dataset
        return DatasetSamples(part.dataset, part.collate_fn, part.num_workers)
    needing = [method.name for method in methods if method.card.needs_index]
    if needing:
        raise DataError(
            f"data: method {needing[0]} needs the index of each sample, which a stream does not "
            "have; write data=YourMapStyleDataset(...) with __len__ and __getitem__"
        )
    return _held(part)


def _held(loader: DataLoader[Any]) -> TensorDataset:
    """Read a stream of (x, y) batches once into memory."""
    pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in loader]
    if not pairs:
        raise DataError("data: the DataLoader gives no batch")
    return TensorDataset(torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]))


def _as_student(student: Any, data: DataBundle) -> tuple[Callable[[], nn.Module], Any]:
    if isinstance(student, list | tuple):
        made = [_as_student(member, data) for member in student]
        return lambda: Cohort([make() for make, _ in made]), [spec for _, spec in made]
    if isinstance(student, str):
        classes, shape = data.num_outputs, data.input_shape
        more = with_vocabulary(student, {}, data.vocabulary)
        spec = model_spec(student, num_classes=classes, input_shape=shape, **more)
        return lambda: build_model(student, num_classes=classes, input_shape=shape, **more), spec
    if isinstance(student, nn.Module):
        return lambda: copy.deepcopy(student), None
    if callable(student):
        return student, None
    raise RecipeError(
        f"student: expected a module, a model's name or a list of these, got "
        f"{type(student).__name__}"
    )


def _as_train(
    train: Train | Mapping[str, Any] | None,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    data: Any,
) -> Train:
    given = {} if epochs is None else {"epochs": epochs}
    settings = train if isinstance(train, Train) else _train_from({**(train or {}), **given})
    if batch_size is None and isinstance(data, DataLoader):
        batch_size = data.batch_size
    changes: dict[str, Any] = {}
    if epochs is not None:
        changes["epochs"] = epochs
    if batch_size is not None:
        changes["batch_size"] = batch_size
    if lr is not None:
        changes["optimizer"] = dataclasses.replace(settings.optimizer, lr=lr)
    return dataclasses.replace(settings, **changes)


def _train_from(values: dict[str, Any]) -> Train:
    parts: dict[str, type[Any]] = {"optimizer": Optimizer, "schedule": Schedule}
    for key, kind in parts.items():
        value = values.get(key, {})
        value = {"name": value} if isinstance(value, str) else value
        if isinstance(value, Mapping):
            _check_keys(f"train.{key}", value, kind)
            value = kind(**value)
        if not isinstance(value, kind):
            raise RecipeError(f"train.{key}: expected a name or a mapping, got {value!r}")
        values[key] = value
    _check_keys("train", values, Train)
    return Train(**values)


def _check_keys(where: str, values: Mapping[str, Any], kind: type[Any]) -> None:
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise RecipeError(f"{where}: " + unknown("key", str(key), known))


def _free_folder(name: str, seed: int) -> Path:
    first = Path("runs") / f"{name}-{seed}"
    number, folder = 2, first
    while folder.exists():
        folder = first.with_name(f"{first.name}-{number}")
        number += 1
    return folder


def _record(
    name: str,
    data: DataBundle,
    student: Any,
    teacher: Any,
    methods: tuple[Method, ...],
    task_weight: float | None,
    train: Train,
    seed: int,
) -> dict[str, Any]:
    """Describe a run from Python for its recipe.yaml: objects by the name of their class."""
    weight = default_task_weight(methods) if task_weight is None else task_weight
    document: dict[str, Any] = {
        "version": 1,
        "name": name,
        "seed": seed,
        "task": {"kind": data.task, "weight": weight},
        "data": {"name": data.name},
        "student": _named(student),
        "method": [
            {"name": method.name, **_plain(dataclasses.asdict(method))} for method in methods
        ],
        "train": _plain(dataclasses.asdict(train)),
    }
    if teacher is not None:
        document["teacher"] = _named(teacher)
    return document


def _named(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_named(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _named(one) for key, one in value.items()}
    if isinstance(value, str | Path):
        return {"onnx" if Path(value).suffix == ".onnx" else "model": str(value)}
    return {"python": f"{type(value).__module__}.{type(value).__qualname__}"}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
