"""The job in Limbeck: with the teacher live, or from a cache that holds every view."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.job import (
    BATCH,
    CLASSES,
    FOREVER,
    MEAN,
    STD,
    VIEWS,
    Job,
    work,
)
from benchmarks.turns import Turns


def train(turns: Turns, job: Job) -> None:
    """Train; layout and precision are settings."""
    student, teacher = job.plain_networks()
    settings: dict[str, Any] = {"channels_last": True} if job.channels_last else {}
    if job.reduced:
        from limbeck.teachers import LiveTeacher

        precise: Any = {"precision": "bfloat16", "channels_last": job.channels_last}
        teacher = LiveTeacher(teacher, **precise)  # type: ignore[assignment]
    cached = job.variant == "cached"
    pace(turns, skip=VIEWS if cached else 0)
    (with_cache if cached else live)(job, student, teacher, (job.images, job.labels), settings)


def live(job: Job, student: Any, teacher: Any, images: Any, settings: dict[str, Any]) -> None:
    # what a user writes
    import limbeck as lb
    from limbeck.data import Normalize, bundle_from

    data = bundle_from(
        images,
        validation=images,
        test=images,
        num_classes=CLASSES,
        normalization=Normalize(MEAN, STD),
        augment=[{"crop": {"padding": 4}}, "flip"],
    )
    lb.distill(
        teacher=teacher,
        student=student,
        data=data,
        method="kd",
        epochs=FOREVER,
        batch_size=BATCH,
        train={"schedule": {"name": "constant"}, **settings},
        output=job.folder / "run",
        quiet=True,
    )
    # to here


def with_cache(job: Job, student: Any, teacher: Any, images: Any, settings: dict[str, Any]) -> None:
    # what a user writes
    import limbeck as lb
    from limbeck.data import Normalize, bundle_from
    from limbeck.teachers import CachedTeacher

    data = bundle_from(
        images,
        validation=images,
        test=images,
        num_classes=CLASSES,
        normalization=Normalize(MEAN, STD),
        augment=[{"crop": {"padding": 4}}, "flip"],
    )
    lb.distill(
        teacher=CachedTeacher(teacher, job.folder / "cache"),
        student=student,
        data=data,
        method="kd",
        epochs=FOREVER,
        batch_size=BATCH,
        train={"schedule": {"name": "constant"}, "views": VIEWS, **settings},
        output=job.folder / "run",
        quiet=True,
    )
    # to here


def pace(turns: Turns, skip: int) -> None:
    """Let each epoch wait for its turn; the first ``skip`` fill the cache before that.

    Evaluation and checkpoints come between turns: nobody's are measured.
    """
    from limbeck.engine.distiller import Distiller

    original = Distiller._train_epoch

    def paced(run: Distiller) -> None:
        waits = run.position.epoch >= skip
        if waits:
            turns.begin()
        original(run)
        if waits:
            turns.end()

    Distiller._train_epoch = paced  # type: ignore[method-assign]


if __name__ == "__main__":
    work(train)
