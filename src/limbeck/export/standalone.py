"""model.py beside exported weights: the network's own code, for torch without Limbeck.

What the student's class needs is gathered from Limbeck's sources, and nothing else: the class, the
functions and constants it names, and what those name in turn.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from limbeck._version import __version__
from limbeck.models.assistant import STUDENT_ASSISTANT, cut_again
from limbeck.models.branched import NATIVE_ENSEMBLE, Branched
from limbeck.models.cohort import COHORT_MEAN, CohortMean
from limbeck.models.grown import GROWN, grow
from limbeck.models.registry import model_entry

FILE = "model.py"
_OURS = "limbeck."

_HEAD = '''"""The network of this folder, for torch and safetensors alone.

    from model import load_student

    model = load_student()
    logits = model(inputs)  # see preprocessing.json for what the inputs are

Written by Limbeck {version}; {licence}
"""

from __future__ import annotations

{imports}


'''
_TAIL = '''

def load_student(folder: str | Path = Path(__file__).parent) -> nn.Module:
    """Return the trained network, on the CPU and in evaluation mode."""
    model = {construct}
    load_model(model, Path(folder) / "model.safetensors")
    return model.eval()
'''
_ALWAYS = (
    "from pathlib import Path",
    "from safetensors.torch import load_model",
    "from torch import nn",
)


def standalone_source(spec: Mapping[str, Any]) -> str | None:
    """Return the text of model.py for a network that is described by ``spec``.

    Args:
        spec: what model.json says: ``model``, ``arguments``, ``num_classes``, ``input_shape``.

    Returns:
        Python code; None for a network that Limbeck has no name for, or whose code is not ours
        to copy (of the user's own packages, of transformers).
    """
    gathered = _Gathered()
    construct = _construct(spec, gathered)
    if construct is None:
        return None
    licence = (
        "the classes are Limbeck's own (Apache-2.0)."
        if gathered.pieces
        else "the network is timm's."
    )
    imports = _tidy({*_ALWAYS, *gathered.imports})
    head = _HEAD.format(version=__version__, licence=licence, imports=imports)
    body = "\n\n\n".join(gathered.pieces.values())
    return head + body + ("\n" if body else "") + _TAIL.format(construct=construct)


def _construct(spec: Mapping[str, Any], gathered: _Gathered) -> str | None:
    """Return the expression that builds the network, its code gathered."""
    name, arguments = str(spec["model"]), dict(spec["arguments"] or {})
    given = {"num_classes": spec["num_classes"], "input_shape": spec["input_shape"]}
    if name == COHORT_MEAN:
        members = [_construct(one, gathered) for one in arguments.get("members", ())]
        if None in members:
            return None
        mean = gathered.add(CohortMean.__module__, CohortMean.__qualname__)
        return f"{mean}([{', '.join(str(member) for member in members)}])"
    if name == NATIVE_ENSEMBLE:
        network = _construct(arguments.pop("network"), gathered)
        if network is None:
            return None
        branched = gathered.add(Branched.__module__, Branched.__qualname__)
        return f"{branched}({', '.join([network, *_words(arguments)])})"
    if name == GROWN:
        student = _construct(arguments["student"], gathered)
        if student is None:
            return None
        grown = gathered.add(grow.__module__, grow.__qualname__)
        return f"{grown}({student}, {arguments['parts']!r})"
    if name == STUDENT_ASSISTANT:
        whole = _construct(arguments.pop("given"), gathered)
        if whole is None:
            return None
        cut = gathered.add(cut_again.__module__, cut_again.__qualname__)
        return f"{cut}({', '.join([whole, *_words({**arguments, **given})])})"
    if name.startswith("timm/"):
        gathered.imports.add("import timm")
        inside = {"num_classes": given["num_classes"], "in_chans": given["input_shape"][0]}
        words = {**inside, **arguments, "pretrained": False}  # its weights lie beside the code
        return _call("timm.create_model", [name.removeprefix("timm/")], words)
    entry = model_entry(name)
    if entry is None or not entry.build.__module__.startswith(_OURS):
        return None
    builder = gathered.add(entry.build.__module__, entry.build.__qualname__)
    return _call(builder, [], {**given, **entry.fixed, **arguments})


def _call(function: str, places: list[Any], names: Mapping[str, Any]) -> str:
    return f"{function}({', '.join([*map(repr, places), *_words(names)])})"


def _words(names: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value!r}" for key, value in names.items()]


@dataclass
class _Gathered:
    """Definitions in an order in which they can be read, and the imports they need."""

    pieces: dict[str, str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)

    def add(self, module: str, name: str) -> str:
        """Add a definition of one of our modules, after what it needs; return its name here."""
        here = name
        while self.homes.get(here, module) != module:  # two modules have a `_stage` of their own
            here += "_"
        if here in self.homes:
            return here
        self.homes[here] = module
        source = _read(module)
        node = source.definitions[name]
        text = source.text_of(node)
        for used in sorted(source.names_in(node) & source.known - {name}):
            text = self._bring(source, used, text)
        self.pieces[here] = _renamed(text, name, here)
        return here

    def _bring(self, source: _Source, used: str, text: str) -> str:
        """Add what a piece of code names, and return the code with the name it has here."""
        if used in source.definitions:
            return _renamed(text, used, self.add(source.name, used))
        home, original, line = source.imports[used]
        if home.startswith(_OURS):
            return _renamed(text, used, self.add(home, original))
        self.imports.add(line)
        return text


@dataclass(frozen=True)
class _Source:
    """A module of ours, read: its text, what it defines and what it imports at the top."""

    name: str
    text: str
    definitions: Mapping[str, ast.stmt]
    imports: Mapping[str, tuple[str, str, str]]

    @property
    def known(self) -> set[str]:
        return {*self.definitions, *self.imports}

    def text_of(self, node: ast.stmt) -> str:
        """The code of a definition."""
        kept = [f"@{ast.unparse(one)}\n" for one in self._kept_decorators(node)]
        return "".join([*kept, ast.get_source_segment(self.text, node) or ""])

    def names_in(self, node: ast.stmt) -> set[str]:
        """Names used in a definition, those of decorators that are left out not among them."""
        kept = self._kept_decorators(node)
        left = (one for one in getattr(node, "decorator_list", ()) if one not in kept)
        outside = {inner for one in left for inner in ast.walk(one)}
        found = (one for one in ast.walk(node) if isinstance(one, ast.Name))
        return {one.id for one in found if one not in outside}

    def _kept_decorators(self, node: ast.stmt) -> list[ast.expr]:
        """Decorators of others (``dataclass``); our own register things."""
        return [one for one in getattr(node, "decorator_list", ()) if not self._is_ours(one)]

    def _is_ours(self, decorator: ast.expr) -> bool:
        names = {one.id for one in ast.walk(decorator) if isinstance(one, ast.Name)}
        homes = (self.imports[name][0] for name in names & self.imports.keys())
        return bool(names & self.definitions.keys()) or any(h.startswith(_OURS) for h in homes)


@cache
def _read(module: str) -> _Source:
    text = inspect.getsource(importlib.import_module(module))
    definitions: dict[str, ast.stmt] = {}
    imports: dict[str, tuple[str, str, str]] = {}
    for node in ast.parse(text).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                definitions[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = node
            case ast.Import(names=names):
                for one in names:
                    imports[one.asname or one.name] = (one.name, "", ast.unparse(ast.Import([one])))
            case ast.ImportFrom(module=str(home), names=names):
                for one in names:
                    line = ast.unparse(ast.ImportFrom(home, [one], 0))
                    imports[one.asname or one.name] = (home, one.name, line)
    return _Source(module, text, definitions, imports)


def _renamed(text: str, name: str, here: str) -> str:
    return text if name == here else re.sub(rf"(?<![\w.]){re.escape(name)}\b", here, text)


def _tidy(lines: set[str]) -> str:
    """Return imports as a tidy file has them: plain ones first, names of one module together."""
    plain: list[str] = []
    names: dict[str, list[str]] = {}
    for node in ast.parse("\n".join(sorted(lines))).body:
        if isinstance(node, ast.ImportFrom):
            names.setdefault(str(node.module), []).extend(ast.unparse(one) for one in node.names)
        else:
            plain.append(ast.unparse(node))
    return "\n".join(
        [*plain, *(f"from {home} import {', '.join(found)}" for home, found in names.items())]
    )
