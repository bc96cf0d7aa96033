"""Explainers: from a network's pass over a batch to the map that explains one logit of each sample.

All have one interface. A pass is made with a graph from the explainer's tap to the logits; the
gradient of the explained logits at the tap then becomes the map. What differs is the tap, the mode
of the pass, and whether the gradient is the map or weighs the features there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from limbeck import functional
from limbeck.errors import MethodError, TapError, unknown
from limbeck.models.bcos_layers import explanation_mode
from limbeck.taps.outputs import Outputs

_PREFIX = "explanation"


@dataclass(frozen=True)
class Explainer:
    """One way to explain a logit.

    Attributes:
        tap: the one layer, or "input", with respect to which the logit is differentiated.
    """

    tap: str = "input"

    kind: ClassVar[str]
    own_pass: ClassVar[bool] = True
    """Whether a pass must be made for it; False: an ordinary pass that was tapped will do."""

    @property
    def name(self) -> str:
        """The tap under which a teacher gives this map of its own top class."""
        return f"{_PREFIX}:{self.kind}:{self.tap}"

    def pass_over(self, ask: Callable[[tuple[str, ...]], Outputs]) -> Outputs:
        """Make a pass whose logits can be explained.

        Args:
            ask: asks the network about the batch with these taps, with gradients at them.

        Raises:
            TapError: something behind the tap works in place.
        """
        try:
            with self._mode():
                return ask((self.tap,))
        except RuntimeError as error:
            if "in-place" not in str(error):
                raise
            raise TapError(
                f"tap {self.tap!r}: the first layer behind it works in place (an activation with "
                "inplace=True?), so nothing can be differentiated there; set inplace=False"
            ) from error

    def map(self, outputs: Outputs, classes: Tensor, *, graph: bool) -> Tensor:
        """Return the map of a class of each sample.

        Args:
            outputs: of a pass with a graph from the tap to the logits.
            classes: int64 ``[batch]``, the class to explain.
            graph: whether the map can be differentiated through.

        Raises:
            MethodError: the tap does not name one layer.
        """
        feature = self.feature(outputs)
        explained = outputs.logits.gather(1, classes[:, None]).sum()
        with self._mode():
            (gradient,) = torch.autograd.grad(
                explained, feature, create_graph=graph, retain_graph=True
            )
        found = self._form(feature, gradient)
        return found if graph else found.detach()

    def feature(self, outputs: Outputs) -> Tensor:
        """Return the tapped tensor of a pass."""
        if self.tap not in outputs.features:
            found = ", ".join(outputs.features) or "nothing"
            raise MethodError(
                f"explainer {self.kind}: tap {self.tap!r} must name one layer, such as "
                f"'stages[-1]'; it stands for {found}"
            )
        return outputs.features[self.tap]

    def _mode(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _form(self, feature: Tensor, gradient: Tensor) -> Tensor:
        return gradient


@dataclass(frozen=True)
class GradCAM(Explainer):
    """``ReLU(sum_k mean(dz/dA_k) A_k)`` of the features A at a layer; ``[batch, height, width]``.

    Of tokens ``[batch, tokens, channels]`` it is ``[batch, tokens]``.
    """

    tap: str = "stages[-1]"
    kind: ClassVar[str] = "gradcam"
    own_pass: ClassVar[bool] = False

    def _form(self, feature: Tensor, gradient: Tensor) -> Tensor:
        cam: Tensor = functional.gradcam(feature, gradient)
        return cam


@dataclass(frozen=True)
class InputGradient(Explainer):
    """``dz/dx`` at the network's inputs (Simonyan et al. 1312.6034), in their own shape."""

    tap: str = "input"
    kind: ClassVar[str] = "input_gradient"


@dataclass(frozen=True)
class BcosWeights(Explainer):
    """The dynamic weights W(x) of a B-cos network at its encoded pixels.

    ``[batch, 2 * channels, height, width]``; ``sum(W(x) * encoded)`` is the logit itself.
    """

    tap: str = "encode"
    kind: ClassVar[str] = "bcos"

    def _mode(self) -> AbstractContextManager[None]:
        return explanation_mode()


_KINDS: dict[str, type[Explainer]] = {
    one.kind: one for one in (GradCAM, InputGradient, BcosWeights)
}
EXPLAINERS = tuple(_KINDS)


def make_explainer(kind: str, tap: str | None = None) -> Explainer:
    """Return an explainer.

    Args:
        kind: "gradcam", "input_gradient" or "bcos".
        tap: where it differentiates; None: "stages[-1]", "input" and "encode".

    Raises:
        MethodError: an unknown kind.
    """
    if kind not in _KINDS:
        raise MethodError(unknown("explainer", kind, EXPLAINERS))
    return _KINDS[kind]() if tap is None else _KINDS[kind](tap)


def explainer_named(tap: str) -> Explainer | None:
    """Return the explainer whose map a tap stands for ("explanation:gradcam:stages[-1]")."""
    prefix, _, rest = tap.partition(":")
    kind, _, place = rest.partition(":")
    return make_explainer(kind, place) if prefix == _PREFIX and place else None
