"""Virtual teacher: a rule over labels, with no network behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limbeck.data.batch import IGNORE, Batch, first_tensor
from limbeck.errors import TeacherError
from limbeck.functional import label_distribution
from limbeck.taps.outputs import Outputs
from limbeck.teachers.base import Teacher
from limbeck.teachers.digest import digest_of_parts, tensor_digest

if TYPE_CHECKING:
    from limbeck.data import DataBundle

Rule = Callable[[Tensor, int], Tensor]
"""(class indices ``[n]``, number of classes C) -> probabilities ``[n, C]``."""


def even_rule(correct: float) -> Rule:
    """Return the rule of Yuan et al. (2020), equation 9: ``correct`` on the label, the rest evenly.

    p(k) = correct where k is the label, else (1 - correct) / (C - 1).
    """

    def rule(labels: Tensor, num_classes: int) -> Tensor:
        return label_distribution(labels, num_classes, correct=correct)

    return rule


def refuse_mixtures(name: str, data: DataBundle) -> None:
    """Raise TeacherError where no training sample will have a label to go by."""
    if data.augment_train.steps.mixup:
        raise TeacherError(
            f"teachers.{name}: data.augment has mixup, and a teacher that knows the labels only "
            "has nothing to say of a mixture of two samples; leave one of them out"
        )


class VirtualTeacher(Teacher):
    """A teacher that knows the labels only (Yuan et al. 2020, arXiv 1909.11723, section 5.2).

    It says log-probabilities of the rule, exactly: ``softmax(logits)`` is the rule's distribution
    (the authors' code puts the probabilities through a second softmax; here they are not). A
    sample without a label gets the uniform distribution. With several labels at once, each label
    has its own Bernoulli probability ``correct`` of being as stated, 1/2 where it is unknown.

    Args:
        correct: probability of the label, in (0, 1).
        rule: another rule ``(labels [n], num_classes) -> probabilities [n, num_classes]``; then
            ``correct`` is not used. For classes only, not for several labels at once.
        num_classes: number of classes; None: the data's, from ``bind``.
        name: what methods call it.

    Raises:
        TeacherError: ``correct`` outside of (0, 1); fewer than two classes; a regression task;
            a rule whose rows are no distributions (on asking); data whose training samples are
            mixed.
    """

    def __init__(
        self,
        correct: float = 0.99,
        *,
        rule: Rule | None = None,
        num_classes: int | None = None,
        name: str = "virtual",
    ) -> None:
        if not 0 < correct < 1:
            raise TeacherError(
                f"teachers.{name}.correct: expected a number in (0, 1), got {correct}"
            )
        self.name = name
        self.correct = correct
        self.rule = rule
        self.num_classes = num_classes
        self.task = "classification"

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Take task and number of classes from the data."""
        if data is None:
            return
        refuse_mixtures(self.name, data)
        self.task = data.task
        if self.task == "regression" or (self.task == "multilabel" and self.rule is not None):
            raise TeacherError(f"teachers.{self.name}: no such rule over {self.task} targets")
        if self.num_classes not in (None, data.num_outputs):
            raise TeacherError(
                f"teachers.{self.name}: has {self.num_classes} classes, the data have "
                f"{data.num_outputs}"
            )
        self.num_classes = data.num_outputs

    def ask(
        self, batch: Batch, *, taps: Sequence[str] | None = None, require_grad: bool = False
    ) -> Outputs:
        """Return log-probabilities ``[batch, classes]`` of the rule (logits for multi-label)."""
        if taps:
            self.set_taps(taps)
        classes = self._classes()
        device = first_tensor(batch.inputs).device
        if self.task == "multilabel":
            return Outputs(self._multilabel(batch.targets, len(batch), classes, device))
        if batch.targets is None:
            labels = torch.full((len(batch),), IGNORE, device=device)
        elif batch.targets.is_floating_point() or batch.targets.dim() != 1:
            raise TeacherError(
                f"teachers.{self.name}: expected class indices [batch], got "
                f"{batch.targets.dtype} {list(batch.targets.shape)}"
            )
        else:
            labels = batch.targets.to(device)
        return Outputs(self._log_probabilities(labels, classes))

    def _classes(self) -> int:
        if self.num_classes is None:
            raise TeacherError(f"teachers.{self.name}: give num_classes, or bind it to data first")
        if self.num_classes < 2 and self.task == "classification":
            raise TeacherError(f"teachers.{self.name}: needs at least 2 classes, not 1")
        return self.num_classes

    def _log_probabilities(self, labels: Tensor, classes: int) -> Tensor:
        known = labels != IGNORE
        if bool((known & ((labels < 0) | (labels >= classes))).any()):
            raise TeacherError(f"teachers.{self.name}: a label is outside of 0..{classes - 1}")
        rule = self.rule or even_rule(self.correct)
        probabilities = rule(labels.where(known, 0), classes)
        if self.rule is not None:
            self._check(probabilities, (len(labels), classes))
        uniform = torch.full_like(probabilities, 1 / classes)
        probabilities = probabilities.where(known[:, None], uniform)
        # A rule may give exactly 0: the smallest float keeps the logarithm finite.
        return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log().float()

    def _check(self, probabilities: Tensor, shape: tuple[int, int]) -> None:
        if probabilities.shape != shape or not probabilities.is_floating_point():
            raise TeacherError(
                f"teachers.{self.name}: the rule gave {probabilities.dtype} "
                f"{list(probabilities.shape)}, expected float {list(shape)}"
            )
        sums = probabilities.sum(dim=1)
        if bool((probabilities < 0).any()) or bool(((sums - 1).abs() > 1e-4).any()):
            raise TeacherError(f"teachers.{self.name}: the rule's rows are no distributions")

    def _multilabel(
        self, targets: Tensor | None, size: int, labels: int, device: torch.device
    ) -> Tensor:
        if targets is None:
            return torch.zeros(size, labels, device=device)
        chance = torch.tensor(self.correct, dtype=torch.float64)
        signs = targets.to(device).float() * 2 - 1
        return torch.where(signs.isnan(), 0.0, signs * float(torch.logit(chance)))

    def fingerprint(self) -> str:
        """Return a digest of the rule's probabilities on each of (up to 64) labels."""
        classes = self._classes()
        if self.task == "multilabel":
            return digest_of_parts("virtual", self.task, str(classes), repr(self.correct))
        labels = torch.arange(min(classes, 64))
        table = tensor_digest(self._log_probabilities(labels, classes))
        return digest_of_parts("virtual", self.task, str(classes), table)

    def describe(self) -> str:
        """Return the rule in words."""
        if self.rule is not None:
            return f"virtual: the rule {getattr(self.rule, '__name__', self.rule)} over labels"
        return f"virtual: {self.correct:g} on the label, the rest evenly"
