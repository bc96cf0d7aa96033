"""Two students teach each other in Lightning, and a teacher helps: any sum of methods."""

import tempfile

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lb
from limbeck.integrations.lightning import DistillationModule

data = lb.load_data("digits")


def loader(split, **how):
    view = data.splits[split]
    images, labels = view.samples.fetch(view.indices)
    return DataLoader(TensorDataset(images, labels), batch_size=64, **how)


def network(*channels):
    return lb.build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=channels)


def train(module, folder):
    trainer = Trainer(
        max_epochs=10,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader("train", shuffle=True), loader("validation"))
    return trainer.callback_metrics


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)
    example = next(iter(loader("train")))
    alone = DistillationModule(network(32, 64), method="plain", optimizer=sgd, example=example)
    train(alone, folder)
    teacher = alone.deploy()

    pair = DistillationModule(
        [network(8, 16), network(8, 16)],
        {"big": teacher},
        lb.KD(teacher="big", temperature=4) + lb.DML(),
        optimizer=sgd,
        example=example,
    )
    metrics = train(pair, folder)
    print({name: round(float(value), 3) for name, value in metrics.items()})
    first, second = pair.deploy().members  # plain networks
