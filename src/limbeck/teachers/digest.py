"""Fingerprints: digests of what decides a teacher's answers, made without pickling anything."""

from __future__ import annotations

import dis
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

# What modules of these do, their printout says.
_LIBRARIES = {"limbeck", "torch", "torchvision", "timm", "transformers"}
_NO_MATTER = {"device", "name_or_path"}  # where a module lies, or came from
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
    activation. So are, for classes that are no library's, what the constructor takes and keeps as
    a plain value, and the code of constructor, ``forward`` and the methods that they name.
    Devices, memory formats and training flags are not.
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
    if _is_librarys(type(part)):
        return
    for name, value in _kept_settings(part):
        yield f"{name}={value!r}"
    walk = _Walk()
    walk.visit(_codes_of(type(part), "forward"))
    yield walk.digest.hexdigest()


def _is_librarys(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "").split(".")[0] in _LIBRARIES


def _kept_settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the constructor took and kept under its name; other attributes may be counters."""
    for name in sorted(inspect.signature(type(value).__init__).parameters):
        one = getattr(value, "__dict__", {}).get(name)
        if one is not None and name not in _NO_MATTER and _is_plain(one):
            yield name, one


def _codes_of(kind: type, first: str) -> list[Any]:
    """Return the code of a class's constructor, of a method, and of methods that they name."""
    wanted, found = ["__init__", first], {}
    while wanted:
        name = wanted.pop()
        member = inspect.getattr_static(kind, name, None)
        member = getattr(member, "fget", None) or getattr(member, "__func__", member)
        function = inspect.unwrap(member) if callable(member) else None
        code = getattr(function, "__code__", None)
        if name in found or code is None or _is_librarys(function):
            continue
        found[name] = _code_parts(code)
        wanted += _names_in(code)
    return sorted(found.items())


def _names_in(code: CodeType) -> list[str]:
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names_in(c)]
    return [*code.co_names, *inner]


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

    These are defaults, a partial's, what a callable object's constructor took and kept, and what a
    closure holds and does not change; functions in it count likewise. Other objects count by their
    classes: a client or a model may change as it is used.
    """
    walk = _Walk()
    walk.visit(_rule_parts(function, ()))
    return walk.digest.hexdigest()


def _rule_parts(function: Any, around: tuple[int, ...]) -> list[Any]:
    if id(function) in around:
        return ["itself"]
    around = (*around, id(function))
    if isinstance(function, functools.partial):
        held = [*enumerate(function.args), *sorted(function.keywords.items())]
        return [_rule_parts(function.func, around), *_held(held, around)]
    owner = getattr(function, "__self__", None)
    if owner is not None and inspect.ismethod(function):
        settings = list(_kept_settings(owner))
        return [_codes_of(type(owner), function.__name__), *_held(settings, around)]
    if not hasattr(function, "__code__"):  # a callable object, or compiled
        settings = list(_kept_settings(function)) if hasattr(function, "__dict__") else []
        codes = [] if isinstance(function, type) else _codes_of(type(function), "__call__")
        return [_class_name(function), codes, *_held(settings, around)]
    held = [*enumerate(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    return [_code_parts(function.__code__), *_held([*held, *_closure_of(function)], around)]


def _closure_of(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function holds and does not itself put anew: that may be a counter."""
    changed = {one.argval for one in dis.get_instructions(function) if one.opname == "STORE_DEREF"}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if name not in changed and not isinstance(value, list):
            yield name, value


def _held(values: Iterable[tuple[Any, Any]], around: tuple[int, ...]) -> Iterator[list[Any]]:
    for name, value in values:
        if _is_plain(value) or isinstance(value, np.ndarray | np.generic | Tensor):
            yield [str(name), value]
        elif hasattr(value, "__code__") or isinstance(value, functools.partial):
            yield [str(name), _rule_parts(value, around)]
        else:
            yield [str(name), _class_name(value)]


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
