"""What methods share that hold layers of the student against layers of the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import MethodError, ShapeError, TapError
from limbeck.methods.base import Method, Runtime, Stage, Terms
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs, teacher_with_layers
from limbeck.taps import TapPair, roles_of
from limbeck.taps.outputs import Outputs
from limbeck.taps.pairing import first_member

if TYPE_CHECKING:
    from limbeck.data import DataBundle

FORMS = {2: "vectors", 3: "tokens", 4: "maps"}
PREACTIVATIONS = "preactivations"
FIRST_SHARE = 30 / 240  # of the epochs: RepDistiller's 30 before its 240


@dataclass(frozen=True, kw_only=True)
class Paired(Method):
    """Base of methods on pairs of layers.

    Args:
        pairs: "auto"; "cka" pairs the stages by how alike they see training samples; a tap of the
            same name in both; or pairs ``((student tap, teacher tap), …)``.
    """

    pairs: str | tuple[Any, ...] = "auto"

    automatic: ClassVar[tuple[tuple[str, str], ...]] = (("stages", "stages"),)
    """The pairs of roles that "auto" stands for, student first."""
    reads: ClassVar[tuple[str, ...]] = ("maps", "tokens")
    """Which forms of feature the method can compare."""

    def find_pairs(
        self, student: nn.Module, teachers: Mapping[str, Any], ctx: Context
    ) -> list[TapPair]:
        """Pair the layers, and refuse forms that the method cannot compare.

        Raises:
            ShapeError: a feature of another form, or the two of a pair have different ones.
            TapError: "auto" needs a role that a network does not declare.
        """
        teacher = teacher_with_layers(self, teachers)
        pairs: Any = self.pairs
        if pairs == "auto":
            pairs = self.automatic
            if teacher.module is not None:
                self._check_declared(student, teacher.module)
        found = find_pairs(self, pairs, student, teachers, ctx)
        for pair in found:
            self._check_forms(pair)
        return found

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers."""
        return PairedRuntime(self, self.find_pairs(student, teachers, ctx))

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Compare the features of both in the order in which they are given.

        Raises:
            MethodError: the outputs have no features, or not the same number.
        """
        ours, theirs = list(student.features.values()), list(teacher.features.values())
        if not ours or len(ours) != len(theirs):
            raise MethodError(
                f"method {self.name}: compares features: pass Outputs with as many of the student "
                f"as of the teacher, got {len(ours)} and {len(theirs)}"
            )
        return {self.name: self.compare(ours, theirs)}

    def compare(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Return the loss of paired features; for methods without adapters."""
        raise MethodError(f"method {self.name}: has learned parts, use it through a Distiller")

    def _check_declared(self, student: nn.Module, teacher: nn.Module) -> None:
        roles_wanted = ([pair[side] for pair in self.automatic] for side in (0, 1))
        sides = zip(("student", "teacher"), (student, teacher), roles_wanted, strict=True)
        for side, model, roles in sides:
            network = first_member(model)
            if PREACTIVATIONS in roles and PREACTIVATIONS not in roles_of(network):
                raise TapError(
                    f"method {self.name}: 'auto' reads the {side}'s layers before their ReLU, "
                    f"which {type(network).__name__} does not declare; name them (pairs: [[student "
                    "tap, teacher tap]], where ':in' behind the path of a ReLU means its input), "
                    "or set pairs: stages to take the stages as they are"
                )

    def _check_forms(self, pair: TapPair) -> None:
        check_forms(self.name, self.reads, pair, "pairs: [[student tap, teacher tap]]")


def check_forms(method: str, reads: Sequence[str], pair: TapPair, how: str) -> None:
    """Refuse two layers that a method cannot compare.

    Args:
        method: its name.
        reads: the forms of feature that it can compare.
        pair: the layers.
        how: what a recipe says to name others.

    Raises:
        ShapeError: a feature of another form, or the two have different ones.
    """
    forms = [FORMS.get(len(shape)) for shape in (pair.student_shape, pair.teacher_shape)]
    reason = ""
    if forms[0] != forms[1] or forms[0] not in reads:
        reason = f"compares {' or '.join(reads)} of both"
    elif forms[0] == "tokens" and pair.student_shape[1] != pair.teacher_shape[1]:
        reason = "the numbers of tokens differ"
    if reason:
        raise ShapeError(
            f"method {method}: student tap {pair.student!r} {list(pair.student_shape)} and "
            f"teacher tap {pair.teacher!r} {list(pair.teacher_shape)}: {reason}; name layers "
            f"that fit ({how})"
        )


class PairedRuntime(Runtime):
    """A method at work on pairs of layers."""

    def __init__(self, method: Paired, pairs: Sequence[TapPair]) -> None:
        super().__init__(method)
        self.pairs = list(pairs)

    def student_taps(self) -> tuple[str, ...]:
        """The student's layers, in order."""
        return tuple(pair.student for pair in self.pairs)

    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's layers, in order."""
        return tuple(pair.teacher for pair in self.pairs)

    def features(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return the paired features, the student's and the teacher's."""
        ours = [student.features[pair.student] for pair in self.pairs]
        return ours, [teacher.features[pair.teacher] for pair in self.pairs]

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return one term, by the method's name."""
        method = cast(Paired, self.method)
        return {method.name: method.compare(*self.features(student, teacher))}


def first_stages(method: str, asked: int | None, epochs: int) -> tuple[Stage, ...]:
    """Return the phases of a method that first trains alone, then leaves the student to the rest.

    Args:
        method: its name.
        asked: epochs of the first phase; None: an eighth of all; 0: one phase with everything.
        epochs: of the whole run.
    """
    length = max(1, round(epochs * FIRST_SHARE)) if asked is None else asked
    if not length:
        return ()
    first = Stage(
        name="init", epochs=length, task=False, terms=(method,), gradient_everywhere=False
    )
    return first, Stage(name="distil", without=(method,))


def as_map(feature: Tensor) -> Tensor:
    """Return tokens ``[batch, tokens, dim]`` as maps of one column, maps as they are.

    Tokens are positions, and a token's entries are the channels there.
    """
    return feature.mT.unsqueeze(-1) if feature.ndim == 3 else feature


def map_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that ``as_map`` gives."""
    return (shape[0], shape[2], shape[1], 1) if len(shape) == 3 else tuple(shape)


def total(values: Sequence[Tensor]) -> Tensor:
    """Return the sum of scalars."""
    return torch.stack(list(values)).sum()
