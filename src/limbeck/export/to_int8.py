"""``--to int8``: weights and activations in 8 bits, through onnxruntime.

Static post-training quantisation: ranges of activations are read off training samples, weights get
one scale a channel. Which way of reading ranges is best depends on the network; each is tried, and
the one whose logits stay closest to the student's on validation samples is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.export.formats import Format, Written, hushed
from limbeck.export.served import INPUT
from limbeck.export.subject import Subject
from limbeck.export.to_onnx import onnx_model, onnx_usage, session
from limbeck.files import write_bytes

FILE = "model-int8.onnx"
ENOUGH = 0.01
"""Error of the logits, over their variance, up to which every layer is quantised."""

_HEAVY = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Way:
    """One way to quantise.

    Attributes:
        percentile: how much of what an activation does lies in its range; 100: all of it.
        keep_ends: whether the first and the last layer stay in float32.
    """

    percentile: float
    keep_ends: bool = False

    def __str__(self) -> str:
        ranges = "min and max" if self.percentile == 100 else f"{self.percentile:g} %"
        return f"{ranges}{', first and last layer in float32' if self.keep_ends else ''}"


# Not onnxruntime's entropy calibration: at its 128 bins for 128 levels it finds min and max again.
PERCENTILES = (100.0, 99.99, 99.9)


def _write(subject: Subject, folder: Path) -> Written:
    model = onnx_model(subject)
    with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work, hushed():
        place = Path(work)
        if subject.takes_numbers:
            content, notes = _static(subject, model, place)
        else:
            content, notes = _dynamic(model, place)
    path = folder / FILE
    write_bytes(path, content)
    return Written(path, session(path, subject), notes)


def _static(subject: Subject, model: Any, place: Path) -> tuple[bytes, dict[str, Any]]:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready, made = place / "ready.onnx", place / "made.onnx"
    quant_pre_process(model, str(ready))
    truth = [subject.ask(batch.inputs) for batch in subject.held_out]
    errors: dict[Way, float] = {}
    best: tuple[float, Way, bytes] | None = None
    for ends in (False, True):
        for percentile in PERCENTILES:
            way = Way(percentile, ends)
            _quantise(ready, made, way, subject.calibrated)
            errors[way] = _error(session(made, subject), subject.held_out, truth)
            if best is None or errors[way] < best[0]:
                best = errors[way], way, made.read_bytes()
        if best is not None and best[0] <= ENOUGH:
            break
    assert best is not None
    return best[2], {
        "quantisation": "static, QDQ, int8 weights a channel, int8 activations",
        "calibration_samples": sum(len(batch) for batch in subject.calibrated),
        "ranges": str(best[1]),
        "validation_error": {str(way): value for way, value in errors.items()},
    }


def _quantise(ready: Path, made: Path, way: Way, batches: Iterable[Batch]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    whole = way.percentile == 100
    quantize_static(
        str(ready),
        str(made),
        _reader(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,  # uint8 with int8 weights saturates without VNNI
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax if whole else CalibrationMethod.Percentile,
        nodes_to_exclude=_ends(ready) if way.keep_ends else [],
        extra_options={}
        if whole
        else {"CalibPercentile": way.percentile, "CalibTensorRangeSymmetric": False},
    )


def _reader(batches: Iterable[Batch]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the calibration samples to onnxruntime."""

        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch.inputs.numpy()}

    return Reader()


def _ends(path: Path) -> list[str]:
    import onnx

    names = [node.name for node in onnx.load(path).graph.node if node.op_type in _HEAVY]
    return sorted({*names[:1], *names[-1:]})


def _error(ask: Any, batches: Iterable[Batch], truth: Iterable[Tensor]) -> float:
    """Mean squared error of the logits over their variance."""
    said = torch.cat([ask(batch.inputs) for batch in batches]).double()
    wanted = torch.cat(list(truth)).double()
    spread = wanted.var(dim=0, correction=0).mean()
    return float((said - wanted).pow(2).mean() / spread.clamp_min(1e-12))


def _dynamic(model: Any, place: Path) -> tuple[bytes, dict[str, Any]]:
    """Quantise weights only; ranges of activations are found anew in each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = place / "made.onnx"
    quantize_dynamic(model, str(made), per_channel=True, weight_type=QuantType.QInt8)
    return made.read_bytes(), {
        "quantisation": "dynamic, int8 weights a channel: the inputs are tokens or come by name",
    }


INT8 = Format(
    name="int8",
    runtime="onnxruntime",
    write=_write,
    usage=lambda subject: onnx_usage(FILE, subject),
    packages=("onnx", "onnxruntime", "onnxscript"),
    exact=False,
    waits="int8 tries several ways to quantise: some seconds to minutes",
)
