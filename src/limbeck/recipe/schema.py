"""Schema: the whole recipe as frozen dataclasses. What a recipe can say is what stands here.

Training settings and methods are the same dataclasses that Python uses; nothing is defined twice.
Everything is validated in one pass (see :mod:`limbeck.recipe.validation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    PlainValidator,
    Tag,
)

from limbeck.engine.settings import Checkpoints, Train
from limbeck.methods.base import Method
from limbeck.recipe import checkers
from limbeck.recipe.checkers import Arguments
from limbeck.recipe.teacher_schema import (
    EmaTeacher,
    ModelTeacher,
    OnnxTeacher,
    RunTeacher,
    SklearnTeacher,
    SnapshotTeacher,
    VirtualTeacher,
)
from limbeck.teachers.cache import Codec

FORMAT = 1
"""Version of the recipe format that this Limbeck reads and writes."""

TaskName = Literal["auto", "classification", "multilabel", "regression"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned.

    Args:
        kind: "classification", "multilabel" or "regression"; "auto": what the data are.
        weight: weight of the one task term, at least 0; None: that of the leftmost method's paper.
    """

    kind: TaskName = "auto"
    weight: float | None = None

    def __post_init__(self) -> None:
        checkers.at_least(0, "weight", self.weight)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where samples come from.

    Args:
        name: a data source: "digits", "fashion-mnist", "table" ...
        arguments: options of that source, written beside the name.
    """

    name: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudentModel:
    """A network to be trained.

    Args:
        model: a registered name, ``timm/<id>``, ``torchvision/<id>``, ``hf/<model type, folder or
            hub id>``, ``py:module:function`` of installed code, or a folder with a saved model to
            start from.
        arguments: the network's own, written beside the name; for timm and torchvision also
            ``weights`` to start from, and for timm ``pretrained``.
    """

    model: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudentCohort:
    """Several networks that learn together.

    Args:
        models: the members, at least one.
        deploy: "best": the member that is best on validation; "ensemble": all, averaged.
    """

    models: Annotated[tuple[StudentMember, ...], AfterValidator(checkers.not_empty)]
    deploy: Literal["best", "ensemble"] = "best"


@dataclass(frozen=True, kw_only=True)
class TrainTeacher:
    """The student of another recipe, trained first, once, and found again by content.

    Args:
        train: the recipe: a path (with ``overrides: {dotted.key: value}`` beside it where wanted),
            or written out. Without ``data`` it learns on the parent's.
        epoch: the student as it was after so many epochs, from 1 up to those of the recipe; None:
            the one that the recipe deploys.
    """

    train: Recipe
    epoch: int | None = None

    def __post_init__(self) -> None:
        checkers.at_least(1, "epoch", self.epoch)
        checkers.at_most(self.train.train.epochs, "epoch", self.epoch, "the epochs of its recipe")


@dataclass(frozen=True, kw_only=True)
class EnsembleTeacher:
    """Several teachers with one voice.

    Args:
        ensemble: the teachers, at least one.
        merge: whether logits or probabilities are averaged.
        weights: one number of at least 0 for each teacher; None: all alike.
    """

    ensemble: Annotated[tuple[TeacherField, ...], AfterValidator(checkers.not_empty)]
    merge: Literal["logits", "probabilities"] = "logits"
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        checkers.ensemble_weights(len(self.ensemble), self.weights)


@dataclass(frozen=True, kw_only=True)
class RouteTeacher:
    """Teachers that take over from each other as the student learns.

    Args:
        route: the teachers in order, at least two.
        at: when each takes over, rising, the first 0: shares of the training in (0, 1), or epochs
            of at least 1; None: even parts.
    """

    route: Annotated[tuple[TeacherField, ...], AfterValidator(checkers.at_least_two)]
    at: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        checkers.moments(len(self.route), self.at)


@dataclass(frozen=True, kw_only=True)
class PartialTeacher:
    """A teacher's sub-networks, one after the other, from the smallest to the whole.

    They share the teacher's weights and are trained together first, once, by the labels; found
    again by content.

    Args:
        partial: the teacher, one network: ``{model: …}``, ``{run: …}`` or ``{train: recipe}``. Of
            the last its recipe's data and training settings count, else those of this recipe.
        shares: of its channels, rising, above 0, the last 1.
        epochs: of training together, at least 0; 0: cut, and not trained.
        lr: peak learning rate, above 0; None: that of the settings.
        at: when each takes over, rising, the first 0: shares of the training in (0, 1), or epochs
            of at least 1; None: even stages.
        seed: of training together, at least 0.
    """

    partial: TeacherField
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    epochs: int = 10
    lr: float | None = None
    at: tuple[float, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checkers.shares(self.shares)
        checkers.at_least(0, "epochs", self.epochs)
        if self.lr is not None:
            checkers.above(0, "lr", self.lr)
        checkers.moments(len(self.shares), self.at)
        checkers.seed("seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class CrossFitTeacher:
    """A teacher that answers for each training sample without having seen it.

    The training part is cut into folds, and the teacher is fitted once without each of them.

    Args:
        crossfit: a teacher that is fitted here: ``{train: recipe}`` or ``{sklearn: …}``, or a
            calibrated one or an ensemble of these.
        folds: number of folds, at least 2.
        seed: of the cut, at least 0.
    """

    crossfit: TeacherField
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        checkers.at_least(2, "folds", self.folds)
        checkers.seed("seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class CalibratedTeacher:
    """A teacher whose logits are scaled so that its probabilities mean what they say.

    Args:
        calibrated: the teacher.
        temperature: a number above 0, or fitted on validation: "auto-nll" (smallest negative
            log-likelihood), "auto-ace" (smallest adaptive calibration error).
        scaling: "temperature": logits / T; "vector": one factor and one bias a class; "matrix":
            a matrix and biases. The last two are fitted by likelihood, and ``temperature`` stays
            as it is.
        penalty: of vector and matrix: how strongly they are held to one temperature, at least 0.
    """

    calibrated: TeacherField
    temperature: Annotated[float | str, PlainValidator(checkers.temperature)] = "auto-nll"
    scaling: Literal["temperature", "vector", "matrix"] = "temperature"
    penalty: float = 0.0

    def __post_init__(self) -> None:
        checkers.at_least(0, "penalty", self.penalty)
        checkers.one_scaling(self.scaling, self.temperature, self.penalty)


@dataclass(frozen=True, kw_only=True)
class CachedTeacher:
    """A teacher that is asked once about each view of a training sample; its answers are kept.

    Args:
        cache: the teacher.
        codec: in what form answers are kept: a name, or :class:`limbeck.teachers.cache.Codec`.
        inputs: "views": about the augmented views that ``train.views`` cycles; "clean": once,
            about the sample as evaluation shows it.
        folder: of the cache; None: found by content in ``$LIMBECK_HOME/caches``, or
            ``runs/caches``.
        budget: most bytes of the cache, a number or "2GB"; None: what the disk has.
    """

    cache: TeacherField
    codec: Annotated[Codec, BeforeValidator(checkers.codec_form)] = field(default_factory=Codec)
    inputs: Literal["views", "clean"] = "views"
    folder: str | None = None
    budget: Annotated[int | str | None, PlainValidator(checkers.budget)] = None


@dataclass(frozen=True, kw_only=True)
class OnlineTeacher:
    """A network that learns from the labels at the same time as the student, and teaches it.

    Args:
        online: the network, written as a student is; trained by the run's own settings.
    """

    online: StudentMember


Teacher = (
    ModelTeacher
    | RunTeacher
    | TrainTeacher
    | EnsembleTeacher
    | RouteTeacher
    | PartialTeacher
    | CrossFitTeacher
    | CalibratedTeacher
    | CachedTeacher
    | OnlineTeacher
    | VirtualTeacher
    | SnapshotTeacher
    | EmaTeacher
    | SklearnTeacher
    | OnnxTeacher
    | Literal["peers"]
)

StudentMember = Annotated[StudentModel, BeforeValidator(checkers.model_arguments)]

TeacherField = Annotated[
    Annotated[ModelTeacher, BeforeValidator(checkers.teacher_arguments), Tag("<model>")]
    | Annotated[RunTeacher, Tag("<run>")]
    | Annotated[TrainTeacher, Tag("<train>")]
    | Annotated[EnsembleTeacher, Tag("<ensemble>")]
    | Annotated[RouteTeacher, Tag("<route>")]
    | Annotated[PartialTeacher, Tag("<partial>")]
    | Annotated[CrossFitTeacher, Tag("<crossfit>")]
    | Annotated[CalibratedTeacher, Tag("<calibrated>")]
    | Annotated[CachedTeacher, Tag("<cache>")]
    | Annotated[OnlineTeacher, Tag("<online>")]
    | Annotated[VirtualTeacher, Tag("<virtual>")]
    | Annotated[SnapshotTeacher, Tag("<snapshot>")]
    | Annotated[EmaTeacher, Tag("<ema>")]
    | Annotated[SklearnTeacher, Tag("<sklearn>")]
    | Annotated[OnnxTeacher, Tag("<onnx>")]
    | Annotated[Literal["peers"], Tag("<peers>")],
    Discriminator(checkers.teacher_kind),
    BeforeValidator(checkers.teacher_form),
]

StudentField = Annotated[
    Annotated[StudentMember, Tag("<one>")]
    | Annotated[tuple[StudentMember, ...], AfterValidator(checkers.not_empty), Tag("<several>")]
    | Annotated[StudentCohort, Tag("<cohort>")],
    Discriminator(checkers.student_kind),
    BeforeValidator(checkers.student_form),
]

MethodOne = Annotated[Method, PlainValidator(checkers.method)]
MethodField = Annotated[
    Annotated[MethodOne, Tag("<one>")]
    | Annotated[tuple[MethodOne, ...], AfterValidator(checkers.not_empty), Tag("<several>")],
    Discriminator(checkers.method_kind),
    BeforeValidator(checkers.method_form),
]

TeacherName = Annotated[str, AfterValidator(checkers.teacher_name)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole experiment.

    Args:
        name: names the arm in tables; runs that differ in seed alone share it.
        version: format version, 1.
        seed: seed of everything random in training, at least 0. Data are split by their own seed.
        task: see :class:`Task`.
        data: see :class:`Data`.
        teacher: the one teacher; its name is "teacher".
        teachers: several teachers by name, instead of ``teacher``.
        student: one network, a list of them (a cohort), or a :class:`StudentCohort`.
        method: one method or a list of them; the first decides the default task weight.
        train: see :class:`limbeck.engine.settings.Train`.
        checkpoints: see :class:`limbeck.engine.settings.Checkpoints`.
        probe: other data, written as ``data`` is; at the end a linear classifier is fitted there to
            the student's features, and its test accuracy is told as ``probe_accuracy``.
        trackers: logs besides metrics.jsonl: "tensorboard", "wandb".
        output: the run's folder; None: ``runs/<name>-seed<seed>``.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    version: Annotated[int, AfterValidator(checkers.version)] = FORMAT
    name: Annotated[str, AfterValidator(checkers.run_name)]
    seed: int = 0
    task: Task = field(default_factory=Task)
    data: Annotated[Data, BeforeValidator(checkers.data_arguments)]
    teacher: TeacherField | None = None
    teachers: Mapping[TeacherName, TeacherField] = field(default_factory=dict)
    student: StudentField
    method: MethodField
    train: Train = field(default_factory=Train)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    probe: Annotated[Data | None, BeforeValidator(checkers.probe_arguments)] = None
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    output: str | None = None

    def __post_init__(self) -> None:
        checkers.seed("seed", self.seed)
        checkers.one_way_to_name_teachers(self.teacher, self.teachers)

    @property
    def all_teachers(self) -> dict[str, Teacher]:
        """Teachers by name; a single ``teacher`` is called "teacher"."""
        return dict(self.teachers) if self.teacher is None else {"teacher": self.teacher}

    @property
    def students(self) -> tuple[StudentModel, ...]:
        """The student, or the members of the cohort."""
        if isinstance(self.student, StudentModel):
            return (self.student,)
        return self.student.models if isinstance(self.student, StudentCohort) else self.student

    @property
    def is_cohort(self) -> bool:
        """Whether several students (or a list with one) learn together."""
        return not isinstance(self.student, StudentModel)

    @property
    def deploy(self) -> Literal["best", "ensemble"]:
        """What of a cohort is deployed."""
        return self.student.deploy if isinstance(self.student, StudentCohort) else "best"

    @property
    def methods(self) -> tuple[Method, ...]:
        """The method terms in their order."""
        return (self.method,) if isinstance(self.method, Method) else self.method
