"""A transformers Trainer that distils: its loop, its arguments, its checkpoints; any method."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from limbeck.data import batches
from limbeck.data.batch import Batch, has_label
from limbeck.engine.asking import members_of
from limbeck.errors import CheckpointError, MethodError, ModelError, RecipeError
from limbeck.files import write_bytes
from limbeck.integrations.distillation import Distillation
from limbeck.integrations.indexed import INDEX, IndexedDataset
from limbeck.integrations.reading import Forward, as_batch, read_student
from limbeck.integrations.refusals import WAY_OUT
from limbeck.methods import as_methods
from limbeck.methods.supervised import task_loss
from limbeck.taps.outputs import as_outputs

try:
    from transformers import Trainer, TrainerCallback
except ImportError as missing:
    raise ModelError(
        "limbeck.integrations.transformers needs transformers and accelerate: "
        "pip install 'limbeck[language]' accelerate"
    ) from missing
if not hasattr(Trainer, "_prepare_for_training"):
    raise ModelError(
        "limbeck.integrations.transformers needs transformers 5 or newer: "
        "pip install -U transformers"
    )

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from limbeck.data import DataBundle

OWN = "limbeck_batch"
STATE_FILE = "limbeck.safetensors"
"""Beside the student in each checkpoint: adapters, memories, teachers that change."""


class DistillationTrainer(Trainer):
    """``transformers.Trainer`` whose loss is that of any method, or sum of methods.

    The label term is Limbeck's (one, with one weight), not the model's own: labels are taken out of
    the batch before the model sees it. ``eval_loss`` is the plain label term, whatever the method.
    After ``train()`` the student is plain again (``trainer.model``): no hooks, no adapters.

    Args:
        model: the student, trained in place: a transformers model, or any module that takes the
            batch's keys as arguments and returns logits; or a list of them that learn together.
        args: ``TrainingArguments``.
        teacher: what ``limbeck.distill`` takes: a module, a Teacher, a list, a mapping by name.
        method: a name, a method such as ``lb.KD(temperature=2)``, or a sum of methods.
        task_weight: weight of the one task term; None: that of the leftmost method's paper.
        task: "classification", "multilabel" or "regression"; None: guessed from two samples.
        forward: ``forward(model, batch)`` for models that are not called with the batch's keys.
        data: the training data as a bundle, for methods that fit on them or remember samples; for
            those that choose samples in place of ``train_dataset``.
        **options: the other arguments of ``Trainer`` (``train_dataset``, ``data_collator`` …).

    Raises:
        LimbeckError: one line that says what does not fit, before the first step.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Any = None,
        *,
        teacher: Any = None,
        method: Any = "kd",
        task_weight: float | None = None,
        task: str | None = None,
        forward: Forward | None = None,
        data: DataBundle | None = None,
        **options: Any,
    ) -> None:
        methods = as_methods(method)
        selects = next((one.name for one in methods if one.card.selects), None)
        _refuse_options(options, selects is not None and data is not None)
        model = read_student(model)
        if args is not None:
            _refuse_arguments(args, selects)
        self._index = any(one.card.needs_index for one in methods) and selects is None
        if self._index:
            options["train_dataset"] = IndexedDataset(options["train_dataset"])
        super().__init__(model, args, **options)
        self.label_names = self.label_names or ["labels"]  # of modules whose forward takes none
        if len(self.label_names) > 1:
            names = ", ".join(self.label_names)
            raise RecipeError(f"args.label_names: expected one name, got {names}")
        self.model_accepts_loss_kwargs = False  # the model sees no labels and gives no loss
        self.loss_is_scaled_for_ga = True  # batches say their share of a step
        self._forward, self._data = forward, data
        self._shares: deque[tuple[float, float]] = deque()
        self._sums: dict[str, Tensor] = {}
        self._counted = 0
        with torch.random.fork_rng(devices=[]):
            example = self._example()
        self.distillation = Distillation(
            model,
            teacher,
            methods,
            example=example,
            task=task,
            task_weight=task_weight,
            forward=forward,
            data=data,
            epochs=None,  # known when training starts
            seed=self.args.seed,
            labels=self.label_names[0],
        )
        if self.args.fp16 and self.distillation.changes_gradients:
            raise MethodError(
                f"args.fp16: method {self.distillation.changes_gradients} changes gradients, which "
                "fp16 scales; set bf16=True or neither"
            )
        self.model = self.model_wrapped = self.distillation.student
        self.add_callback(_Following(self.distillation))

    # The loss.

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the distillation loss in training; in evaluation the plain label term."""
        batch = self._read(inputs)
        if self.accelerator.unwrap_model(model) is self.distillation:
            share, label_share = self._shares.popleft()
            loss = model(batch.replace(share=share, label_share=label_share))
            self._note(self.distillation.terms)
            return (loss, {}) if return_outputs else loss
        with self.accelerator.autocast():
            said = self._ask(model, batch)
        logits = as_outputs(said).logits
        assert batch.targets is not None  # Trainer asks for a loss where there are labels
        loss = task_loss(self.distillation.task, logits, batch.targets)
        outputs = said if isinstance(said, Mapping) else {"logits": logits}
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Do what Trainer does; then let methods add to gradients, before they are clipped."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.distillation.before_step()
        return loss

    def get_batch_samples(self, *arguments: Any, **options: Any) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of a step, and note which share of it each one is."""
        parts, count = super().get_batch_samples(*arguments, **options)
        self._shares = deque(self._shares_of(parts))
        return parts, count

    def _ask(self, model: nn.Module, batch: Batch) -> Any:
        """Ask a plain student; a cohort gives the mean of its members' logits."""
        members = members_of(model)
        if self._forward:
            said = [self._forward(one, batch) for one in members]
        else:
            said = [one(**batch.inputs) for one in members]
        if len(said) == 1:
            return said[0]
        return {"logits": torch.stack([as_outputs(one).logits for one in said]).mean(dim=0)}

    def _shares_of(self, parts: list[Any]) -> list[tuple[float, float]]:
        if not parts:  # an epoch with fewer samples than the first
            return []
        if len(parts) == self.accelerator.num_processes == 1:
            return [(1.0, 1.0)]
        read = [self._read(one) for one in parts]
        counts = torch.tensor([[len(one), _num_labelled(one)] for one in read], dtype=torch.float64)
        totals = counts.sum(dim=0).float().to(self.args.device)
        samples, labelled = self.accelerator.reduce(totals, reduction="sum").tolist()
        return [(n / samples, k / max(1.0, labelled)) for n, k in counts.tolist()]

    # What is trained: student and adapters as one module, which is wrapped and optimised as one.

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return Trainer's loader; where a method chooses samples, that of the chosen ones."""
        if self.distillation.chooses_samples:
            chosen = self.distillation.batches(self._train_batch_size)
            chosen.collate_fn = _as_mapping  # Trainer looks into batches by key
            return chosen
        loader: DataLoader[Any] = super().get_train_dataloader()
        return loader

    def train(self, resume_from_checkpoint: Any = None, *arguments: Any, **options: Any) -> Any:
        """Train as Trainer does; afterwards ``model`` is the plain student, in eval mode."""
        chooses = self.distillation.chooses_samples
        if chooses and resume_from_checkpoint:
            raise MethodError(
                f"method {chooses}: epochs differ in length, and Trainer resumes by counting steps "
                f"of equal ones; {WAY_OUT}"
            )
        if self.distillation.deployed:
            raise ModelError(
                "the student was trained and is plain; make a new DistillationTrainer to go on"
            )
        result = super().train(resume_from_checkpoint, *arguments, **options)
        self.model = self.model_wrapped = self.distillation.deploy()
        return result

    def _prepare_for_training(self, *arguments: Any, **options: Any) -> Any:
        student = self.model
        self.model = self.model_wrapped = self.distillation
        try:
            prepared: Any = super()._prepare_for_training(*arguments, **options)  # type: ignore[no-untyped-call]
        finally:
            self.model = student
        self.callback_handler.model = student
        self.distillation.expect(
            steps=self.state.max_steps, epochs=math.ceil(self.state.num_train_epochs)
        )
        return prepared

    # Checkpoints: the student as Trainer saves it; the rest in a file of its own.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the plain student; in a checkpoint also ``limbeck.safetensors`` beside it."""
        if _internal_call:
            self.distillation.synchronize()
        super().save_model(output_dir, _internal_call)
        if _internal_call and self.args.should_save:
            state = {k: _own(v) for k, v in self.distillation.training_state().items()}
            write_bytes(Path(str(output_dir)) / STATE_FILE, save(state))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / STATE_FILE
        try:
            self.distillation.load_training_state(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{path}: no state of these methods ({reason}); resume with the method, student "
                "and teachers that wrote the checkpoint"
            ) from error

    # Small things.

    def _read(self, inputs: Mapping[str, Any]) -> Batch:
        own: Batch | None = inputs.get(OWN)
        return own or as_batch(inputs, self.distillation.task, self.label_names[0])

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Log; with the loss, the mean of each of its terms."""
        if "loss" in logs and self._counted:
            means = {name: float(value) / self._counted for name, value in self._sums.items()}
            logs = {**logs, **{name: value for name, value in means.items() if name != "loss"}}
            self._sums, self._counted = {}, 0
        super().log(logs, *arguments, **options)

    def _note(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counted += self.accelerator.sync_gradients  # terms of a step add up to its mean

    def _set_signature_columns_if_needed(self) -> None:
        trained: Any = self.model
        self.model = members_of(trained)[0]  # Trainer asks its forward
        super()._set_signature_columns_if_needed()
        self.model = trained
        columns: Any = self._signature_columns
        if self._index and INDEX not in columns:
            columns.append(INDEX)

    def _example(self) -> Any:
        """Return two training samples as the loop would collate them, on the model's device."""
        data: Any = self.train_dataset
        if data is None:
            assert self._data is not None  # or train_dataset was asked for
            shown, augment = self._data.splits["train"], self._data.augment_train
            return next(batches(shown, batch_size=2, seed=0, epoch=0, augment=augment))[0]
        if hasattr(data, "__getitem__"):
            samples = [data[index] for index in range(min(2, len(data)))]
        else:
            samples = list(itertools.islice(data, 2))
        collate = self._get_collator_with_removed_columns(self.data_collator)
        return self._prepare_inputs(collate(samples))


class _Following(TrainerCallback):
    """Tells the distillation of steps and epochs."""

    def __init__(self, distillation: Distillation) -> None:
        self._distillation = distillation

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Catch up where a checkpoint was written between the last step and the epoch's end."""
        if self._distillation.epoch < math.floor((state.epoch or 0.0) + 1e-6):
            self._distillation.epoch_end()
        self._distillation.epoch_start(options["optimizer"])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Let teachers follow."""
        self._distillation.after_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Bring memories up to date, before evaluation and checkpoint."""
        self._distillation.epoch_end()


def _refuse_options(options: Mapping[str, Any], has_samples: bool) -> None:
    for name in ("compute_loss_func", "model_init"):
        if options.get(name) is not None:
            raise RecipeError(
                f"{name}: the loss is the method's, and the model is given; leave it out"
            )
    given = options.get("train_dataset") is not None
    if has_samples and given:
        raise RecipeError("train_dataset: samples are chosen from data=...; leave it out")
    if not has_samples and not given:
        raise RecipeError("train_dataset: expected a data set, got None")


def _refuse_arguments(args: Any, selects: str | None) -> None:
    """Raise RecipeError for training arguments that clash with the method's loss or with taps."""
    if selects and (args.gradient_accumulation_steps > 1 or args.world_size > 1):
        raise RecipeError(
            f"args: method {selects} chooses samples, here in one process and without "
            f"gradient_accumulation_steps; {WAY_OUT}"
        )
    if args.label_smoothing_factor:
        raise RecipeError(
            f"args.label_smoothing_factor={args.label_smoothing_factor}: the label term is the "
            f"method's; write method=lb.LabelSmoothing(epsilon={args.label_smoothing_factor}) + ..."
        )
    for name in ("fsdp", "deepspeed", "torch_compile"):
        if getattr(args, name, None):
            raise RecipeError(f"args.{name}: features cannot be read under it here; {WAY_OUT}")
    if args.n_gpu > 1:
        raise RecipeError(
            f"args: {args.n_gpu} GPUs in one process cannot share hooks; start with torchrun"
        )


def _as_mapping(batch: Batch) -> dict[str, Batch]:
    return {OWN: batch}


def _num_labelled(batch: Batch) -> int:
    if batch.targets is None:
        return 0
    return int(has_label(batch.targets).sum())


def _own(value: Tensor) -> Tensor:
    return value.detach().cpu().clone().contiguous()
