"""Roles: what the parts of a network are for, whatever they are called.

``stages`` are the features at each depth, ``penultimate`` is the vector that the classifier
reads, ``head`` is the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.errors import TapError
from limbeck.models.calling import call_model, evaluating
from limbeck.taps.language import transformers_roles
from limbeck.taps.values import tensor_in

Call: TypeAlias = Callable[[nn.Module, Any], Any]
"""How a network is run on an example."""
Roles: TypeAlias = Mapping[str, "Sequence[str] | str"]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's module inside ``torch.compile`` and data-parallel wrappers."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, DataParallel | DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def roles_of(model: nn.Module) -> dict[str, list[str] | str]:
    """Return the roles a network declares or that can be read off without running it.

    In this order: its own ``roles()`` (a method or a mapping: role to module path, or to a list of
    paths for stages); the structure of a transformers network (``transformers_roles``); timm's
    ``feature_info`` and ``get_classifier()``; for the head, the last ``nn.Linear``, and for the
    penultimate vector, the head's input. Roles that cannot be told are
    absent: ``infer_roles`` finds stages by running the network once.
    """
    model = unwrap(model)
    if getattr(model, "is_cohort", False):
        return {}  # each member has its own
    declared = getattr(model, "roles", None)
    given = declared() if callable(declared) else declared
    roles: dict[str, list[str] | str] = {}
    if isinstance(given, Mapping):
        roles = {k: v if isinstance(v, str) else list(v) for k, v in given.items()}
    roles = {**transformers_roles(model), **roles}
    for role, found in {"stages": _timm_stages(model), "head": _timm_head(model)}.items():
        if found:
            roles.setdefault(role, found)
    if "head" not in roles:
        linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
        if linear and linear[-1]:
            roles["head"] = linear[-1]
    if isinstance(head := roles.get("head"), str):
        roles.setdefault("penultimate", f"{head}:in")
    return roles


def head_of(model: nn.Module) -> nn.Module:
    """Return the classifier module; raises TapError where it cannot be told."""
    model = unwrap(model)
    path = roles_of(model).get("head")
    if not isinstance(path, str):
        raise TapError(f"{type(model).__name__} has no linear head: give it a roles() with 'head'")
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise TapError(f"role 'head' names {path!r}, which is no module of the model") from error


def infer_roles(
    model: nn.Module, example: Any, *, call: Call = call_model, stages: bool = True
) -> dict[str, list[str] | str]:
    """Return ``roles_of`` with what one forward pass adds: the stages, and the head really used.

    A stage is the last module whose output has a given spatial resolution (maps of one pixel are
    none); for transformers, each member of the longest chain of blocks whose token outputs have
    the same shape.

    Args:
        model: the network; modes and batch statistics are left as they were.
        example: inputs of at least one sample.
        call: ``call(model, example)`` where it is not called as ``model(example)``.
        stages: whether stages are wanted; False for the head alone.

    Raises TapError where stages are wanted and none is found.
    """
    model = unwrap(model)
    roles = roles_of(model)
    outputs = _probe(model, example, call)
    if stages and "stages" not in roles:
        maps = _map_stages(outputs)
        tokens = _token_stages(model, outputs)
        roles["stages"] = tokens if len(tokens) > len(maps) else maps or tokens
        if not roles["stages"]:
            raise TapError(
                f"no stages found in {type(model).__name__}: no module gives maps or tokens; name "
                "modules to tap (pairs: [[student tap, teacher tap]], or pairs: penultimate for "
                "the vectors that the heads read), or give the model a roles() method"
            )
    linear = [name for name, _ in outputs if isinstance(model.get_submodule(name), nn.Linear)]
    if linear and not declares_head(model):
        roles["head"] = linear[-1]
        roles["penultimate"] = f"{linear[-1]}:in"
    return roles


def declares_head(model: nn.Module) -> bool:
    """Whether a network says itself what its head is: by ``roles()``, or as known ones do."""
    said = getattr(model, "roles", None) is not None or _timm_head(model) is not None
    return said or bool(transformers_roles(model))


def _probe(model: nn.Module, example: Any, call: Call) -> list[tuple[str, tuple[int, ...]]]:
    """Run once; return (path, shape of the output) of every module in the order they finished."""
    finished: list[tuple[str, tuple[int, ...]]] = []

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = tensor_in(output)
            if isinstance(tensor, Tensor):
                finished.append((name, tuple(tensor.shape)))

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        with evaluating(model):
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return finished


def _map_stages(outputs: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    last: dict[tuple[int, ...], str] = {}
    for name, shape in outputs:
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            last.pop(shape[2:], None)
            last[shape[2:]] = name
    return list(last.values())


def _token_stages(model: nn.Module, outputs: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    shapes = {name: shape for name, shape in outputs if len(shape) == 3}
    best: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        blocks = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
        same = all(shapes.get(a) == shapes.get(b) for a, b in pairwise(blocks))
        if blocks and blocks[0] in shapes and same and len(blocks) > max(1, len(best)):
            best = blocks
    return best


def _timm_stages(model: nn.Module) -> list[str]:
    info: Any = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info)
    if not isinstance(entries, list | tuple):
        return []
    names = [str(entry.get("module", "")) for entry in entries if isinstance(entry, Mapping)]
    known = {name for name, _ in model.named_modules()}
    return [name for name in names if name in known]


def _timm_head(model: nn.Module) -> str | None:
    getter = getattr(model, "get_classifier", None)
    if not callable(getter):
        return None
    head = getter()
    return next((name for name, part in model.named_modules() if part is head and name), None)
