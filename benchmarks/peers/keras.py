"""The job in Keras' Distiller on its torch backend, as its documentation shows it.

The networks are the torch modules of all sides, wrapped as Keras layers.
"""

from __future__ import annotations

import os

from torch.utils.data import DataLoader

from benchmarks.peers.job import (
    BATCH,
    CLASSES,
    DECAY,
    LR,
    MEAN,
    MOMENTUM,
    STD,
    TASK,
    TEMPERATURE,
    Job,
    Pictures,
    work,
)
from benchmarks.turns import Turns


def train(turns: Turns, job: Job) -> None:
    plain_student, plain_teacher = job.networks()
    os.environ["KERAS_HOME"] = str(job.folder)
    # what a user writes
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from torchvision import transforms

    def wrapped(network: object) -> object:
        layer = keras.layers.TorchModuleWrapper(network, output_shape=(None, CLASSES))
        return keras.Sequential([keras.Input((3, 32, 32)), layer])

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = Pictures(job, transform)
    loader = DataLoader(data, BATCH, shuffle=True, collate_fn=job.collate)
    distiller = keras.distillation.Distiller(
        teacher=wrapped(plain_teacher),
        student=wrapped(plain_student),
        distillation_losses=keras.distillation.LogitsDistillation(temperature=TEMPERATURE),
        student_loss_weight=TASK,
    )
    distiller.compile(
        optimizer=keras.optimizers.SGD(LR, momentum=MOMENTUM, weight_decay=DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # to here
    turns.run(lambda: distiller.fit(loader, epochs=1, verbose=0))


if __name__ == "__main__":
    work(train)
