"""What there is to say about a network before it is used: sizes, cost, roles, paper."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.errors import ModelError
from limbeck.models.cost import count_flops, count_parameters
from limbeck.models.io import read_spec
from limbeck.models.registry import build_model, model_arguments, model_builder, model_names

CLASSES = 100
SHAPE = (3, 32, 32)
"""What networks are described for unless it is said otherwise: CIFAR-100."""

ROLES = ("stages", "preactivations", "penultimate", "head")


@dataclass(frozen=True)
class Network:
    """A network, described for one number of classes and one shape of samples.

    Attributes:
        name: the name it is built by.
        summary: one line of what it is.
        paper: authors, year and arXiv id of its family; None where it has none.
        num_classes: logits per sample.
        input_shape: shape of one sample.
        arguments: its arguments, with the values used here.
        parameters: number of parameters; None where it cannot be built for this shape.
        flops: floating-point operations of one sample's forward pass, two per multiply-add; None
            where it was not run.
        roles: role to the taps that it names, each with the shape of one sample's features.
        refused: why it cannot be built for this shape, empty where it can.
    """

    name: str
    summary: str
    paper: str | None
    num_classes: int
    input_shape: tuple[int, ...]
    arguments: Mapping[str, Any]
    parameters: int | None = None
    flops: int | None = None
    roles: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    refused: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as mappings, lists, texts and numbers."""
        return asdict(self)


def describe_network(
    name: str,
    *,
    num_classes: int | None = None,
    input_shape: Sequence[int] | None = None,
    allow_code: bool = False,
    **arguments: Any,
) -> Network:
    """Describe one network: whatever ``build_model`` builds.

    Args:
        name: as for ``build_model``.
        num_classes: logits per sample; 100 unless a folder knows better.
        input_shape: shape of one sample; ``(3, 32, 32)`` unless a folder knows better.
        allow_code: also import code that is not installed (``py:`` names only).
        arguments: the network's own arguments.

    Registered and timm networks are built without memory for their weights; nothing is drawn from
    torch's generator. Raises ModelError, in one line, for what cannot be built or cannot read
    samples of this shape.
    """
    num_classes, input_shape = _given(name, num_classes, input_shape)
    weightless = name in model_names() or name.startswith("timm/")
    with torch.device("meta") if weightless else nullcontext():
        model = build_model(
            name,
            num_classes=num_classes,
            input_shape=input_shape,
            allow_code=allow_code,
            **arguments,
        )
    example = torch.empty(1, *input_shape, device="meta" if weightless else "cpu")
    described = _unbuilt(name, num_classes, input_shape, arguments)
    try:
        flops = count_flops(model, example)
        roles = _roles(model, example)
    except (RuntimeError, ValueError, AssertionError) as error:
        line = " ".join(str(error).split())
        raise ModelError(
            f"model {name!r} cannot read samples of shape {tuple(input_shape)}: {line}"
        ) from error
    return replace(described, parameters=count_parameters(model), flops=flops, roles=roles)


def describe_networks(
    *, num_classes: int = CLASSES, input_shape: Sequence[int] = SHAPE
) -> list[Network]:
    """Describe all registered networks by what building them tells: FLOPs and roles are left out.

    Those that refuse the shape say why in ``refused``. Raises ModelError for classes or a shape
    that cannot be.
    """
    found = []
    for name in model_names():
        classes, shape = _given(name, num_classes, input_shape)
        network = _unbuilt(name, classes, shape, {})
        try:
            with torch.device("meta"):
                model = build_model(name, num_classes=classes, input_shape=shape)
            network = replace(network, parameters=count_parameters(model))
        except ModelError as error:
            network = replace(network, refused=str(error))
        found.append(network)
    return found


def _given(
    name: str, num_classes: int | None, input_shape: Sequence[int] | None
) -> tuple[int, tuple[int, ...]]:
    """Return classes and shape: those given, those a folder was saved with, or the usual ones."""
    folder = Path(name).expanduser()
    saved = read_spec(folder) if name not in model_names() and folder.is_dir() else {}
    if num_classes is None:
        num_classes = saved.get("num_classes") or CLASSES
    if input_shape is None:
        input_shape = saved.get("input_shape") or SHAPE
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ModelError(f"num_classes must be at least 1, got {num_classes!r}")
    if not isinstance(input_shape, list | tuple) or not all(
        isinstance(size, int) and size > 0 for size in input_shape
    ):
        raise ModelError(
            f"input_shape must be the shape of one sample, such as [3, 32, 32], got {input_shape!r}"
        )
    return num_classes, tuple(input_shape)


def _unbuilt(
    name: str, num_classes: int, input_shape: tuple[int, ...], arguments: Mapping[str, Any]
) -> Network:
    if name not in model_names():
        return Network(name, "", None, num_classes, input_shape, dict(arguments))
    build = model_builder(name)
    first = (inspect.getdoc(build) or "").split("\n\n")[0]
    return Network(
        name=name,
        summary=" ".join(first.replace("``", "").split()),
        paper=getattr(build, "paper", None),
        num_classes=num_classes,
        input_shape=input_shape,
        arguments={**model_arguments(name), **arguments},
    )


def _roles(model: nn.Module, example: torch.Tensor) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the roles, each tap by its path, with the shape of one sample's features."""
    from limbeck.errors import TapError
    from limbeck.taps import infer_roles, roles_of, tap_shapes

    roles = roles_of(model)
    if "stages" not in roles:
        with suppress(TapError):  # no stages: what is left is still worth saying
            roles = infer_roles(model, example)
    paths = {role: [taps] if isinstance(taps, str) else taps for role, taps in roles.items()}
    every = list(dict.fromkeys(tap for taps in paths.values() for tap in taps))
    shapes = tap_shapes(model, every, example, roles={}) if every else {}
    ordered = sorted(paths, key=lambda role: ROLES.index(role) if role in ROLES else len(ROLES))
    return {role: {tap: shapes[tap][1:] for tap in paths[role]} for role in ordered}
