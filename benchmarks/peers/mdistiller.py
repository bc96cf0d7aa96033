"""The job in mdistiller's trainer (github.com/megvii-research/mdistiller, a checkout).

It is written for a GPU: ``Tensor.cuda`` does nothing here. Its trainer validates at the end of
every epoch, here on nothing, and writes its checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.peers.job import (
    BATCH,
    DECAY,
    FOREVER,
    KNOWLEDGE,
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
    Tensor.cuda = lambda tensor, **_: tensor  # type: ignore[assignment]
    # what a user writes
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine import trainer_dict
    from mdistiller.engine.cfg import CFG as cfg
    from torchvision import transforms

    class WithFeatures(nn.Module):
        """Networks there give logits and features."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return self.network(image), {}

    student, teacher = WithFeatures(plain_student), WithFeatures(plain_teacher)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    data = Pictures(job, transform, index=True)
    loader = DataLoader(data, BATCH, shuffle=True, collate_fn=job.collate)
    cfg.KD.TEMPERATURE = TEMPERATURE
    cfg.KD.LOSS.CE_WEIGHT, cfg.KD.LOSS.KD_WEIGHT = TASK, KNOWLEDGE
    cfg.SOLVER.LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = LR, MOMENTUM, DECAY
    cfg.SOLVER.EPOCHS, cfg.SOLVER.LR_DECAY_STAGES = FOREVER, [FOREVER]
    cfg.LOG.WANDB, cfg.LOG.PREFIX = False, str(job.folder)
    distiller = nn.DataParallel(distiller_dict["KD"](student, teacher, cfg))
    trainer = trainer_dict["base"]("kd", distiller, loader, [], cfg)
    # to here
    epochs = iter(range(1, FOREVER))
    turns.run(lambda: trainer.train_epoch(next(epochs)))


if __name__ == "__main__":
    work(train)
