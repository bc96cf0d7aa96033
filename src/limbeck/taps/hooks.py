"""Features by name: hooks that live in a context and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.errors import TapError
from limbeck.taps.resolve import ResolvedTap, resolve_taps
from limbeck.taps.roles import Roles, unwrap
from limbeck.taps.values import replace_tensor, tensor_in


class TapStore(Mapping[str, Tensor]):
    """What the last forward pass left at the taps, by tap name.

    The tensors are the modules' own output objects, not copies. A module called several times in
    one forward pass leaves its last output; of a tuple or mapping the first tensor is taken.
    """

    def __init__(self, taps: Sequence[ResolvedTap]) -> None:
        self.taps = {tap.name: tap for tap in taps}
        self.tensors: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}

    def __getitem__(self, name: str) -> Tensor:
        tap = self.taps[name]
        if tap.key not in self.tensors:
            raise TapError(f"tap {name!r}: no forward pass has reached module {tap.path!r}")
        return self.tensors[tap.key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.taps)

    def __len__(self) -> int:
        return len(self.taps)

    def clear(self) -> None:
        """Let go of the tensors."""
        self.tensors.clear()
        self.versions.clear()

    def check(self) -> None:
        """Raise TapError where a captured tensor was overwritten by an operation in place."""
        for name, tap in self.taps.items():
            tensor = self.tensors.get(tap.key)
            if tensor is None or tap.key not in self.versions:
                continue
            if tensor._version != self.versions[tap.key]:
                raise TapError(
                    f"tap {name!r}: the tensor was changed in place after {tap.path!r} (an "
                    "activation with inplace=True?): tap the module that changes it instead"
                )


@contextmanager
def tapping(
    model: nn.Module,
    taps: str | Sequence[str],
    *,
    require_grad: bool = False,
    detach: bool = False,
    roles: Roles | None = None,
) -> Iterator[TapStore]:
    """Capture tensors inside ``model`` while the context lasts.

    Args:
        model: the network. Compile it inside the context: hooks that come later are not seen by
            compiled code.
        taps: paths, globs and roles (see ``resolve_taps``).
        require_grad: make gradients with respect to the taps possible where there are none (a
            frozen teacher): a tapped tensor that does not require a gradient is replaced, in the
            forward pass itself, by ``tensor.detach().requires_grad_()``. What lies before the
            first tap then records no graph. Not inside a compiled model, whose graph is one piece.
        detach: cut the graph at every tap: with ``require_grad`` each tapped tensor becomes a new
            leaf even where it required a gradient; without it only what is stored is detached and
            the forward pass stays as it is.
        roles: roles to use instead of the model's own.

    Yields a mapping from tap name to tensor, filled by each forward pass; it keeps its tensors
    after the context. No tensor is copied. Hooks are gone afterwards, also after an exception.
    Raises TapError for unknown taps, taps that hold no tensor, gradients asked of integers or
    under ``no_grad``, and tensors that the network overwrote in place.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> with tapping(net, ["1", "penultimate", "input"]) as store:
    ...     _ = net(torch.zeros(4, 2))
    >>> {name: tuple(tensor.shape) for name, tensor in store.items()}
    {'1': (4, 3), 'penultimate': (4, 3), 'input': (4, 2)}
    """
    resolved = resolve_taps(model, taps, roles=roles)
    store = TapStore(resolved)
    with hooked(model, store, require_grad=require_grad, detach=detach):
        yield store
    store.check()


@contextmanager
def hooked(
    model: nn.Module, store: TapStore, *, require_grad: bool = False, detach: bool = False
) -> Iterator[None]:
    """Keep ``store`` filled by the forward passes of ``model`` while the context lasts."""
    handles = attach(model, store, require_grad=require_grad, detach=detach)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attach(
    model: nn.Module,
    store: TapStore,
    *,
    require_grad: bool = False,
    detach: bool = False,
    lenient: bool = False,
) -> list[RemovableHandle]:
    """Register one hook for each tensor that ``store`` wants; the caller removes the handles.

    With ``lenient``, calls under ``no_grad`` are captured without gradients instead of refused.
    """
    model = unwrap(model)
    handles = []
    for tap in {tap.key: tap for tap in store.taps.values()}.values():
        module = model.get_submodule(tap.path)
        capture = _Capture(tap, store, require_grad, detach, lenient)
        if tap.side == "in":
            handles.append(module.register_forward_pre_hook(capture.before, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(capture.after))
    return handles


class _Capture:
    """The hook of one tap."""

    def __init__(
        self,
        tap: ResolvedTap,
        store: TapStore,
        require_grad: bool,
        detach: bool,
        lenient: bool = False,
    ) -> None:
        self.tap, self.store = tap, store
        self.require_grad, self.detach, self.lenient = require_grad, detach, lenient
        self.live = True

    def __deepcopy__(self, memo: dict[int, Any]) -> _Capture:
        """A copy of a tapped network (an average of its weights, say) captures nothing."""
        copied = _Capture(self.tap, TapStore([]), False, False)
        copied.live = False
        return copied

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook: capture, and replace the output where gradients are asked for."""
        if not self.live:
            return None
        if self.tap.side == "attention":
            self.keep(self.probabilities(output))
            return None
        tensor = self.read(output)
        if not self.replaces(tensor):
            self.keep(tensor)
            return None
        return replace_tensor(output, self.leaf)

    def probabilities(self, output: Any) -> Tensor:
        """Attention probabilities, ``[batch, heads, tokens, tokens]``, of what attention gives."""
        beside = output[1:] if isinstance(output, tuple | list) else ()
        maps = [one for one in beside if isinstance(one, Tensor) and one.dim() == 4]
        if not maps:
            raise TapError(
                f"tap {self.tap.name!r}: {self.tap.path!r} gives no attention probabilities; fused "
                "attention never has them: build the network with attention='eager' "
                "(model.set_attn_implementation('eager'))"
            )
        if self.replaces(maps[-1]):
            raise TapError(
                f"tap {self.tap.name!r}: nothing reads attention probabilities once they are "
                "given, so gradients with respect to them cannot be made; tap stages instead"
            )
        return maps[-1]

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Forward pre-hook: the same for the first tensor among the inputs."""
        if not self.live:
            return None
        positional = tensor_in(args) is not None
        tensor = self.read(args if positional else kwargs)
        if not self.replaces(tensor):
            self.keep(tensor)
            return None
        if positional:
            return replace_tensor(args, self.leaf), kwargs
        return args, replace_tensor(kwargs, self.leaf)

    def read(self, value: Any) -> Tensor:
        tensor = tensor_in(value)
        if tensor is None:
            kind = "input" if self.tap.side == "in" else "output"
            raise TapError(f"tap {self.tap.name!r}: the {kind} holds no tensor")
        return tensor

    def replaces(self, tensor: Tensor) -> bool:
        if self.lenient and not torch.is_grad_enabled():
            return False
        return self.require_grad and (self.detach or not tensor.requires_grad)

    def leaf(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            raise TapError(
                f"tap {self.tap.name!r}: {tensor.dtype} values have no gradients; tap the "
                "embedding that reads them"
            )
        if not torch.is_grad_enabled():
            raise TapError(
                f"tap {self.tap.name!r}: require_grad=True under no_grad; use torch.enable_grad()"
            )
        fresh = tensor.detach().requires_grad_()
        self.keep(fresh)
        return fresh

    def keep(self, tensor: Tensor) -> None:
        if self.detach and not self.require_grad:
            tensor = tensor.detach()
        self.store.tensors[self.tap.key] = tensor
        if not torch.compiler.is_compiling() and not tensor.is_inference():
            self.store.versions[self.tap.key] = tensor._version
