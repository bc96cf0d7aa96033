"""Students that keep what a method added to them: parts grafted at paths of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from limbeck.errors import ModelError, unknown
from limbeck.models.knowledge_layer import KnowledgeLayer
from limbeck.models.reused import Reprojection
from limbeck.taps.values import replace_tensor

GROWN = "grown"
"""The name under which ``model.json`` describes a grown network."""
PARTS: Mapping[str, type[nn.Module]] = {
    "knowledge_layer": KnowledgeLayer,
    "reprojection": Reprojection,
    "linear": nn.Linear,
}
SIDES = ("out", "in", "instead")


class Grafted(nn.Module):
    """A module with a part behind it (or before it); it is called as the module alone was.

    Args:
        inner: the module.
        part: what its output goes through; of a tuple or mapping, the first tensor.
        before: whether the part changes the module's first input instead.

    What the module has beside its forward (attributes that a network reads) is found here too.
    """

    def __init__(self, inner: nn.Module, part: nn.Module, *, before: bool = False) -> None:
        super().__init__()
        self.inner, self.part, self.before = inner, part, before

    @property
    def grown_around(self) -> nn.Module:
        """The module inside, by a name that says what this is."""
        return self.inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's output, as the part changes it."""
        if not self.before:
            return replace_tensor(self.inner(*args, **kwargs), self.part)
        if args:
            return self.inner(*replace_tensor(args, self.part), **kwargs)
        return self.inner(**replace_tensor(kwargs, self.part))

    def __getattr__(self, name: str) -> Any:
        """Find what this module lacks in the one inside."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner" or name.startswith("__"):
                raise
            return getattr(super().__getattr__("inner"), name)

    # A network may count, list or index the blocks of its stages.

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)  # type: ignore[call-overload, no-any-return]

    def __getitem__(self, place: Any) -> Any:
        return self.inner[place]  # type: ignore[index]


def graft(model: nn.Module, path: str, part: nn.Module, side: str = "out") -> str:
    """Put a part into a network, in place.

    Args:
        model: the network.
        path: of the module that is changed; everything inside it is found under ``.inner`` then.
        part: the part.
        side: "out": behind the module; "in": before it; "instead": in its place.

    Returns:
        The path of the part.

    Raises:
        ModelError: there is no such module, or no such side.
    """
    if side not in SIDES:
        raise ModelError(unknown("side", side, SIDES))
    known = [name for name, _ in model.named_modules() if name]
    if path not in known:
        raise ModelError(unknown("module to grow at", path, known))
    parent, _, name = path.rpartition(".")
    inner = model.get_submodule(path)
    new = part if side == "instead" else Grafted(inner, part, before=side == "in")
    new.training = inner.training
    part.train(inner.training)
    model.get_submodule(parent)._modules[name] = new
    return path if side == "instead" else f"{path}.part"


def grow(model: nn.Module, parts: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Graft parts on a network, one after the other, in place; return it.

    Args:
        model: the network.
        parts: for each, ``at`` (a path in the network as grown so far), ``side``, ``part`` (a name
            of ``PARTS``) and ``arguments``.
    """
    for one in parts:
        if one["part"] not in PARTS:
            raise ModelError(unknown("part", one["part"], PARTS))
        graft(model, one["at"], PARTS[one["part"]](**one["arguments"]), one["side"])
    return model


def name_of(spec: Mapping[str, Any] | None) -> str | None:
    """Return what to call a network: its name, of a grown one with that of the network inside."""
    if spec is None or spec.get("model") != GROWN:
        return None if spec is None else spec.get("model")
    return f"{spec['arguments']['student']['model']} ({GROWN})"


def grown_spec(
    spec: Mapping[str, Any] | None, parts: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return how to rebuild a grown network; None where the network itself has no name."""
    if spec is None:
        return None
    shared = {key: spec.get(key) for key in ("num_classes", "input_shape")}
    inside = {"student": dict(spec), "parts": [dict(one) for one in parts]}
    return {"model": GROWN, "arguments": inside, **shared}
