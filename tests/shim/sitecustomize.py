"""Lets torchvision be imported beside a build of torch that it was not compiled for.

The wheels of torchvision on the package index need the CUDA build of torch. Beside the CPU build
their compiled operators do not load, and the import fails when it wants to describe two of them.
The two schemas are declared here before torchvision is imported, unless its operators do load (to
declare them twice ends the process); nothing of it that needs them is used in the tests. Python
runs this file at start-up where its folder is on PYTHONPATH.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class TorchvisionOperators(MetaPathFinder):
    """Declares the operators when torchvision is first looked for; finds no module itself."""

    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.library is None and not operators_load():
            from torch.library import Library

            type(self).library = Library("torchvision", "FRAGMENT")
            for schema in SCHEMAS:
                self.library.define(schema)


def operators_load():
    """Whether the compiled operators of the installed torchvision fit this build of torch."""
    import torch

    found = PathFinder.find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    compiled = Path(found.origin).with_name("_C.so")
    try:
        torch.ops.load_library(compiled)
    except OSError:
        return False
    return True


if not any(isinstance(finder, TorchvisionOperators) for finder in sys.meta_path):
    sys.meta_path.insert(0, TorchvisionOperators())
