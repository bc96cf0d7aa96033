"""Fingerprints: digests of what decides a teacher's answers, made without pickling anything."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LIBRARIES = {"torch", "torchvision", "timm", "transformers"}  # what they do, their printout says
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Settings of an estimator that change how fast or how loudly it answers, never what it answers.
_SILENT = {"n_jobs", "verbose", "_n_threads", "n_features_in_", "feature_names_in_"}
# The arrays of a fitted scikit-learn tree that its predictions read.
_TREE = ("children_left", "children_right", "feature", "threshold", "value", "missing_go_to_left")


def digest_of_parts(*parts: str) -> str:
    """Return the sha256 of some strings, order and boundaries mattering."""
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


def module_digest(module: nn.Module) -> str:
    """Return the sha256 over a module's class, structure, settings and sorted state dict.

    The printed structure is part of it: two networks can have the same weights and another
    activation. So are, for classes that are no library's, public attributes that are plain values
    (whole numbers only where the constructor takes them: others may be counters) and, outside of
    Limbeck, the code of ``forward``. Devices, memory formats and training flags are not.
    """
    digest = hashlib.sha256()
    digest.update(f"{_class_name(module)}|{_ADDRESS.sub('', repr(module))}".encode())
    for name, part in module.named_modules():
        for setting in _settings_of(part):
            digest.update(f"|{name}.{setting}".encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"|{name}|".encode())
        if isinstance(value, Tensor):
            _update_with_tensor(digest, value)
        else:
            digest.update(_ADDRESS.sub("", repr(value)).encode())
    return digest.hexdigest()


def _settings_of(part: nn.Module) -> Iterator[str]:
    """Yield what decides a module's answers beside its weights and its printout."""
    kind = type(part)
    library = kind.__module__.split(".")[0]
    if library in _LIBRARIES:
        return
    for name, value in _plain_attributes(part):
        if name != "training":
            yield f"{name}={value!r}"
    code = getattr(kind.forward, "__code__", None)
    if library != "limbeck" and code is not None:
        walk = _Walk()
        walk.visit(_code_parts(code))
        yield walk.digest.hexdigest()


def _plain_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield public attributes that are plain; whole numbers only where the constructor takes them.

    Others may be counters, which say nothing of what is answered.
    """
    taken = inspect.signature(type(value).__init__).parameters
    for name, one in sorted(getattr(value, "__dict__", {}).items()):
        counts = isinstance(one, int) and not isinstance(one, bool) and name not in taken
        told = one is not None and not name.startswith("_")  # None may be filled when it is used
        if told and not counts and _is_plain(one):
            yield name, one


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str)


def tensor_digest(tensor: Tensor) -> str:
    """Return the sha256 over type, shape and bytes of one tensor."""
    digest = hashlib.sha256()
    _update_with_tensor(digest, tensor)
    return digest.hexdigest()


def _update_with_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)


def estimator_digest(estimator: Any) -> tuple[str, tuple[str, ...]]:
    """Walk a fitted estimator's parameters and arrays.

    Returns:
        The sha256 of all that was reached, and the class names of objects inside that could not
        be read (compiled objects without attributes); where there are any, the digest does not
        cover all that decides the predictions.
    """
    walk = _Walk()
    walk.visit(estimator)
    return walk.digest.hexdigest(), tuple(sorted(walk.opaque))


def function_digest(function: Callable[..., Any]) -> str:
    """Return the sha256 over a function's name, code, defaults and what its closure holds.

    Two lambdas on one line have one name and may say different things. What a function reads from
    its module counts by name only; another Python version may compile it to another digest.
    """
    walk = _Walk()
    walk.visit(getattr(function, "__qualname__", _class_name(function)))
    walk.visit(_code_parts(getattr(function, "__code__", None)))
    for name in ("__defaults__", "__kwdefaults__"):
        walk.visit(getattr(function, name, None))
    for cell in getattr(function, "__closure__", None) or ():
        walk.visit(cell.cell_contents)
    if not hasattr(function, "__code__"):  # a callable object
        walk.visit(function)
    return walk.digest.hexdigest()


def rule_digest(function: Callable[..., Any]) -> str:
    """Return the sha256 over a function's code and the plain values that it holds.

    These are defaults, its closure's, a partial's, a callable object's. Other objects count by
    their classes: a client or a model may change as it is used.
    """
    held: list[tuple[str, Any]] = []
    if isinstance(function, functools.partial):
        held += [("partial of", rule_digest(function.func))]
        held += [
            *((str(i), one) for i, one in enumerate(function.args)),
            *function.keywords.items(),
        ]
    elif not hasattr(function, "__code__") and not isinstance(function, type):
        held += _plain_attributes(function)
        function = type(function).__call__
    elif inspect.ismethod(function):
        held += _plain_attributes(function.__self__)
    held += [("default", one) for one in getattr(function, "__defaults__", None) or ()]
    held += (getattr(function, "__kwdefaults__", None) or {}).items()
    held += [("held", cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    walk = _Walk()
    walk.visit(_code_parts(getattr(function, "__code__", None)))
    for name, one in held:
        whole = _is_plain(one) or isinstance(one, np.ndarray | np.generic | Tensor)
        walk.visit([name, one if whole else _class_name(one)])
    return walk.digest.hexdigest()


def _code_parts(code: CodeType | None) -> Any:
    """Return the instructions, names and constants of code and of the functions inside."""
    if code is None:
        return None
    constants = [_code_parts(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return [code.co_code, code.co_names, constants]


class _Walk:
    """A depth-first walk over attributes, containers and arrays."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.opaque: set[str] = set()
        self._path: list[int] = []  # ids of the objects around the current one

    def visit(self, value: Any) -> None:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self._say(f"{type(value).__name__}={value!r}")
        elif isinstance(value, np.ndarray | np.generic):
            self._array(np.asarray(value))
        elif isinstance(value, Tensor):
            _update_with_tensor(self.digest, value)
        elif id(value) in self._path:
            self._say(f"itself, {len(self._path) - self._path.index(id(value))} up")
        else:
            self._path.append(id(value))
            self._structure(value)
            self._path.pop()

    def _structure(self, value: Any) -> None:
        self._say(_class_name(value))
        if isinstance(value, Mapping):
            self._items(sorted(((str(key), item) for key, item in value.items()), key=_first))
        elif isinstance(value, list | tuple):
            self._items((str(position), item) for position, item in enumerate(value))
        elif isinstance(value, set | frozenset):
            self._say(repr(sorted(map(repr, value))))
        elif isinstance(value, np.random.RandomState | np.random.Generator):
            pass  # decided the fit, not the predictions
        elif isinstance(value, type) or _is_library_function(value):
            self._say(f"{value.__module__}.{value.__qualname__}")
        elif type(value).__module__.startswith("sklearn.tree") and hasattr(value, "children_left"):
            self._items((name, getattr(value, name, None)) for name in _TREE)
        elif type(value).__module__.startswith("sklearn._loss") and not hasattr(value, "__dict__"):
            pass  # a compiled loss function: its class says all
        elif _is_sparse(value):
            self._array(value.toarray())
        else:
            self._attributes(value)

    def _attributes(self, value: Any) -> None:
        slots = _slots(value)
        if _hides_something(value, len(slots)):
            self.opaque.add(type(value).__name__)
        found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        self._items(sorted({**found, **getattr(value, "__dict__", {})}.items(), key=_first))

    def _items(self, items: Iterable[tuple[str, Any]]) -> None:
        for name, item in items:
            if name not in _SILENT:
                self._say(f".{name}")
                self.visit(item)

    def _array(self, array: np.ndarray[Any, Any]) -> None:
        self._say(f"{array.dtype.str}{array.shape}")
        if array.dtype.names:  # field by field: the padding between fields is not defined
            for name in array.dtype.names:
                self._array(array[name])
        elif array.dtype.hasobject:
            for item in array.reshape(-1).tolist():
                self.visit(item)
        else:
            self.digest.update(np.ascontiguousarray(array).tobytes())

    def _say(self, text: str) -> None:
        self.digest.update(f"\0{text}".encode())


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _first(item: tuple[str, Any]) -> str:
    return item[0]


def _slots(value: Any) -> list[str]:
    """Return the names that the Python classes of an object declare as slots."""
    names: list[str] = []
    for kind in type(value).__mro__:
        declared = vars(kind).get("__slots__", ())
        names += [declared] if isinstance(declared, str) else declared
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _hides_something(value: Any, num_slots: int) -> bool:
    """Whether an object is larger than its attributes account for: it holds compiled state.

    ``vars`` of a k-d tree is an empty dictionary, for its arrays live in C. An object of plain
    Python has its header, one pointer a slot, and at most one each for attributes and references.
    """
    pointer = tuple.__itemsize__
    return type(value).__basicsize__ > object.__basicsize__ + (num_slots + 2) * pointer


def _is_library_function(value: Any) -> bool:
    """Whether a function is one of a library's own, so that its name says what it does."""
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '<unnamed>')}"
    library = name.split(".")[0] in ("sklearn", "numpy", "scipy", "math")
    return hasattr(value, "__code__") and library and "<" not in name


def _is_sparse(value: Any) -> bool:
    return hasattr(value, "toarray") and hasattr(value, "nnz")
