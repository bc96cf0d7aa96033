"""Capturing: a plan's teachers are asked about its training samples; nothing is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from limbeck.engine.distributed import joined_world
from limbeck.engine.plan import Plan
from limbeck.engine.running import one_setting
from limbeck.engine.setup import assemble
from limbeck.errors import LimbeckError, TeacherError
from limbeck.teachers import CachedTeacher, CalibratedTeacher, EnsembleTeacher, RouteTeacher
from limbeck.teachers.base import Teacher


def caches_of(teachers: Mapping[str, Teacher]) -> list[CachedTeacher]:
    """Return the caches among teachers, those inside of others too."""
    return [cache for teacher in teachers.values() for cache in _inside(teacher)]


def with_caches(plan: Plan, say: Callable[[str], None] | None = None) -> Plan:
    """Return the plan with a cache around each teacher that nothing is cached of and that can be.

    Raises:
        TeacherError: none of the teachers can be cached.
    """
    teachers: dict[str, Teacher] = {}
    reasons = []
    for name, teacher in plan.teachers.items():
        try:
            inside = caches_of({name: teacher})
            teachers[name] = teacher if inside else CachedTeacher(teacher, name=name, say=say)
        except LimbeckError as error:
            teachers[name] = teacher
            reasons.append(str(error))
    if not caches_of(teachers):
        raise TeacherError(reasons[0] if reasons else "teacher: the recipe names none to ask")
    return dataclasses.replace(plan, teachers=teachers)


def capture_teachers(plan: Plan, work: Callable[[CachedTeacher], None]) -> None:
    """Put a plan together as for training, and do ``work`` with each of its caches.

    Args:
        plan: the plan of a run; its teachers are closed at the end.
        work: is given each cache, bound and told its taps.
    """
    with one_setting(plan.train), joined_world() as world:
        parts = assemble(plan, world)
        try:
            for cache in caches_of(plan.teachers):
                work(cache)
        finally:
            parts.close()


def _inside(teacher: Teacher) -> Iterator[CachedTeacher]:
    if isinstance(teacher, CachedTeacher):
        yield teacher
    elif isinstance(teacher, CalibratedTeacher):
        yield from _inside(teacher.inner)
    elif isinstance(teacher, EnsembleTeacher | RouteTeacher):
        for member in teacher.members:
            yield from _inside(member)
