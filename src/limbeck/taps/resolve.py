"""From what a person writes ("layer2", "blocks.*.mlp", "stages[-1]") to modules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from limbeck.errors import TapError, unknown
from limbeck.taps.roles import Roles, roles_of, unwrap

INPUT = "input"
_ONE_OF = re.compile(r"(\w+)(?:\.(\d+)|\[(-?\d+)\])")


@dataclass(frozen=True)
class ResolvedTap:
    """One tensor to capture.

    Attributes:
        name: the key under which it is stored: the path or role asked for; for a glob or a role of
            several modules, each one's own ("layer1", "stages.0").
        path: the module's path; empty for the whole model.
        side: "out" for what the module returns, "in" for its first input, "attention" for the
            attention probabilities that it returns beside its output.
    """

    name: str
    path: str
    side: str = "out"

    @property
    def key(self) -> str:
        """What tells two captured tensors apart: two names may share one."""
        return f"{self.path}:{self.side}"


def resolve_taps(
    model: nn.Module, taps: str | Sequence[str], *, roles: Roles | None = None
) -> list[ResolvedTap]:
    """Return what ``taps`` name in ``model``, in the order asked, each name once.

    Args:
        model: the network; ``torch.compile`` and data-parallel wrappers are looked through.
        taps: each one of

            - a role: "stages" (stored as "stages.0", "stages.1", ...), one of them ("stages.1",
              "stages[-1]"), "penultimate", "head", or any other the model declares. A role wins
              over a module of the same name; write ".head" for the module;
            - "input": the model's own input;
            - a module path, "layer2.0.conv1";
            - a glob in module order: ``*`` stands for any characters but a dot, ``**`` for dots
              too, ``?`` for one character: "layer*", "blocks.*.norm1", "**.relu2".

            With ":in" behind it, the module's input instead of its output; with ":attention", the
        attention probabilities that a transformers attention module returns beside it.
        roles: roles to use instead of ``roles_of(model)``, for example from ``infer_roles``.

    Raises TapError naming the nearest path where there is no such module, and saying what to write
    where the model does not have the role.
    """
    model = unwrap(model)
    known = dict(roles_of(model) if roles is None else roles)
    modules = _paths(model)
    found: dict[str, ResolvedTap] = {}
    for tap in [taps] if isinstance(taps, str) else taps:
        for resolved in _resolve_one(model, tap, known, modules):
            found.setdefault(resolved.name, resolved)
    return list(found.values())


def _paths(model: nn.Module) -> list[str]:
    """Return the paths of all modules, and those that are reached through a part grown on one.

    What was "layer3.0" is "layer3.inner.0" in a network that was grown at "layer3"; both are found.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    short = [name.replace(".inner", "") for name in names if ".inner." in name]
    return names + [name for name in short if name not in names and _has(model, name)]


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _resolve_one(
    model: nn.Module, tap: str, roles: Roles, modules: Sequence[str]
) -> list[ResolvedTap]:
    if tap == INPUT:
        return [ResolvedTap(tap, "", "in")]
    role = _resolve_role(model, tap, roles, modules)
    if role is not None:
        return role
    body, side = _split(tap)
    path = body.removeprefix(".")
    if path in modules:
        return [ResolvedTap(tap, path, side)]
    if "*" in path or "?" in path:
        matches = _matching(path, modules)
        if matches:
            suffix = "" if side == "out" else f":{side}"
            return [ResolvedTap(name + suffix, name, side) for name in matches]
        raise TapError(f"no module of {type(model).__name__} matches the tap {tap!r}")
    raise TapError(_no_module(model, tap, path, roles, modules))


def _resolve_role(
    model: nn.Module, tap: str, roles: Roles, modules: Sequence[str]
) -> list[ResolvedTap] | None:
    body, side = _split(tap)
    match = _ONE_OF.fullmatch(body)
    role = match[1] if match else body
    if role not in roles:
        if role in {"stages", "penultimate", "head"} and body not in modules:
            raise TapError(_no_role(model, role))
        return None
    paths = roles[role]
    if isinstance(paths, str):
        return [_of_role(role, tap, paths, side, modules)] if match is None else None
    suffix = "" if side == "out" else f":{side}"
    if match is None:
        return [
            _of_role(role, f"{role}.{i}{suffix}", path, side, modules)
            for i, path in enumerate(paths)
        ]
    index = int(match[2] or match[3])
    if not -len(paths) <= index < len(paths):
        raise TapError(
            f"tap {tap!r}: {type(model).__name__} has {len(paths)} {role}, "
            f"0 to {len(paths) - 1}: {', '.join(paths)}"
        )
    return [_of_role(role, tap, paths[index], side, modules)]


def _of_role(role: str, name: str, path: str, side: str, modules: Sequence[str]) -> ResolvedTap:
    body, own_side = _split(path)
    if body not in modules:
        raise TapError(f"role {role!r} of the model: " + unknown("module", body, modules[:20]))
    return ResolvedTap(name, body, own_side if side == "out" else side)


def _split(tap: str) -> tuple[str, str]:
    for side in ("in", "attention"):
        if tap.endswith(f":{side}"):
            return tap.removesuffix(f":{side}"), side
    return tap, "out"


def _matching(pattern: str, modules: Sequence[str]) -> list[str]:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    compiled = re.compile("".join(wild.get(part, re.escape(part)) for part in parts))
    return [name for name in modules if compiled.fullmatch(name)]


def _no_role(model: nn.Module, role: str) -> str:
    if getattr(model, "is_cohort", False):
        return "a cohort has no roles of its own: tap 'members.0.<path>', or use TappedModel"
    if role != "stages":
        return (
            f"{type(model).__name__} has no role {role!r} and no linear layer: name a module to "
            "tap, or give the model a roles() method"
        )
    return (
        f"{type(model).__name__} does not say what its stages are: name modules instead (such as "
        f"{_examples(model)}), pass roles=infer_roles(model, example), or give it a roles() method"
    )


def _examples(model: nn.Module) -> str:
    return ", ".join(repr(name) for name, _ in list(model.named_children())[:4]) or "none"


def _no_module(model: nn.Module, tap: str, path: str, roles: Roles, modules: Sequence[str]) -> str:
    message = unknown("tap", tap, [*modules, *roles, INPUT])
    guess = message.split(" (choices")[0].rstrip(":")
    top = [name for name, _ in model.named_children()]
    return (
        f"{guess} ({type(model).__name__} has modules {', '.join(top) or 'none'}; "
        f"roles {', '.join(roles) or 'none'})"
    )
