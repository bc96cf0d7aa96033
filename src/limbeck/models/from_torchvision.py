"""Networks of torchvision: ``torchvision/<id>``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError, unknown
from limbeck.models.from_timm import one_line

_ENUM = re.compile(r"[A-Z][A-Z0-9_]*")


def is_weights_name(weights: str) -> bool:
    """Whether text names torchvision's own weights ("DEFAULT", "IMAGENET1K_V1"), not a file."""
    return bool(_ENUM.fullmatch(weights))


def build_torchvision(
    model_id: str, num_classes: int, input_shape: tuple[int, ...], arguments: Mapping[str, Any]
) -> nn.Module:
    """Build ``torchvision.models.get_model(model_id)`` with our number of classes.

    Args:
        model_id: a classification network of torchvision: "resnet18", "vit_b_16", ...
        num_classes: of the head; weights for another number give it a new head.
        input_shape: (3, height, width): these networks read three channels.
        arguments: ``weights``, the name of torchvision's own ("DEFAULT", "IMAGENET1K_V1";
            downloads) or a local file (safetensors, or a torch checkpoint that holds nothing but
            tensors); and the network's own arguments.

    With torchvision's own weights the network gets a ``pretrained_cfg`` as timm's have: the
    statistics and size of its inputs, and the classes of the weights.

    Raises ModelError where torchvision is missing or broken, the id or the weights unknown, or an
    argument refused.
    """
    name = f"torchvision/{model_id}"
    models = _models(name)
    known: list[str] = models.list_models(module=models)
    if model_id not in known:
        near = unknown("model", name, [f"torchvision/{choice}" for choice in known])
        raise ModelError(
            near.split(" (choices")[0].rstrip(":") + " (see torchvision.models.list_models())"
        )
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise ModelError(
            f"model {name!r} reads images of three channels (3, height, width), not {input_shape}; "
            f"timm's networks are made for other channels"
        )
    given = dict(arguments)
    weights = given.pop("weights", None)
    if given.pop("pretrained", None) is not None:
        raise ModelError(f"model {name!r}: say weights: DEFAULT instead of pretrained")
    for key in ("num_classes", "weights_backbone"):
        if key in given:
            raise ModelError(f"model {name!r} has no argument {key!r} here")
    try:
        model: nn.Module = models.get_model(
            model_id, weights=None, num_classes=num_classes, **given
        )
    except Exception as error:
        raise ModelError(
            f"torchvision cannot build {name!r} with {given!r}: {one_line(error)}"
        ) from error
    if weights is not None:
        _fill(models, model, name, model_id, str(weights))
    return model


def _models(name: str) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        missing = (error.name or "torchvision").split(".")[0]
        raise ModelError(
            f"model {name!r} needs {missing}, which is not installed: pip install torchvision"
        ) from error
    except Exception as error:
        raise ModelError(
            f"model {name!r}: importing torchvision failed: {one_line(error)} (is it the one made "
            "for this torch?)"
        ) from error
    return models


def _fill(models: Any, model: nn.Module, name: str, model_id: str, weights: str) -> None:
    if not is_weights_name(weights):
        _load(model, name, weights, _read_file(name, Path(weights).expanduser()))
        return
    choices = models.get_model_weights(model_id)
    names = [*choices.__members__, *(["DEFAULT"] if hasattr(choices, "DEFAULT") else [])]
    if weights not in names:
        raise ModelError(f"model {name!r}: " + unknown("weights", weights, names))
    chosen = choices[weights] if weights in choices.__members__ else choices.DEFAULT
    try:
        state = chosen.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # no network, no space, ...
        raise ModelError(
            f"model {name!r}: weights {weights} could not be fetched: {one_line(error)}"
        ) from error
    _load(model, name, weights, state)
    preset = chosen.transforms()
    size = list(getattr(preset, "crop_size", None) or [])
    categories = chosen.meta.get("categories")
    model.pretrained_cfg = {  # type: ignore[assignment]
        "mean": tuple(getattr(preset, "mean", ())),
        "std": tuple(getattr(preset, "std", ())),
        "input_size": (3, *(size * 2 if len(size) == 1 else size)) if size else None,
        "num_classes": len(categories) if categories else None,
    }


def _read_file(name: str, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(
            f"model {name!r}: weights: there is no file {path} (torchvision's own have names such "
            "as DEFAULT or IMAGENET1K_V1)"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"model {name!r}: weights: {path} cannot be read as tensors alone: {one_line(error)}"
        ) from error
    inner = state
    if isinstance(state, Mapping):
        inner = next((state[key] for key in ("state_dict", "model") if key in state), state)
    if not isinstance(inner, Mapping):
        raise ModelError(f"model {name!r}: weights: {path} holds no weights by name")
    return {str(key).removeprefix("module."): value for key, value in inner.items()}


def _load(model: nn.Module, name: str, weights: str, state: Mapping[str, Tensor]) -> None:
    """Fill the network; a head for another number of classes stays new, all else must fit."""
    own = model.state_dict()
    heads = {key for key in own if _is_head(model, key)}
    kept = {
        key: value
        for key, value in state.items()
        if not (key in heads and key in own and value.shape != own[key].shape)
    }
    new = heads & (set(state) - set(kept))
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise ModelError(f"model {name!r}: weights {weights}: {one_line(error)}") from error
    # Auxiliary heads are only there where they were asked for.
    unexpected = [key for key in unexpected if not key.lower().startswith("aux")]
    for key in [*(set(missing) - new), *unexpected]:
        side = "are missing" if key in missing else "are not of this network"
        raise ModelError(f"model {name!r}: weights {weights}: {key!r} {side}")


def _is_head(model: nn.Module, key: str) -> bool:
    """Whether a weight belongs to a last layer, that of an auxiliary classifier included."""
    from limbeck.taps.roles import roles_of

    path = key.rpartition(".")[0]
    last = path.rpartition(".")[2]
    return path == roles_of(model).get("head") or (last == "fc" and "aux" in path.lower())
