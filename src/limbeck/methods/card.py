"""Card: where a method sits in the general model of distillation, and what it needs.

The first group of fields is the general model of Abbasi et al. (arXiv 1912.13179): data
modification and partition, teachers, students, and the distillation block (knowledge, location,
transfer). The second group is ours: what the engine must know before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Knowledge = Literal[
    "response", "feature", "relation", "gradient", "explanation", "parameter", "selection", "none"
]
Access = Literal[
    "none",
    "sparse",
    "outputs",
    "features",
    "head",
    "module",
    "input_gradients",
    "parameter_gradients",
]
TaskKind = Literal["classification", "multilabel", "regression"]
Coupling = Literal["none", "batch", "bank"]
Contract = Literal[
    "zero_at_equality",
    "non_negative",
    "permutation",
    "halves",
    "ignored",
    "fixed_teacher",
    "extreme_logits",
    "many_classes",
    "one_class",
    "batch_one",
    "gradient",
]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A citation. ``arxiv`` is the identifier alone ("1503.02531"), or None."""

    authors: str
    year: int
    title: str
    venue: str = ""
    arxiv: str | None = None

    def __str__(self) -> str:
        source = f"arXiv {self.arxiv}" if self.arxiv else self.venue
        return f"{self.authors} ({self.year}). {self.title}. {source}"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Forwards of the teacher and forward-backwards of the student, for each sample seen."""

    teacher_forwards: float = 1.0
    student_steps: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Card:
    """The identity card of a method.

    Attributes:
        title: a short name for tables.
        paper: where it comes from; None for plain training.
        equation: the knowledge terms, as one line of text.
        faithful: how close to the source: "faithful", "faithful in part", "after the abstract".
        data_modification: how samples are changed before teacher or student sees them.
        data_partition: which samples go to whom.
        teachers: how many teachers, in words.
        merge: how several teachers become one voice.
        students: "one" or "cohort".
        knowledge: what is handed over.
        location: where it is read: "output", "intermediate", "input".
        transfer: the loss that carries it.
        supervision: "labels", "labels optional" or "no labels".
        timing: "offline", "online", "self" or "staged".
        tasks: (ours) the kinds of task served.
        task_weight: (ours) weight of the one task term, the paper's own.
        min_classes: (ours) fewest classes for which the knowledge terms say anything.
        max_classes: (ours) most classes where the form is not linear in classes; None: no bound.
        teacher_access: (ours) the most intrusive thing asked of the teacher; "sparse": outputs of
            which some classes' probabilities are enough.
        same_network: (ours) whether the teacher must be the student's network with other weights.
        same_widths: (ours) whether layers of the student must be as wide as the teacher's.
        needs_index: (ours) whether samples must carry their index.
        double_backward: (ours) whether gradients of gradients are taken.
        separable: (ours) whether the loss of a batch is the mean of the losses of its samples.
        bank: (ours) whether samples are compared with a memory of all samples.
        replaces_task: (ours) whether the method redefines supervision and owns the task term.
        selects: (ours) whether epochs may change length.
        deploys: (ours) "same": the student as given; "grown": with added parts.
        changes_student: (ours) whether ``prepare`` puts another network in the student's place
            for training alone; one that deploys a grown student does so anyway.
        of_each_sample: (ours) what it does with a sample's own label or place in the data set, as a
            verb phrase, where that must be known of single samples; "": nothing.
        listens: (ours) False where ``losses`` has no use for what the teacher says of a batch.
        cost: (ours) work per sample.
        exempt: (ours) loss contracts that do not apply, each with its one-line reason.
    """

    title: str
    equation: str
    paper: Paper | None = None
    faithful: Literal["faithful", "faithful in part", "after the abstract"] = "faithful"
    data_modification: str = "none"
    data_partition: str = "all samples to all"
    teachers: str = "one"
    merge: str = "none"
    students: Literal["one", "cohort"] = "one"
    knowledge: tuple[Knowledge, ...] = ("response",)
    location: tuple[Literal["output", "intermediate", "input"], ...] = ("output",)
    transfer: str = ""
    supervision: Literal["labels", "labels optional", "no labels"] = "labels optional"
    timing: Literal["offline", "online", "self", "staged"] = "offline"
    tasks: tuple[TaskKind, ...] = ("classification",)
    task_weight: float = 1.0
    min_classes: int = 2
    max_classes: int | None = None
    teacher_access: Access = "outputs"
    same_network: bool = False
    same_widths: bool = False
    needs_index: bool = False
    double_backward: bool = False
    separable: bool = True
    bank: bool = False
    replaces_task: bool = False
    selects: bool = False
    deploys: Literal["same", "grown"] = "same"
    changes_student: bool = False
    of_each_sample: str = ""
    listens: bool = True
    cost: Cost = field(default_factory=Cost)
    exempt: Mapping[Contract, str] = field(default_factory=dict)

    @property
    def needs_teacher(self) -> bool:
        """Whether the method asks a teacher anything at all."""
        return self.teacher_access != "none"

    @property
    def hears_teacher(self) -> bool:
        """Whether ``losses`` is given what the teacher says about the batch.

        A method that differentiates the teacher asks it by itself, once.
        """
        itself = self.teacher_access == "parameter_gradients"
        return self.needs_teacher and self.listens and not itself

    @property
    def replaces_student(self) -> bool:
        """Whether ``prepare`` changes the student, or puts another in its place.

        Such a method is prepared before all others, which see what it made of the student, and
        deploys after them.
        """
        return self.changes_student or self.deploys == "grown"

    @property
    def refuses_mixup(self) -> str:
        """Why mixtures, which have neither label nor index, are refused; "": they are not.

        Where an option of the method decides it, the reason names the option.
        """
        if self.supervision == "labels":
            return "a mixture has no label"
        told = self.of_each_sample or ("chooses samples" if self.selects else "")
        return f"it {told}" if told else ""

    @property
    def needs_features(self) -> bool:
        """Whether the teacher must be a module whose inside can be read."""
        return self.teacher_access not in ("none", "sparse", "outputs")
