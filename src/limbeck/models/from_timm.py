"""Networks of timm: ``timm/<id>``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import ModelError, unknown

OURS = ("num_classes", "in_chans")
"""Arguments of ``timm.create_model`` that the data decide."""


def build_timm(
    model_id: str, num_classes: int, input_shape: tuple[int, ...], arguments: Mapping[str, Any]
) -> nn.Module:
    """Build ``timm.create_model(model_id)`` with our classes and channels.

    Args:
        model_id: timm's own, with a tag of weights behind a dot where wanted.
        num_classes: of the head. Weights for another number give it a new head; the network's
            ``pretrained_cfg`` says how many classes the weights had.
        input_shape: (channels, height, width); the first layer is made, and pretrained weights
            adapted, for these channels.
        arguments: ``pretrained`` (bool; downloads), ``weights`` (a safetensors file or a torch
            checkpoint that holds nothing but tensors, fitted as timm fits pretrained weights), and
            those of ``timm.create_model``: ``img_size``, ``patch_size``, ``drop_rate``, ...

    Raises ModelError where timm or torchvision is missing, the id unknown, an argument refused,
    a file missing or not of this network.
    """
    name = f"timm/{model_id}"
    timm = _timm(name)
    known: list[str] = timm.list_models()
    base = model_id.split(".")[0]  # "resnet18.a1_in1k" names weights after the dot
    if base not in known and ":" not in model_id:
        near = unknown("model", name, [f"timm/{choice}" for choice in known])
        raise ModelError(near.split(" (choices")[0].rstrip(":") + " (see timm.list_models())")
    if len(input_shape) != 3:
        raise ModelError(
            f"model {name!r} reads images (channels, height, width), not {input_shape}"
        )
    given = dict(arguments)
    _refuse_ours(name, given)
    weights = given.pop("weights", None)
    if weights is not None:
        given |= _from_file(name, model_id, Path(str(weights)), given)
    try:
        model: nn.Module = timm.create_model(
            model_id, num_classes=num_classes, in_chans=input_shape[0], **given
        )
    except Exception as error:
        where = f" and {weights}" if weights is not None else ""
        raise ModelError(
            f"timm cannot build {name!r} with {_shown(arguments)}{where}: {one_line(error)}"
        ) from error
    config: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict):
        config.pop("state_dict", None)  # the weights themselves: in the network by now
    return model


def one_line(error: Exception, most: int = 300) -> str:
    """Return the message of an error of another library in one line of at most ``most`` signs."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]} …"


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        missing = (error.name or "timm").split(".")[0]
        raise ModelError(
            f"model {name!r} needs {missing}, which is not installed: pip install timm torchvision"
        ) from error
    except Exception as error:  # a torchvision built for another torch fails while it is imported
        raise ModelError(
            f"model {name!r}: importing timm failed: {one_line(error)} (is the installed "
            "torchvision the one made for this torch?)"
        ) from error
    return timm


def _refuse_ours(name: str, arguments: Mapping[str, Any]) -> None:
    for key in OURS:
        if key in arguments:
            raise ModelError(f"model {name!r}: {key} comes from the data; leave it out")
    if "checkpoint_path" in arguments:
        raise ModelError(f"model {name!r}: say checkpoint_path as weights: a file")
    if arguments.get("pretrained") and arguments.get("weights") is not None:
        raise ModelError(f"model {name!r}: expected either pretrained or weights, got both")


def _from_file(
    name: str, model_id: str, path: Path, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that make timm fill the network from a local file."""
    import timm

    path = path.expanduser()
    if not path.is_file():
        raise ModelError(f"model {name!r}: weights: there is no file {path}")
    if path.suffix in (".npz", ".npy"):
        raise ModelError(
            f"model {name!r}: weights: expected safetensors or a torch checkpoint, got {path.name}"
        )
    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise ModelError(
            f"model {name!r}: weights: {path} cannot be read as tensors alone: {one_line(error)}"
        ) from error
    config: Any = timm.models.get_pretrained_cfg(model_id)
    heads = getattr(config, "classifier", None) or ()
    heads = (heads,) if isinstance(heads, str) else heads
    rows = [len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state]
    overlay = {**(arguments.get("pretrained_cfg_overlay") or {}), "state_dict": state}
    overlay["custom_load"] = False
    if rows:
        overlay["num_classes"] = rows[0]
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _shown(arguments: Mapping[str, Any]) -> str:
    return repr({key: value for key, value in arguments.items() if key != "weights"})
