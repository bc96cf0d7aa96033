"""An ONNX file as a function of arrays, through onnxruntime."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.errors import TeacherError, unknown
from limbeck.files import digest
from limbeck.teachers.digest import digest_of_parts

Array = np.ndarray[Any, Any]
_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
_USUAL = ("logits", "probabilities")


class OnnxFile:
    """Answers arrays with one output of a network in an ONNX file.

    A batch dimension that the file fixes is kept to: inputs are asked in pieces of that size, the
    last one padded. Types are those that the file wants.

    Args:
        path: the file.
        output_name: the output to read; None: the only one, the one called "logits" or
            "probabilities", or the only one of floats.
        threads: of onnxruntime within one operator; None: as many as torch has.
        providers: onnxruntime's execution providers; None: the CPU's.
        name: the teacher's name, for messages.

    Raises:
        TeacherError: onnxruntime is missing, the file is missing or damaged, or no output can be
            chosen; on a call, inputs that do not fit the file's.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        output_name: str | None = None,
        threads: int | None = None,
        providers: Sequence[Any] | None = None,
        name: str = "teacher",
    ) -> None:
        self.name = name
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise TeacherError(f"teachers.{name}.onnx: there is no file {self.path}")
        self._session = _session(self.path, threads, providers, name)
        self._inputs = {one.name: one for one in self._session.get_inputs()}
        self.output_name = self._choose(output_name)
        sizes = {one.shape[0] for one in self._inputs.values() if one.shape}
        fixed = [size for size in sizes if isinstance(size, int)]
        self.batch_size: int | None = fixed[0] if fixed else None

    @property
    def output_size(self) -> int | None:
        """Outputs a sample, where the file says."""
        shape = next(o.shape for o in self._session.get_outputs() if o.name == self.output_name)
        return shape[-1] if shape and len(shape) > 1 and isinstance(shape[-1], int) else None

    def __call__(self, inputs: Any) -> Array:
        """Return the chosen output ``[batch, ...]`` for an array, or a mapping or tuple of them."""
        feed = self._feed(inputs)
        size = len(next(iter(feed.values())))
        step = self.batch_size or size
        if step == size:
            return self._run(feed)
        pieces = [self._run_padded(feed, start, step) for start in range(0, size, step)]
        return np.concatenate(pieces) if pieces else self._run(feed)

    def digest(self) -> str:
        """Return the sha256 of the file, of the weights it keeps beside it, and of the output."""
        parts = [digest(self.path), *(digest(file) for file in _files_beside(self.path))]
        return digest_of_parts("onnx", *parts, self.output_name)

    def describe(self) -> str:
        """Return the file's name and what it takes."""
        inputs = ", ".join(f"{one.name} {_words(one.shape)}" for one in self._inputs.values())
        return f"ONNX {self.path.name}, input {inputs}"

    def _choose(self, wanted: str | None) -> str:
        outputs = {one.name: one.type for one in self._session.get_outputs()}
        if wanted is not None:
            if wanted not in outputs:
                raise TeacherError(
                    f"teachers.{self.name}.output_name: " + unknown("output", wanted, outputs)
                )
            chosen = wanted
        else:
            floats = [name for name, kind in outputs.items() if kind in _FLOATS]
            usual = [name for name in _USUAL if name in outputs]
            found = list(outputs) if len(outputs) == 1 else usual or floats
            if len(found) != 1:
                raise TeacherError(
                    f"teachers.{self.name}.output_name: say which output of {self.path.name} to "
                    f"read: {', '.join(outputs)}"
                )
            chosen = found[0]
        if outputs[chosen] not in _FLOATS:
            advice = ""
            if outputs[chosen].startswith("seq"):  # scikit-learn's converters do so unless told
                advice = "; export it with zipmap=False"
            raise TeacherError(
                f"teachers.{self.name}: output {chosen!r} of {self.path.name} is "
                f"{outputs[chosen]}, expected a tensor of floats{advice}"
            )
        return chosen

    def _feed(self, inputs: Any) -> dict[str, Array]:
        names = list(self._inputs)
        if isinstance(inputs, Mapping):
            missing = [name for name in names if name not in inputs]
            if missing:
                raise TeacherError(
                    f"teachers.{self.name}: {self.path.name} needs the input {missing[0]!r}, the "
                    f"data have {', '.join(inputs)}"
                )
            given = {name: inputs[name] for name in names}
        else:
            values = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
            if len(values) != len(names):
                raise TeacherError(
                    f"teachers.{self.name}: {self.path.name} takes {len(names)} inputs "
                    f"({', '.join(names)}), the data give {len(values)}; give them by name"
                )
            given = dict(zip(names, values, strict=True))
        return {name: self._fitted(name, np.asarray(value)) for name, value in given.items()}

    def _fitted(self, name: str, value: Array) -> Array:
        wanted = self._inputs[name]
        shape = list(wanted.shape)
        same = len(shape) == value.ndim and all(
            not isinstance(size, int) or size == have
            for size, have in zip(shape[1:], value.shape[1:], strict=True)
        )
        if not same:
            raise TeacherError(
                f"teachers.{self.name}: {self.path.name} reads {name!r} of shape {_words(shape)}, "
                f"the data have {_words(['batch', *value.shape[1:]])}"
            )
        kind = _TYPES.get(wanted.type)
        return np.ascontiguousarray(value if kind is None else value.astype(kind, copy=False))

    def _run(self, feed: Mapping[str, Array]) -> Array:
        answer: Array = self._session.run([self.output_name], dict(feed))[0]
        return answer

    def _run_padded(self, feed: Mapping[str, Array], start: int, step: int) -> Array:
        parts = {name: value[start : start + step] for name, value in feed.items()}
        have = len(next(iter(parts.values())))
        if have < step:  # repeat the last sample: real values, which no operator stumbles over
            parts = {
                n: np.concatenate([v, v[-1:].repeat(step - have, 0)]) for n, v in parts.items()
            }
        return self._run(parts)[:have]


def _session(path: Path, threads: int | None, providers: Sequence[Any] | None, name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise TeacherError(
            f"teachers.{name}: an ONNX teacher needs onnxruntime, which is not installed: "
            "pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: warnings about a graph are its author's
    # Idle threads that spin would take the processor from the student's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(providers or ["CPUExecutionProvider"])
        )
    except Exception as error:  # onnxruntime's own, one for each code
        reason = " ".join(str(error).split())
        raise TeacherError(
            f"teachers.{name}.onnx: {path} cannot be opened: {reason[:300]}"
        ) from error


def _files_beside(path: Path) -> list[Path]:
    """Return the files in the same folder that an ONNX file names: where it keeps large weights."""
    others = sorted(file for file in path.parent.iterdir() if file.is_file() and file != path)
    if not others or path.stat().st_size == 0:
        return []
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return [file for file in others if text.find(file.name.encode()) >= 0]


def _words(shape: Sequence[Any]) -> str:
    return "x".join(
        str(size) if isinstance(size, int) else "batch" if i == 0 else "any"
        for i, size in enumerate(shape)
    )
