"""ONNX teacher: a network in a file, from whatever framework, asked through onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from limbeck.data.normalize import Normalize
from limbeck.errors import TeacherError, unknown
from limbeck.teachers.black_box import BlackBoxTeacher
from limbeck.teachers.digest import digest_of_parts
from limbeck.teachers.onnx_file import OnnxFile

if TYPE_CHECKING:
    from limbeck.data.bundle import DataBundle

OUTPUTS = ("auto", "logits", "probabilities")
_TOLERANCE = 1e-3  # as for probabilities everywhere: float16 rows sum to 1 within this


class OnnxTeacher(BlackBoxTeacher):
    """A network in an ONNX file as teacher. It gives outputs only: no features, no gradients.

    Inputs go to the file's one input, or by name where the data are mappings; a file with a fixed
    batch size is asked in pieces of that size.

    Args:
        path: the file; weights that it keeps beside it count in the fingerprint too.
        output: "logits" or "probabilities". "auto": probabilities where every row of the first
            answer is a distribution (several labels: where every value lies in [0, 1]), else
            logits; ``describe`` says which. For regression, values, always.
        output_name: the output to read; None: the only one, the one called "logits" or
            "probabilities", or the only one of floats.
        normalization: the statistics it expects of its inputs, where they are not the data's.
        threads: of onnxruntime; None: as many as torch has.
        providers: onnxruntime's execution providers; None: the CPU's.
        floor: the least probability, above 0, as for ``BlackBoxTeacher``.
        name: what methods call it.

    Raises:
        TeacherError: onnxruntime or the file is missing, the file is damaged, an argument unknown;
            on ``bind``, inputs or class counts that do not fit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        output: Literal["auto", "logits", "probabilities"] = "auto",
        output_name: str | None = None,
        normalization: Normalize | None = None,
        threads: int | None = None,
        providers: Sequence[Any] | None = None,
        floor: float = 1e-12,
        name: str = "teacher",
    ) -> None:
        if output not in OUTPUTS:
            raise TeacherError(f"teachers.{name}: " + unknown("output", output, OUTPUTS))
        self.file = OnnxFile(
            path, output_name=output_name, threads=threads, providers=providers, name=name
        )
        self.output = output
        self._told = output != "auto"
        super().__init__(
            self.file,
            gives="logits" if output == "auto" else output,
            floor=floor,
            takes="numpy",
            flatten=False,
            normalization=normalization,
            name=name,
        )

    logits_advice = "for logits say output: logits"

    def bind(self, data: DataBundle | None, device: torch.device) -> None:
        """Check inputs and class counts on some samples, and tell probabilities from logits."""
        self.file.name = self.name
        if data is not None:
            size = self.file.output_size
            if size is not None and size not in (data.num_outputs, 1):
                raise TeacherError(
                    f"teachers.{self.name}: {self.file.path.name} gives {size} outputs, the data "
                    f"have {data.num_outputs} (class counts differ)"
                )
            if self.output == "auto":  # told anew for these data
                self._told = False
                self.gives = "logits"
        super().bind(data, device)

    def _answer(self, inputs: Any, size: int) -> np.ndarray[Any, Any]:
        answer = super()._answer(inputs, size)
        if not self._told and answer.ndim == 2 and answer.size:
            self._told = True
            if _are_probabilities(answer, self.task):
                self.gives = "probabilities"
        return answer

    def fingerprint(self) -> str:
        """Return the sha256 of the file, of the weights beside it, and of how it is asked."""
        return digest_of_parts(
            "onnx teacher",
            self.file.digest(),
            self.output,
            repr(self.floor),
            self.task,
            self._statistics.key(),
        )

    def describe(self) -> str:
        """Return file and inputs, what it gives and who said so, and the statistics it sees."""
        gives: str = self.gives if self.task != "regression" else "values"
        if self.output == "auto" and self.task != "regression":
            gives += " (told by its answers)" if self._told else " or probabilities (told on bind)"
        return f"{self.file.describe()}, gives {gives}; {self._statistics.describe()}"


def _are_probabilities(answer: np.ndarray[Any, Any], task: str) -> bool:
    if answer.min() < 0 or answer.max() > 1 + _TOLERANCE:
        return False
    return task == "multilabel" or bool((np.abs(answer.sum(axis=1) - 1) <= _TOLERANCE).all())
