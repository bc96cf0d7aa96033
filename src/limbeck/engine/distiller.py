"""The Distiller: one loop that trains, measures, checkpoints and resumes.

Everything random in a step is a function of (seed, step, rank), and the order of the data of
(seed, epoch); so a position is enough to go on from, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.data import batches, seed_everything_for_step, steps_per_epoch
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World, without_sync
from limbeck.engine.gradients import refuse_constant, refuse_non_finite_loss, shape_gradients
from limbeck.engine.keeping import Keeper
from limbeck.engine.logbook import Console, Logbook
from limbeck.engine.measuring import Judge
from limbeck.engine.optim import learning_rate, make_optimizer, set_learning_rate
from limbeck.engine.plan import Plan
from limbeck.engine.progress import Position, stage_at
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.setup import SETUP_STEP, Assembly, fit_runtimes, training_view
from limbeck.engine.signals import GracefulStop, Interrupted
from limbeck.methods.base import Stage

if TYPE_CHECKING:
    from limbeck.data import View


class Distiller:
    """Trains one student by one plan into one run folder.

    Args:
        plan: what to do, as objects.
        folder: where the run lives; created already.
        world: this process among its siblings.
        console: what a person sees.
        parts: the plan put together.
        judge: measures students.
    """

    optimizer: torch.optim.Optimizer
    wrapped: nn.Module

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        world: World,
        console: Console,
        parts: Assembly,
        judge: Judge,
    ) -> None:
        self.plan = plan
        self.train = plan.train
        self.folder = folder
        self.world = world
        self.console = console
        self.parts = parts
        self.judge = judge
        self.position = Position()
        self.view: View = training_view(plan.data, plan.methods)
        self.average = parts.average
        self.logbook = Logbook(folder, world, plan.trackers)
        self.keeper = Keeper(self)
        self.rate = 0.0
        self._stage = -1
        self._stop = GracefulStop()
        self._stopping = False

    # The run.

    def start(self) -> None:
        """Begin anew: methods fit what they fit on training data."""
        self.logbook.begin(0)
        fit_runtimes(self.parts, self.plan.data)

    def fit(self) -> None:
        """Train from the present position to the last epoch.

        Raises:
            Interrupted: after SIGINT or SIGTERM, with a checkpoint written.
            NonFiniteError: a loss became NaN or infinite.
            StorageError: a checkpoint or the log could not be written.
        """
        with self._stop:
            while self.position.epoch < self.train.epochs:
                self.enter_stage()
                self._train_epoch()
                self._end_epoch()
            if self._asked():  # while the last checkpoint was written
                raise Interrupted(str(self.folder.path))

    def close(self) -> None:
        """Remove hooks and close files; the student is plain again."""
        self.wrapped = self.parts.module  # lets go of the process group
        self.parts.close()
        self.logbook.close()

    # Stages.

    @property
    def stage(self) -> Stage:
        """The stage that the present epoch belongs to."""
        return self.parts.stages[stage_at(self.parts.stages, self.position.epoch)[0]]

    def enter_stage(self) -> None:
        """At the first epoch of a stage: a fresh optimiser and a fresh wrapper."""
        index, _ = stage_at(self.parts.stages, self.position.epoch)
        if index == self._stage:
            return
        self._stage = index
        self.optimizer = make_optimizer(self.train.optimizer, [self.parts.module])
        find_unused = self.train.find_unused_parameters
        if find_unused is None:
            find_unused = not self.stage.uses_everything
        self.wrapped = self.world.wrap(self.parts.module, find_unused=find_unused)
        if len(self.parts.stages) > 1:
            self.console.say(f"stage {self.stage.name}: {self.stage.epochs} epochs")

    # An epoch.

    def _train_epoch(self) -> None:
        position, began = self.position, time.perf_counter()
        self.parts.module.train()
        if position.step_in_epoch == 0:
            self._choose_examples()
        total, first = self._steps_per_epoch(), position.step_in_epoch
        seen = position.samples
        for micro_batches in self.world.own(self._batches()):
            self._train_step(micro_batches, position.step_in_epoch / total, 1 / total)
            position.samples += self._step_size(position.step_in_epoch)
            position.step_in_epoch += 1
            position.step += 1
            rate = (position.samples - seen) / (time.perf_counter() - began)
            self._after_step(total, rate)
        if position.step_in_epoch > first:
            seconds = time.perf_counter() - began
            self.logbook.write_timing(
                {
                    "epoch": position.epoch,
                    "seconds": seconds,
                    "samples_per_second": (position.samples - seen) / seconds,
                }
            )

    def _choose_examples(self) -> None:
        """Let the methods choose the samples of the epoch; the same on every rank."""
        self._tell_context(0.0)
        self._seed(SETUP_STEP - 1 - self.position.epoch, rank=0)
        self.view = self.parts.module.choose(self.view)

    def _after_step(self, total: int, rate: float) -> None:
        position = self.position
        if position.step % self.train.log_every == 0:
            self._flush()
        self.console.step(
            position.epoch + position.step_in_epoch / total, self.logbook.latest, rate
        )
        every = self.plan.checkpoints.every_steps
        inside = position.step_in_epoch < total
        due = every is not None and position.step % every == 0
        stopping = self._asked()
        if inside and (stopping or due):
            self.keeper.save()
        if inside and stopping:
            raise Interrupted(str(self.folder.path))

    def _end_epoch(self) -> None:
        position, ctx = self.position, self.parts.ctx
        for runtime in self.parts.module.each_runtime():
            runtime.synchronize(ctx)
            runtime.epoch_end(ctx)
        self.world.align(self.parts.student)
        self.world.align(self.parts.module.learners)
        for teacher in self.parts.teachers.values():
            teacher.epoch_end(self.parts.student, ctx)
        self._flush()
        self.logbook.write(self._epoch_record())
        last = position.epoch + 1 == self.train.epochs
        scores: dict[str, float] = {}
        if last or (position.epoch + 1) % self.train.evaluate_every == 0:
            scores = self.keeper.consider(self.judge.validate(self.deployable))
            self.logbook.write(
                {
                    "kind": "eval",
                    "epoch": position.epoch,
                    "step": position.step,
                    "split": "validation",
                    **scores,
                }
            )
        if position.epoch >= self.train.epochs - self.train.measure_train:
            self._measure_train()
        self.console.epoch(position.epoch, self.logbook.latest, self.judge.headline(scores))
        position.epoch += 1
        position.step_in_epoch = 0
        self.keeper.keep_epoch()  # before the checkpoint: what goes on from there has it
        stopping = self._asked()
        if last or stopping or self._checkpoint_due():
            self.keeper.save()
        if stopping:
            raise Interrupted(str(self.folder.path))

    def _measure_train(self) -> None:
        """Log how the student does on the samples that it learns from, all at once."""
        scores = self.world.lead(lambda: self.judge.measure(self.deployable, "train"))
        position = self.position
        record = {"kind": "eval", "epoch": position.epoch, "step": position.step, "split": "train"}
        self.logbook.write({**record, **scores})

    def _checkpoint_due(self) -> bool:
        """Whether one is due at the end of an epoch."""
        settings, position = self.plan.checkpoints, self.position
        steps = settings.every_steps
        return position.epoch % settings.every_epochs == 0 or (
            steps is not None and position.step % steps == 0
        )

    def _epoch_record(self) -> dict[str, object]:
        record: dict[str, object] = {
            "kind": "epoch",
            "epoch": self.position.epoch,
            "step": self.position.step,
            "samples": self.position.samples,
            "kept": len(self.view),
        }
        for runtime in self.parts.runtimes:
            record |= {f"{runtime.method.name}/{k}": v for k, v in runtime.report().items()}
        return record

    # A step.

    def _train_step(self, micro_batches: list[Batch], done: float, length: float) -> None:
        train, ctx, stage = self.train, self.parts.ctx, self.stage
        self._tell_context(done)
        self._seed(self.position.step, self.world.rank)
        self.parts.module.begin()
        self._set_rate(done, length)
        self.optimizer.zero_grad(set_to_none=True)
        for index, batch in enumerate(micro_batches):
            batch = self._receive(batch)
            with without_sync(self.wrapped, last=index + 1 == len(micro_batches)):
                with self._autocast():
                    loss, terms = self.wrapped(batch, stage)
                self.logbook.add(terms)
                self._refuse_useless(loss, terms)
                loss.backward()
        shape_gradients(self.parts.module, ctx, stage, train.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.parts.student)
        for teacher in self.parts.teachers.values():
            teacher.step_end(self.parts.student, ctx)
        self.logbook.step_done()

    def _receive(self, batch: Batch) -> Batch:
        batch = batch.to(self.world.device)
        if self.train.channels_last and isinstance(batch.inputs, Tensor) and batch.inputs.ndim == 4:
            inputs = batch.inputs.to(memory_format=torch.channels_last)
            batch = batch.replace(inputs=inputs, draw=batch.draw)
        for runtime in self.parts.module.data_runtimes():
            batch = runtime.batch(batch, self.parts.ctx)
        return batch

    def _set_rate(self, done: float, length: float) -> None:
        index, start = stage_at(self.parts.stages, self.position.epoch)
        epochs = self.parts.stages[index].epochs or 1
        self.rate = learning_rate(
            self.train.schedule,
            self.train.optimizer.lr,
            progress=(self.position.epoch - start + done) / epochs,
            epochs=epochs,
            step=length / epochs,
        )
        set_learning_rate(self.optimizer, self.rate)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.train.precision == "float32":
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16)

    def _refuse_useless(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Refuse a constant loss, and NaN (on a GPU only where the log synchronises anyway).

        NaN on one rank is refused on all, in the same words: none waits for one that is gone.
        """
        refuse_constant(loss, self.stage)
        if self.world.device.type == "cpu" or (self.position.step + 1) % self.train.log_every == 0:
            loss, terms = self._of_all_ranks(loss, terms)
            refuse_non_finite_loss(loss, terms, where=str(self.position), last=self.keeper.last)

    def _of_all_ranks(
        self, loss: Tensor, terms: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch and its terms, joined over all ranks."""
        if self.world.size == 1:
            return loss, terms
        told = torch.stack([value.detach().double() for value in (loss, *terms.values())])
        total = self.world.sum(told)
        return total[0] / self.world.size, dict(zip(terms, total[1:], strict=True))

    # Small things.

    @property
    def deployable(self) -> nn.Module:
        """The student that would be kept: the moving average where that is deployed."""
        if self.train.deploy == "ema" and self.average is not None:
            return self.average.module
        return self.parts.student

    def _tell_context(self, done: float) -> None:
        ctx, position = self.parts.ctx, self.position
        ctx.epoch, ctx.step, ctx.stage = position.epoch, position.step, self.stage.name
        ctx.progress = (position.epoch + done) / self.train.epochs

    def _steps_per_epoch(self) -> int:
        return steps_per_epoch(
            self.view,
            self.train.batch_size,
            world_size=self.world.size,
            accumulate=self.train.accumulate,
            drop_last=self.train.drop_last,
        )

    def _step_size(self, step: int) -> int:
        return min(self.train.batch_size, len(self.view) - step * self.train.batch_size)

    def _batches(self) -> Iterator[list[Batch]]:
        return batches(
            self.view,
            batch_size=self.train.batch_size,
            seed=self.plan.seed,
            epoch=self.position.epoch,
            augment=self.plan.data.augment_train,
            rank=self.world.rank,
            world_size=self.world.size,
            accumulate=self.train.accumulate,
            start_step=self.position.step_in_epoch,
            drop_last=self.train.drop_last,
            views=self.train.views,
        )

    def _flush(self) -> None:
        self.logbook.flush(epoch=self.position.epoch, step=self.position.step, lr=self.rate)

    def _seed(self, number: int, rank: int) -> None:
        """Seed all that is random by a number of its own: steps from 0 up, the rest below."""
        seed_everything_for_step(self.plan.seed, number, rank)
        self.parts.ctx.generator.manual_seed(torch.initial_seed())

    def _asked(self) -> bool:
        """Whether any rank was asked to stop, known to all."""
        asked = self._stopping or self._stop.asked
        if self.world.size > 1:
            told = torch.tensor(float(asked), device=self.world.device)
            asked = bool(self.world.sum(told) > 0)
        self._stopping = asked
        return asked
