"""What a loop that is not Limbeck's cannot give a method, said before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.errors import MethodError, TeacherError
from limbeck.methods.base import Method, Runtime
from limbeck.teachers import Teacher

WAY_OUT = "use limbeck.distill"


def refuse_methods(methods: Sequence[Method], *, num_students: int) -> None:
    """Raise MethodError for a method that needs more students than there are.

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


def refuse_teachers(teachers: Mapping[str, Teacher]) -> None:
    """Raise TeacherError for teachers that another loop's optimiser would not train.

    Args:
        teachers: by name.
    """
    for name, teacher in teachers.items():
        if teacher.learner is not None:
            raise TeacherError(
                f"teachers.{name}: an online teacher is trained by Limbeck's own loop; {WAY_OUT}, "
                "or give a teacher that has been trained"
            )


def refuse_runtimes(runtimes: Sequence[Runtime], *, has_data: bool) -> None:
    """Raise MethodError for seams that a loop of another engine does not have.

    Args:
        runtimes: the methods at work.
        has_data: whether the training data are known as a DataBundle.
    """
    for runtime in runtimes:
        method, kind = runtime.method, type(runtime)
        if kind.examples is not Runtime.examples and not has_data:
            raise MethodError(
                f"method {method.name}: chooses among the training data in every epoch; pass "
                f"data=limbeck.data.bundle_from(train, validation, test), or {WAY_OUT}"
            )
        if kind.fit is not Runtime.fit and not has_data:
            raise MethodError(
                f"method {method.name}: fits on the training data before the first step; pass "
                f"data=limbeck.data.bundle_from(train, validation, test), or {WAY_OUT}"
            )
