"""What is exported: a student, the run it comes from, and real samples to check it on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.bundle import DataBundle
from limbeck.engine.run_folder import RunFolder
from limbeck.errors import ExportError
from limbeck.export.served import Forward, Preprocessed, Served, ServedByName
from limbeck.models import read_spec
from limbeck.models.calling import call_model, first_samples

CHECKED_BATCH = 64


@dataclass(frozen=True)
class Subject:
    """A trained student on its way out.

    Attributes:
        run: the folder of its run.
        student: its own copy of the trained module: on the CPU, in eval mode, without gradients.
        served: from what the export takes to logits.
        data: the run's data.
        baked: whether the export takes raw inputs and normalises them itself.
        samples: how many samples of the test part an export is checked on.
        calibration: how many training samples quantisation may look at.
        forward: how the student is asked where it is not ``student(inputs)``.
    """

    run: RunFolder
    student: nn.Module
    served: nn.Module
    data: DataBundle
    baked: bool
    samples: int
    calibration: int
    forward: Forward | None = None

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """What model.json of the run's student says."""
        return read_spec(self.run.student)

    @property
    def part(self) -> str:
        """The part of the data that an export is checked on."""
        return "test" if len(self.data.splits["test"]) else "validation"

    @cached_property
    def checked(self) -> list[Batch]:
        """Real samples of that part, in the form that the export takes."""
        return self._batches(self.part, self.samples, seed=None)

    @cached_property
    def calibrated(self) -> list[Batch]:
        """Training samples, not augmented, drawn once; in whole batches where there are several.

        onnxruntime joins what it sees of each batch into one array: all have to be as long.
        """
        batches = self._batches("train", self.calibration, seed=0)
        return [batch for batch in batches if len(batch) == len(batches[0])]

    def ask(self, inputs: Any) -> Tensor:
        """Return what the student, as it is served, answers to inputs."""
        logits: Tensor = call_model(self.served, inputs)
        return logits

    @cached_property
    def held_out(self) -> list[Batch]:
        """Validation samples, on which ways to quantise are compared; never those of the test."""
        part = "validation" if len(self.data.splits["validation"]) else "train"
        return self._batches(part, 4 * self.calibration, seed=1)

    @property
    def example(self) -> Any:
        """Inputs of two samples: enough to follow a batch through the graph."""
        inputs = self.checked[0].inputs
        pair = first_samples(inputs, 2)
        return _twice(pair) if len(self.checked[0]) < 2 else pair

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of inputs that are given by name; () for one tensor."""
        inputs = self.checked[0].inputs
        return tuple(inputs) if isinstance(inputs, Mapping) else ()

    @property
    def takes_numbers(self) -> bool:
        """Whether the input is one tensor of pixels or real values (and not tokens)."""
        inputs = self.checked[0].inputs
        return isinstance(inputs, Tensor) and (inputs.is_floating_point() or self.baked)

    def _batches(self, part: str, count: int, seed: int | None) -> list[Batch]:
        view = self.data.splits[part]
        places = torch.arange(len(view))
        if seed is not None:
            places = torch.randperm(len(view), generator=torch.Generator().manual_seed(seed))
        batches = []
        for positions in torch.split(places[:count], CHECKED_BATCH):
            raw = view.fetch(positions)
            if not self.baked:
                raw = raw.replace(inputs=self.data.augment_eval(raw.inputs, raw.index))
            batches.append(raw)
        return batches


def make_subject(
    run: RunFolder,
    student: nn.Module,
    data: DataBundle,
    *,
    forward: Forward | None = None,
    with_preprocessing: bool = False,
    samples: int = 10_000,
    calibration: int = 512,
) -> Subject:
    """Take a copy of the student and prepare it; raises ExportError for what cannot be."""
    for name, value in (("samples", samples), ("calibration", calibration)):
        if value < 1:
            raise ExportError(f"{name}: expected at least 1 sample, got {value}")
    own = copy.deepcopy(student).cpu().eval().requires_grad_(False)
    served: nn.Module = Served(own, forward)
    one = data.splits["train"].fetch(torch.zeros(1, dtype=torch.int64)).inputs
    if isinstance(one, Mapping):
        served = ServedByName(Served(own, forward), list(one))
    if with_preprocessing:
        served = Preprocessed(served, data)
    return Subject(run, own, served.eval(), data, with_preprocessing, samples, calibration, forward)


def _twice(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _twice(value) for name, value in inputs.items()}
    return torch.cat([inputs, inputs])
