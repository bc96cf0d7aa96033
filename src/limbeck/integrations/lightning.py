"""A Lightning module that distils: Lightning's loop, strategies and checkpoints; any method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.errors import MethodError, ModelError, RecipeError
from limbeck.integrations.distillation import Distillation
from limbeck.integrations.reading import Forward, as_batch
from limbeck.integrations.refusals import WAY_OUT
from limbeck.methods.supervised import task_loss

try:
    from lightning.pytorch import LightningModule
except ImportError as missing:
    raise ModelError(
        "limbeck.integrations.lightning needs lightning: pip install 'limbeck[lightning]'"
    ) from missing

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from limbeck.data import DataBundle

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")


class DistillationModule(LightningModule):
    """A LightningModule whose training step is that of any method, or sum of methods.

    The optimiser gets student and adapters; checkpoints hold both, and teachers that change, but
    no fixed teacher. Training logs ``train_loss`` and its terms; validation logs ``val_loss``, the
    plain label term, and ``val_accuracy``. Subclass it to log more.

    Args:
        student: a module, trained in place; or a list of modules that learn together.
        teacher: what ``limbeck.distill`` takes: a module, a Teacher, a list, a mapping by name.
        method: a name, a method such as ``lb.KD(temperature=2)``, or a sum of methods.
        optimizer: makes what ``configure_optimizers`` returns out of the parameters to train, such
            as ``lambda parameters: torch.optim.SGD(parameters, lr=0.1)``.
        example: a batch of at least two samples, from which methods see shapes.
        task: "classification", "multilabel" or "regression"; None: guessed from the example.
        task_weight: weight of the one task term; None: that of the leftmost method's paper.
        forward: ``forward(model, batch)`` for models that are not called as ``model(inputs)``.
        data: the training data as a bundle, for methods that fit on them, remember samples or
            choose them.
        seed: seed of adapters and of what methods draw.

    Raises:
        LimbeckError: one line that says what does not fit.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any = None,
        method: Any = "kd",
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], Any],
        example: Any,
        task: str | None = None,
        task_weight: float | None = None,
        forward: Forward | None = None,
        data: DataBundle | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.distillation = Distillation(
            student,
            teacher,
            method,
            example=example,
            task=task,
            task_weight=task_weight,
            forward=forward,
            data=data,
            epochs=None,  # Lightning says it when training starts
            seed=seed,
        )
        self._make_optimizer = optimizer
        self._ddp_params_and_buffers_to_ignore = [
            f"distillation.{name}" for name in self.distillation.memory_names()
        ]

    @property
    def student(self) -> nn.Module:
        """The student, as it is trained."""
        return self.distillation.student

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the student."""
        return self.student(*inputs, **named)

    def deploy(self) -> nn.Module:
        """Return the plain student in eval mode, once training is over."""
        return self.distillation.deploy()

    def batches(self, size: int, *, drop_last: bool = False) -> DataLoader[Any]:
        """Return the loader to train on where a method chooses samples; see ``Distillation``.

        With it, give Lightning's Trainer ``reload_dataloaders_every_n_epochs=1``, so that it asks
        for the number of batches in every epoch.
        """
        return self.distillation.batches(size, drop_last=drop_last)

    def setup(self, stage: str) -> None:
        """Refuse strategies that shard the module, or that wait for gradients that never come."""
        strategy, chooses = self.trainer.strategy, self.distillation.chooses_samples
        kind = type(strategy).__name__
        if stage == "fit" and kind.startswith(_SHARDED):
            raise RecipeError(f"strategy: {kind} shards what methods must read; {WAY_OUT}")
        if stage == "fit" and chooses and self.trainer.world_size > 1:
            raise MethodError(
                f"method {chooses}: chooses samples, here in one process only; {WAY_OUT}"
            )

    def configure_optimizers(self) -> Any:
        """Return the optimiser over student and adapters."""
        return self._make_optimizer([p for p in self.parameters() if p.requires_grad])

    def on_train_start(self) -> None:
        """Tell the methods how long training will be."""
        trainer = self.trainer
        epochs, steps = trainer.max_epochs, int(trainer.estimated_stepping_batches)
        if not epochs or epochs < 0:  # max_steps says how long
            each = trainer.num_training_batches / trainer.accumulate_grad_batches
            epochs = max(1, math.ceil(steps / math.ceil(each))) if math.isfinite(each) else 1
        self.distillation.expect(steps=steps, epochs=epochs)
        find = getattr(self.trainer.strategy, "_ddp_kwargs", {"find_unused_parameters": True})
        if self.distillation.has_stages and not find.get("find_unused_parameters"):
            raise RecipeError(
                "strategy: in a stage not all parameters get gradients; give Trainer "
                'strategy="ddp_find_unused_parameters_true"'
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Catch up where a checkpoint was written between the last step and the epoch's end."""
        if self.distillation.epoch < self.trainer.current_epoch:
            self.distillation.epoch_end()
        self.distillation.epoch_start(*self._optimizers())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch; log it and its terms."""
        loss: Tensor = self.distillation(batch)
        size = len(as_batch(batch, None))
        terms = dict(self.distillation.terms)
        self.log("train_loss", terms.pop("loss"), batch_size=size, prog_bar=True)
        self.log_dict({f"train_{name}": value for name, value in terms.items()}, batch_size=size)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Let methods add to gradients, before they are clipped."""
        self.distillation.before_step()

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Step; then let teachers follow."""
        super().optimizer_step(*arguments, **options)
        self.distillation.after_step()

    def on_train_epoch_end(self) -> None:
        """Bring memories up to date."""
        self.distillation.epoch_end()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the plain label term, and accuracy for classes."""
        self._measure(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the same as in validation."""
        self._measure(batch, "test")

    def _optimizers(self) -> list[Any]:
        found = self.optimizers(use_pl_optimizer=False)
        return found if isinstance(found, list) else [found]

    def _measure(self, batch: Any, split: str) -> None:
        task = self.distillation.task
        read = as_batch(batch, task)
        if read.targets is None:
            return
        logits = self.distillation.logits(read)
        self.log(f"{split}_loss", task_loss(task, logits, read.targets), batch_size=len(read))
        if task == "classification":
            known = read.targets >= 0
            right = (logits.argmax(dim=1) == read.targets)[known].float()
            if len(right):
                self.log(f"{split}_accuracy", right.mean(), batch_size=len(right))
