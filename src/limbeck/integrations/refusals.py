"""What a loop that is not Limbeck's cannot give a method, said before the first step."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.errors import MethodError
from limbeck.methods.base import Method, Runtime

WAY_OUT = "use limbeck.distill"


def refuse_methods(methods: Sequence[Method], *, num_students: int) -> None:
    """Raise MethodError for a method that chooses samples, or needs more students than there are.

    Args:
        methods: all methods.
        num_students: how many students learn together.
    """
    for method in methods:
        if method.card.students == "cohort" and num_students < 2:
            raise MethodError(
                f"method {method.name}: needs several students that learn together, got one; give "
                f"limbeck.Distillation or a Lightning DistillationModule a list, or {WAY_OUT}"
            )
        if method.card.selects:
            _refuse_choice(method)


def refuse_runtimes(runtimes: Sequence[Runtime], *, has_data: bool) -> None:
    """Raise MethodError for seams that a loop of another engine does not have.

    Args:
        runtimes: the methods at work.
        has_data: whether the training data are known as a DataBundle.
    """
    for runtime in runtimes:
        method, kind = runtime.method, type(runtime)
        if kind.examples is not Runtime.examples:
            _refuse_choice(method)
        stages = runtime.stages()
        if stages:
            names = ", ".join(stage.name for stage in stages)
            raise MethodError(
                f"method {method.name}: trains in stages ({names}), each with an optimiser of its "
                f"own, and this loop has one; make it one stage, or {WAY_OUT}"
            )
        if kind.fit is not Runtime.fit and not has_data:
            raise MethodError(
                f"method {method.name}: fits on the training data before the first step; pass "
                f"data=limbeck.data.bundle_from(train, validation, test), or {WAY_OUT}"
            )


def _refuse_choice(method: Method) -> None:
    raise MethodError(
        f"method {method.name}: chooses the samples of every epoch, which only Limbeck's own loop "
        f"can follow; {WAY_OUT}"
    )
