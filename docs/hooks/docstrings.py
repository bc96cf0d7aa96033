"""A griffe extension: docstrings reach mkdocstrings with their equations drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))

from mathematics import to_markdown


class Equations(griffe.Extension):
    """Rewrite each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the text of the docstring of ``obj``."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
