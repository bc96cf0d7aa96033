"""What a network says it expects of its inputs: timm's ``pretrained_cfg``, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from limbeck.data.normalize import Normalize


def pretrained_config(module: nn.Module) -> Mapping[str, Any]:
    """Return ``module.pretrained_cfg`` (a mapping, or an object with ``to_dict``), else {}."""
    found: Any = getattr(module, "pretrained_cfg", None)
    if not isinstance(found, Mapping) and callable(getattr(found, "to_dict", None)):
        found = found.to_dict()
    return found if isinstance(found, Mapping) else {}


def expected_statistics(module: nn.Module) -> Normalize | None:
    """Return the statistics of inputs that a network was pretrained with; None: it says nothing."""
    config = pretrained_config(module)
    mean, std = config.get("mean"), config.get("std")
    if not isinstance(mean, Sequence) or not isinstance(std, Sequence) or not mean:
        return None
    return Normalize(tuple(mean), tuple(std))


def expected_size(module: nn.Module) -> tuple[int, int] | None:
    """Return (height, width) of the images that a network was made for; None: it says nothing.

    A patch embedding knows its own size; elsewhere the pretrained configuration does.
    """
    own: Any = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if own is None:
        own = (pretrained_config(module).get("input_size") or ())[1:]
    if isinstance(own, int):
        own = (own, own)
    if isinstance(own, Sequence) and len(own) == 2 and all(isinstance(n, int) for n in own):
        return own[0], own[1]
    return None


def say_expected_inputs(
    module: nn.Module,
    statistics: Normalize | None,
    input_shape: Sequence[int],
    num_classes: int | None,
) -> None:
    """Write into a trained network's ``pretrained_cfg`` what it was trained on.

    The configuration it was built with speaks of other data: a student that learned on inputs in
    [0, 1] must not be given ImageNet's statistics once it is a teacher itself. A network without
    such a configuration is left alone.

    Args:
        module: the network.
        statistics: by which its inputs were normalised; None: by none.
        input_shape: of one sample.
        num_classes: of its head; None: not known.
    """
    config = pretrained_config(module)
    if not config:
        return
    known, channels = statistics or Normalize(), input_shape[0] if len(input_shape) == 3 else 1
    mean, std = (v * channels if len(v) == 1 else v for v in (known.mean, known.std))
    said: dict[str, Any] = {"mean": mean, "std": std, "input_size": tuple(input_shape)}
    if num_classes is not None:
        said["num_classes"] = num_classes
    module.pretrained_cfg = {**config, **said}  # type: ignore[assignment]


def size_hint(module: nn.Module) -> str:
    """Return what to add to an error about a size that a network cannot read; "" for nothing."""
    own: Any = getattr(module, "image_size", None)  # torchvision's ViT
    argument, size = "image_size", (own, own) if isinstance(own, int) else None
    if pretrained_config(module).get("fixed_input_size"):
        argument, size = "img_size", expected_size(module)
    if size is None:
        return ""
    return (
        f"; it was made for {size[0]}x{size[1]}: build it with the {argument} of the data, and a "
        "patch_size that divides it"
    )
