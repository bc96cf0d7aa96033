"""A network with taps for a whole run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from limbeck.data.batch import Batch
from limbeck.errors import TapError
from limbeck.models.calling import call_model
from limbeck.taps.hooks import TapStore, attach
from limbeck.taps.outputs import Outputs, as_outputs
from limbeck.taps.resolve import resolve_taps
from limbeck.taps.roles import Roles, infer_roles, roles_of, unwrap

Forward = Callable[[Any, Any], Any]


class TappedModel:
    """A network that answers with ``Outputs``: logits, and features at the taps.

    Args:
        model: the network, a ``Cohort`` (taps are then resolved in each member), or either inside
            a data-parallel wrapper.
        taps: paths, globs and roles of ``resolve_taps``, captured in every call.
        forward: ``forward(model, batch)`` of the user's for networks that are not called as
            ``model(inputs)``; called once for each member of a cohort.
        compile: True to compile the network, or a mapping of arguments of ``torch.compile``.
        roles: roles to use instead of the network's own.
        example: inputs for one forward pass that finds roles which the network does not declare
            (``infer_roles``); run only if a tap needs it.
        require_grad: gradients with respect to the taps exist in every call that records any, also
            where nothing before them requires one (see ``tapping``).

    Modes are the caller's: nothing here changes train and eval. Close it, or use it as a context,
    to take the hooks away. Raises TapError for taps the network does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: str | Sequence[str] = (),
        *,
        forward: Forward | None = None,
        compile: bool | Mapping[str, Any] = False,
        roles: Roles | None = None,
        example: Any = None,
        require_grad: bool = False,
    ) -> None:
        self.module = unwrap(model)
        self.forward = forward
        self._model = model
        self._roles = roles
        self._example = example
        self._handles: list[RemovableHandle] = []
        self.taps = [taps] if isinstance(taps, str) else list(taps)
        self._stores = self._make_stores(self.taps)
        for member, store in zip(self.members, self._stores, strict=True):
            self._handles += attach(member, store, require_grad=require_grad, lenient=True)
        # After the hooks: compiled code holds those that were there when it was traced.
        # One graph for each shape, made once. With a graph for any batch size beside the first one
        # (torch's default), which of the two serves a batch depends on what was asked before, and
        # a resumed run would not go on to the same bits; it is slower too.
        options = {"dynamic": False, **({} if isinstance(compile, bool) else compile)}
        self._compiled = torch.compile(model, **options) if compile is not False else None

    @property
    def is_cohort(self) -> bool:
        """Whether the network is several that learn together."""
        return bool(getattr(self.module, "is_cohort", False))

    @property
    def members(self) -> list[nn.Module]:
        """The single networks: the members of a cohort, or the one."""
        return list(self.module.members) if self.is_cohort else [self.module]  # type: ignore[arg-type]

    @property
    def names(self) -> list[str]:
        """Keys of ``Outputs.features`` in every call, in order."""
        return list(self._stores[0])

    def __call__(self, batch: Any) -> Outputs:
        """Return what the network says about a ``Batch`` or about plain inputs.

        A tensor is passed as ``model(inputs)``, a mapping as keywords, a tuple as positions. Of a
        cohort, ``members`` has each one's outputs and ``logits`` is the mean of theirs.
        """
        model = self._model if self._compiled is None else self._compiled
        return self._run(model, batch, self._stores)

    def ask(
        self,
        batch: Any,
        taps: str | Sequence[str] | None = None,
        *,
        require_grad: bool = False,
        detach: bool = False,
    ) -> Outputs:
        """Ask once with other taps.

        Args:
            batch: a ``Batch`` or plain inputs.
            taps: taps of this call alone; None for the usual ones.
            require_grad: gradients of the logits with respect to the taps exist, also for a
                frozen network and under ``no_grad`` (see ``tapping``).
            detach: cut the graph at the taps (see ``tapping``).

        The bare network runs: compiled code cannot be differentiated at its inside, and a second
        forward through a data-parallel wrapper would disturb the first one's reduction.
        """
        stores = self._make_stores(self.taps if taps is None else taps)
        handles: list[RemovableHandle] = []
        try:
            for member, store in zip(self.members, stores, strict=True):
                handles += attach(member, store, require_grad=require_grad, detach=detach)
            with torch.set_grad_enabled(require_grad or torch.is_grad_enabled()):
                return self._run(self.module, batch, stores)
        finally:
            for handle in handles:
                handle.remove()
            for store in self._stores:  # the usual hooks saw this call too
                store.clear()

    def close(self) -> None:
        """Take the hooks away; the network is as it was. Calling again does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._compiled = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _make_stores(self, taps: str | Sequence[str]) -> list[TapStore]:
        return [
            TapStore(resolve_taps(member, taps, roles=self._roles_for(member, taps)))
            for member in self.members
        ]

    def _roles_for(self, member: nn.Module, taps: str | Sequence[str]) -> Roles | None:
        if self._roles is not None or self._example is None:
            return self._roles
        asked = [taps] if isinstance(taps, str) else taps
        wants = any(tap.startswith(("stages", "penultimate", "head")) for tap in asked)
        known = roles_of(member)
        if not wants or "stages" in known:
            return known
        stages = any(tap.startswith("stages") for tap in asked)
        return infer_roles(member, self._example, stages=stages)

    def _run(self, model: Any, batch: Any, stores: Sequence[TapStore]) -> Outputs:
        for store in stores:
            store.clear()
        try:
            answer = self._call(model, batch)
            answers = answer if self.is_cohort else [answer]
            outputs = [
                self._outputs(one, store) for one, store in zip(answers, stores, strict=True)
            ]
        finally:
            for store in stores:
                store.clear()
        if not self.is_cohort:
            return outputs[0]
        logits = torch.stack([one.logits for one in outputs]).mean(dim=0)
        return Outputs(logits, members=tuple(outputs))

    def _call(self, model: Any, batch: Any) -> Any:
        if self.forward is not None:
            if self.is_cohort:
                return model(batch, each=self.forward)
            return self.forward(model, batch)
        return call_model(model, batch.inputs if isinstance(batch, Batch) else batch)

    @staticmethod
    def _outputs(answer: Any, store: TapStore) -> Outputs:
        try:
            outputs = as_outputs(answer)
        except TypeError as error:
            raise TapError(str(error)) from error
        store.check()
        if not store:
            return outputs
        features = {**outputs.features, **store}
        return Outputs(outputs.logits, features, outputs.attentions, outputs.members)
