"""Teachers as a recipe says them, but for those that hold other teachers or recipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from limbeck.recipe import checkers
from limbeck.recipe.checkers import Arguments


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What a teacher expects of its inputs: ``(x - mean) / std`` for x in [0, 1], per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        checkers.channel_statistics(self.mean, self.std)


NormalizeField = Annotated[
    Annotated[Normalization, Tag("<statistics>")] | Annotated[Literal["data"], Tag("<data>")],
    Discriminator(checkers.normalize_kind),
    BeforeValidator(checkers.normalize_form),
]


@dataclass(frozen=True, kw_only=True)
class ModelTeacher:
    """A trained network.

    Args:
        model: a registered name, ``timm/<id>``, ``torchvision/<id>``, ``hf/<folder or hub id>``,
            ``py:module:function``, or a folder with a saved model.
        weights: a safetensors file (for timm and torchvision a torch checkpoint too, and the name
            of torchvision's own: ``DEFAULT``), or the folder of a student that Limbeck saved;
            "random" for a teacher that has learned nothing; None where the model brings its own
            (a folder, ``hf/``, ``timm/`` with ``pretrained: true``, ``py:``).
        normalize: statistics that the network was trained with; "data": those of the data; None:
            those that Limbeck saved beside the weights, else those of its pretrained
            configuration (timm, torchvision), else those of the data.
        arguments: the network's own, written beside the name.
    """

    model: str
    weights: str | None = None
    normalize: NormalizeField | None = None
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunTeacher:
    """The student of an earlier run: a run folder, or the ``student`` folder inside it."""

    run: str


@dataclass(frozen=True, kw_only=True)
class Virtual:
    """A rule over labels.

    Args:
        kind: "smoothing": ``correct`` on the label, the rest spread evenly.
        correct: probability of the label, in (0, 1).
    """

    kind: Literal["smoothing"] = "smoothing"
    correct: float = 0.9

    def __post_init__(self) -> None:
        checkers.between(0, 1, "correct", self.correct)


@dataclass(frozen=True, kw_only=True)
class VirtualTeacher:
    """A teacher without a network: see :class:`Virtual`."""

    virtual: Virtual


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An earlier self.

    Args:
        every: epochs between snapshots, at least 1.
        start: epochs done when the first is taken, at least 1; None: ``every``.
    """

    every: int = 1
    start: int | None = None

    def __post_init__(self) -> None:
        checkers.at_least(1, "every", self.every)
        checkers.at_least(1, "start", self.start)


@dataclass(frozen=True, kw_only=True)
class SnapshotTeacher:
    """The student as it was some epochs ago: see :class:`Snapshot`."""

    snapshot: Snapshot


@dataclass(frozen=True, kw_only=True)
class Ema:
    """The moving average of the student.

    Args:
        decay: in [0, 1).
        warm_up: whether the decay grows from 0.
    """

    decay: float = 0.999
    warm_up: bool = True

    def __post_init__(self) -> None:
        checkers.at_least(0, "decay", self.decay)
        checkers.below(1, "decay", self.decay)


@dataclass(frozen=True, kw_only=True)
class EmaTeacher:
    """The student's own moving average: see :class:`Ema`."""

    ema: Ema


@dataclass(frozen=True, kw_only=True)
class Sklearn:
    """A scikit-learn estimator, fitted on the labelled samples of the training part.

    Args:
        estimator: the name of its class: "RandomForestClassifier" ...
        arguments: its own, written beside the name.
    """

    estimator: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SklearnTeacher:
    """A fitted estimator: see :class:`Sklearn`. Never read from a pickle."""

    sklearn: Annotated[Sklearn, BeforeValidator(checkers.sklearn_arguments)]


@dataclass(frozen=True, kw_only=True)
class OnnxTeacher:
    """A network in an ONNX file, asked through onnxruntime; it gives outputs only.

    Args:
        onnx: the file.
        output: what it gives: "logits" or "probabilities"; "auto": told by whether its rows are
            distributions.
        output_name: the output to read; None: the only one, or the one called ``logits`` or
            ``probabilities``.
        normalize: statistics that it expects; "data" or None: those of the data.
        threads: of onnxruntime, at least 1; None: as many as torch has.
    """

    onnx: str
    output: Literal["auto", "logits", "probabilities"] = "auto"
    output_name: str | None = None
    normalize: NormalizeField | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        checkers.at_least(1, "threads", self.threads)
