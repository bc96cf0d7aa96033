"""Networks by name: one decorator to register, one resolver to build."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from limbeck.errors import ModelError, unknown

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

GIVEN = ("num_classes", "input_shape")
"""Arguments every registered builder takes; they come from the data, not from the recipe."""

ELSEWHERE = ("timm/<id>", "torchvision/<id>", "hf/<id>", "py:module:function")
"""Names that are not registered, for messages."""


@dataclass(frozen=True)
class Entry:
    """A registered network: what builds it, and the arguments its name already fixes."""

    name: str
    build: Callable[..., nn.Module]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments a caller may set, with their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.build).parameters.items()
            if name not in GIVEN and name not in self.fixed
        }


_ENTRIES: dict[str, Entry] = {}


def register_model(name: str, **fixed: Any) -> Callable[[Builder], Builder]:
    """Register a builder ``(num_classes, input_shape, **arguments) -> nn.Module`` under ``name``.

    ``fixed`` are arguments that the name settles (``resnet20``: ``depth=20``) and that a caller
    therefore cannot give. Raises ModelError where the name is taken.
    """

    def register(builder: Builder) -> Builder:
        if name in _ENTRIES:
            raise ModelError(f"a model named {name!r} is registered already: choose another name")
        _ENTRIES[name] = Entry(name, builder, fixed)
        return builder

    return register


def model_entry(name: str) -> Entry | None:
    """Return what is registered as ``name``; None where nothing is."""
    return _ENTRIES.get(name)


def model_builder(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds the network registered as ``name``."""
    return _ENTRIES[name].build


def model_names() -> list[str]:
    """Names of the registered networks, sorted with numbers in order (resnet8 before resnet20)."""
    import re

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.findall(r"\d+|\D+", name)
        return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]

    return sorted(_ENTRIES, key=key)


def model_arguments(name: str) -> dict[str, Any]:
    """Arguments of a registered network with their defaults; raises ModelError if unknown."""
    return dict(_entry(name).arguments)


def build_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    allow_code: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build a network from its name: the one resolver that recipes and Python calls share.

    Args:
        name: a registered name (see ``model_names``), ``timm/<id>``, ``torchvision/<id>``,
            ``hf/<model type>``, ``hf/<folder or hub id>``, ``py:module:function`` of installed
            code, or the path of a folder with ``model.json`` and ``model.safetensors``.
        num_classes: logits per sample (or outputs, for regression); at least 1. A folder knows
            its own, and refuses another.
        input_shape: shape of one sample without the batch dimension, ``(channels, height, width)``
            or ``(features,)``. A folder knows its own.
        allow_code: also import code that is not installed (``py:`` names only).
        arguments: the network's own arguments (see ``model_arguments``).

    Weights are drawn from torch's global generator: seed it before. Raises ModelError, in one
    line, for whatever cannot be built.
    """
    shape = _shape(name, input_shape)
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise ModelError(f"model {name!r} needs num_classes of at least 1, got {num_classes!r}")
    if name in _ENTRIES:
        return _build_registered(_ENTRIES[name], _known(name, num_classes, shape), arguments)
    if name.startswith("timm/"):
        from limbeck.models.from_timm import build_timm

        return build_timm(name.removeprefix("timm/"), *_known(name, num_classes, shape), arguments)
    if name.startswith("torchvision/"):
        from limbeck.models.from_torchvision import build_torchvision

        return build_torchvision(
            name.removeprefix("torchvision/"), *_known(name, num_classes, shape), arguments
        )
    if name.startswith("hf/"):
        from limbeck.models.hf import build_hf

        return build_hf(name, num_classes, shape, arguments)
    if name.startswith("py:"):
        from limbeck.models.external import build_python

        return build_python(name, num_classes, shape, arguments, allow_code=allow_code)
    if Path(name).is_dir() or "/" in name or "\\" in name or name.startswith((".", "~")):
        return _build_folder(name, num_classes, shape, arguments, allow_code)
    raise ModelError(unknown("model", name, [*_ENTRIES, *ELSEWHERE]))


def _shape(name: str, input_shape: Sequence[int] | None) -> tuple[int, ...] | None:
    if input_shape is None:
        return None
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ModelError(
            f"model {name!r} needs input_shape, the shape of one sample such as (3, 32, 32), "
            f"got {input_shape!r}"
        )
    return shape


def _known(
    name: str, num_classes: int | None, input_shape: tuple[int, ...] | None
) -> tuple[int, tuple[int, ...]]:
    if num_classes is None:
        raise ModelError(f"model {name!r} needs num_classes, the number of its outputs")
    if input_shape is None:
        raise ModelError(f"model {name!r} needs input_shape, the shape of one sample")
    return num_classes, input_shape


def _build_registered(
    entry: Entry, given: tuple[int, tuple[int, ...]], arguments: Mapping[str, Any]
) -> nn.Module:
    choices = entry.arguments
    for key in arguments:
        if key not in choices:
            raise ModelError(unknown(f"argument of model {entry.name!r}:", key, choices))
    try:
        return entry.build(
            num_classes=given[0], input_shape=given[1], **{**entry.fixed, **arguments}
        )
    except ModelError:
        raise
    except (TypeError, ValueError) as error:
        raise ModelError(f"model {entry.name!r} with {dict(arguments)!r}: {error}") from error


def _build_folder(
    name: str,
    num_classes: int | None,
    input_shape: tuple[int, ...] | None,
    arguments: Mapping[str, Any],
    allow_code: bool,
) -> nn.Module:
    from limbeck.models.io import load_model, read_spec

    folder = Path(name).expanduser()
    if arguments:
        raise ModelError(
            f"model folder {name!r} has its own arguments: remove {', '.join(arguments)}"
        )
    spec = read_spec(folder)
    for key, wanted in (("num_classes", num_classes), ("input_shape", input_shape)):
        stored = spec.get(key)
        stored = tuple(stored) if isinstance(stored, list) else stored
        if wanted is not None and stored is not None and stored != wanted:
            raise ModelError(
                f"model folder {name!r} was saved with {key} {stored}, these data need {wanted}"
            )
    return load_model(folder, allow_code=allow_code)


def _entry(name: str) -> Entry:
    if name not in _ENTRIES:
        raise ModelError(unknown("model", name, _ENTRIES))
    return _ENTRIES[name]
