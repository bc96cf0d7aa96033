"""What methods share that compare the samples of a batch with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime, Terms
from limbeck.methods.context import Context
from limbeck.methods.layers import find_pairs
from limbeck.taps import TapPair
from limbeck.taps.outputs import Outputs

if TYPE_CHECKING:
    from limbeck.data import DataBundle

AcrossRanks = Literal["gather", "local"]


@dataclass(frozen=True, kw_only=True)
class Coupled(Method):
    """Base of methods whose loss is a function of all features of a batch, without adapters.

    Args:
        pairs: "auto"; "cka" pairs the stages by how alike they see training samples; a tap of the
            same name in both; or pairs ``((student tap, teacher tap), …)``.
        across_ranks: under several processes, "gather" compares the samples of all of them (2
            processes then equal one), "local" each process its own.
    """

    pairs: str | tuple[Any, ...] = "penultimate"
    across_ranks: AcrossRanks = "gather"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.across_ranks in ("gather", "local"), "across_ranks", "gather or local")

    @property
    def compares_all_ranks(self) -> bool:
        """Whether the samples of all ranks are compared."""
        return self.across_ranks == "gather"

    def relate(self, student: Tensor, teacher: Tensor) -> Terms:
        """Return the terms of one pair of features, ``[samples, ...]`` each."""
        raise NotImplementedError

    def choose(self, pairs: list[TapPair]) -> list[TapPair]:
        """Return which pairs "auto" means, of all stages in order of depth."""
        return pairs[-1:]

    def prepare(
        self, student: nn.Module, teachers: Mapping[str, Any], data: DataBundle | None, ctx: Context
    ) -> Runtime:
        """Pair the layers."""
        found = find_pairs(self, self.pairs, student, teachers, ctx)
        return CoupledRuntime(self, self.choose(found) if self.pairs == "auto" else found)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the terms, summed over the features of student and teacher, paired in order."""
        if not student.features or len(student.features) != len(teacher.features):
            raise MethodError(
                f"method {self.name}: student and teacher must give features, as many the one as "
                f"the other; got {len(student.features)} and {len(teacher.features)}"
            )
        pairs = zip(student.features.values(), teacher.features.values(), strict=True)
        return self.compare(pairs, ctx)

    def compare(self, features: Iterable[tuple[Tensor, Tensor]], ctx: Context) -> Terms:
        """Return the terms, summed over pairs of a student's and a teacher's feature."""
        gather: Callable[[Tensor], Tensor] = ctx.gather if self.compares_all_ranks else _as_it_is
        total: dict[str, Tensor] = {}
        for ours, theirs in features:
            for name, value in self.relate(gather(ours), gather(theirs.detach())).items():
                total[name] = total[name] + value if name in total else value
        return total


class CoupledRuntime(Runtime):
    """A coupled method at work: it knows its pairs, and remembers nothing."""

    def __init__(self, method: Coupled, pairs: list[TapPair]) -> None:
        super().__init__(method)
        self.pairs = pairs

    def student_taps(self) -> tuple[str, ...]:
        """The student's layers."""
        return tuple(pair.student for pair in self.pairs)

    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's layers."""
        return tuple(pair.teacher for pair in self.pairs)

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch, ctx: Context) -> Terms:
        """Return the method's terms from its own taps."""
        features = [(student.features[p.student], teacher.features[p.teacher]) for p in self.pairs]
        return cast(Coupled, self.method).compare(features, ctx)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
