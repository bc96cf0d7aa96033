"""What a format is: a file that is written, and a way to ask it again."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck.errors import ExportError
from limbeck.export.subject import Subject


@dataclass(frozen=True)
class Written:
    """An export on the disk, read back.

    Attributes:
        file: its main file.
        ask: what the file, read back by its own runtime, answers to inputs.
        notes: what was decided on the way, for export.json and the model card.
    """

    file: Path
    ask: Callable[[Any], Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A form that a student can leave in.

    Attributes:
        name: as ``--to`` takes it.
        runtime: what runs it.
        write: writes it into a folder and reads it back.
        packages: what has to be installed.
        exact: whether it must answer as the module does (int8 cannot).
        waits: what takes time, said before it starts; "" where nothing does.
        graph: whether the network's computation is in the file, and not its weights alone.
        usage: lines of Python that load it.
    """

    name: str
    runtime: str
    write: Callable[[Subject, Path], Written]
    usage: Callable[[Subject], str]
    packages: tuple[str, ...] = ()
    exact: bool = True
    waits: str = ""
    graph: bool = True

    def check_packages(self) -> None:
        """Raise ExportError where a package is missing, with the line that installs all."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(
                f"export to {self.name} needs {' and '.join(missing)}, which "
                f"{'is' if len(missing) == 1 else 'are'} not installed: "
                f"pip install {' '.join(self.packages)}"
            )


class Asked(nn.Module):
    """Another runtime's model as a module, so that it is measured as the student is."""

    def __init__(self, ask: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self._ask = (ask,)  # in a tuple: a module in there keeps its own modes

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Return logits ``[batch, outputs]``."""
        return self._ask[0](kwargs or args[0])


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Silence exporters: they print, log and warn about matters that are not the user's."""
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
