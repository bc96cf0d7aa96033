"""``--to onnx``: one .onnx file, checked in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ExportError
from limbeck.export.formats import Format, Written, hushed
from limbeck.export.graph import capture, example_call
from limbeck.export.served import INPUT, OUTPUT
from limbeck.export.subject import Subject
from limbeck.files import write_bytes

FILE = "model.onnx"
_LARGEST = 2**31 - 2**20  # protobuf holds less than 2 GiB


def _write(subject: Subject, folder: Path) -> Written:
    path = folder / FILE
    model = onnx_model(subject)
    write_bytes(path, model.SerializeToString())
    return Written(path, session(path, subject), {"opset": model.opset_import[0].version})


def onnx_model(subject: Subject) -> Any:
    """Return the student as an ONNX ModelProto with a free batch dimension.

    Raises:
        ExportError: an operator that ONNX does not have, or more than 2 GiB of weights.
    """
    held = [*subject.student.parameters(), *subject.student.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in held) > _LARGEST:
        raise ExportError(
            "the student's weights are more than 2 GiB, more than one .onnx file holds; export to "
            "torch-export or safetensors"
        )
    program = capture(subject)
    args, kwargs = example_call(subject)
    names = list(subject.input_names) or [INPUT]
    try:
        with hushed():
            made = torch.onnx.export(
                program,
                args,
                kwargs=kwargs,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=[OUTPUT],
            )
            assert made is not None
            model = made.model_proto
    except Exception as error:
        text = " ".join(str(error).split())
        raise ExportError(f"torch cannot write the student as ONNX: {text[:300]}") from error
    _strip(model)
    return model


def session(path: Path, subject: Subject) -> Any:
    """Open an .onnx file on the CPU, as a function from inputs to logits.

    onnxruntime gets as many threads as torch has, so that latencies compare.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {one.name for one in opened.get_inputs()}  # an input that is not used is not there

    def ask(inputs: Any) -> Tensor:
        given = inputs if isinstance(inputs, Mapping) else {INPUT: inputs}
        fed = {name: value.numpy() for name, value in given.items() if name in taken}
        return torch.from_numpy(opened.run([OUTPUT], fed)[0])

    return ask


def _strip(model: Any) -> None:
    """Drop the exporter's notes (its own names, paths of this machine); name the free dimension."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
    for function in model.functions:
        for node in (function, *function.node):
            node.ClearField("metadata_props")
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if batch and dimension.dim_param == batch:
                dimension.dim_param = "batch"


def onnx_usage(file: str, subject: Subject) -> str:
    """Return lines that run an .onnx file."""
    names = subject.input_names or (INPUT,)
    fed = ", ".join(f'"{name}": {name}' for name in names)
    return (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{file}")\n'
        f'logits = session.run(["{OUTPUT}"], {{{fed}}})[0]  # NumPy arrays'
    )


ONNX = Format(
    name="onnx",
    runtime="onnxruntime",
    write=_write,
    usage=lambda subject: onnx_usage(FILE, subject),
    packages=("onnx", "onnxruntime", "onnxscript"),
    waits="ONNX export takes some seconds",
)
