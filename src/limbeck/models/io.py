"""A network in a folder: ``model.safetensors`` for the weights, ``model.json`` to rebuild it."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.normalize import Normalize
from limbeck.errors import ModelError
from limbeck.files import digest, storage_errors, write_json, written_whole
from limbeck.models.composed import COMPOSED
from limbeck.models.hf_folder import write_config
from limbeck.models.pretrained_config import say_expected_inputs

FORMAT = 1
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
BRINGS_WEIGHTS = ("timm/", "torchvision/")
"""Beginnings of names whose arguments ``pretrained`` and ``weights`` bring weights."""
SPEC_KEYS = ("model", "arguments", "num_classes", "input_shape")


def model_spec(
    name: str, *, num_classes: int, input_shape: Sequence[int], **arguments: Any
) -> dict[str, Any]:
    """Return what ``build_model`` needs to make the network again, ready for JSON.

    Where the first weights of a timm or torchvision network came from is left out: the folder has
    the trained ones, and opening it must download nothing.
    """
    if name.startswith(BRINGS_WEIGHTS):
        arguments = {k: v for k, v in arguments.items() if k not in ("pretrained", "weights")}
    if name.startswith("hf/"):
        from limbeck.models.hf_folder import portable

        name, arguments = portable(name, arguments)
    return {
        "model": name,
        "arguments": arguments,
        "num_classes": num_classes,
        "input_shape": list(input_shape),
    }


def save_model(
    model: nn.Module,
    folder: str | os.PathLike[str],
    spec: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network to a folder and return the folder.

    Args:
        model: the network; tied weights are stored once.
        folder: made where it does not exist; an older network in it is replaced.
        spec: how to rebuild the network (see ``model_spec``); None for a module of the user's,
            which then has to be given again to ``load_model``.
        extra: what else a user of the network needs, such as ``normalisation`` (``{"mean": [...],
            "std": [...]}``) and ``class_names``; stored beside the spec.

    Beside a transformers network its ``config.json`` is written, so that ``from_pretrained`` reads
    the folder too. Each file is written aside, synced and renamed. Raises StorageError where it
    cannot be written, ModelError where spec or extra cannot be said in JSON.
    """
    folder = Path(folder)
    description = _describe(spec, extra)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    checksum = _write_weights(model, folder / WEIGHTS)
    write_config(model, folder, description.get("class_names") or ())
    write_json(folder / DESCRIPTION, {**description, "sha256": checksum})
    return folder


def read_spec(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a folder's ``model.json``: ``model``, ``arguments``, ``num_classes``, ``input_shape``
    (None for a user's module), ``normalisation``, ``class_names`` and what else was saved.

    Raises ModelError where it is missing, damaged, or of another format.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise ModelError(
            f"there is no {DESCRIPTION} in {str(folder)!r}: expected a folder with "
            f"{DESCRIPTION} and {WEIGHTS}"
        )
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(read, dict) or "format" not in read:
        raise ModelError(f"{path} is not a description of a network: it has no 'format'")
    if read["format"] != FORMAT:
        raise ModelError(
            f"{path} has format {read['format']!r}; this version of limbeck reads format {FORMAT}"
        )
    for key in SPEC_KEYS:
        if key not in read:
            raise ModelError(f"{path} is damaged: the key {key!r} is missing")
    return read


def load_model(
    folder: str | os.PathLike[str], model: nn.Module | None = None, *, allow_code: bool = False
) -> nn.Module:
    """Rebuild a network from its folder, on the CPU, in eval mode.

    Args:
        folder: what ``save_model`` wrote.
        model: the module to fill instead of building one; needed where no spec was saved.
        allow_code: also build from code that is not installed (``py:`` names).

    Raises ModelError where files are missing, damaged, of another format, or do not fit; a given
    ``model`` is then unchanged.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"there is no {WEIGHTS} in {str(folder)!r}")
    if spec.get("sha256") not in (None, digest(path)):
        raise ModelError(f"{path} is damaged, or is not the file that {DESCRIPTION} describes")
    if model is None:
        model = _rebuild(folder, spec, allow_code)
    load_weights(model, path)
    if spec["input_shape"] is not None:
        stats = saved_statistics(spec)
        say_expected_inputs(model, stats, spec["input_shape"], spec["num_classes"])
    return model.eval()


def saved_beside(weights: str | os.PathLike[str]) -> Path | None:
    """Return the folder of ``save_model`` that ``weights`` is, or is the file of; None: another."""
    path = Path(weights)
    folder = path if path.is_dir() else path.parent
    ours = (folder / DESCRIPTION).is_file() and (path == folder or path.name == WEIGHTS)
    return folder if ours else None


def saved_statistics(spec: Mapping[str, Any]) -> Normalize | None:
    """Return the statistics in a folder's ``model.json``; None: inputs were not normalised."""
    stats = spec.get("normalisation") or {}
    return Normalize(stats["mean"], stats["std"]) if "mean" in stats and "std" in stats else None


def _describe(spec: Mapping[str, Any] | None, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    taken = {"format", "sha256", *SPEC_KEYS} & set(extra or {})
    if taken:
        raise ModelError(f"extra may not contain {', '.join(sorted(taken))}: give it in spec")
    described = {key: (spec or {}).get(key) for key in SPEC_KEYS}
    described["arguments"] = described["arguments"] or {}
    rest = {key: value for key, value in (spec or {}).items() if key not in SPEC_KEYS}
    both = {"format": FORMAT, **described, **rest, **(extra or {})}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(both, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ModelError(f"the description of the network cannot be JSON: {error}") from error
    return plain


def _write_weights(model: nn.Module, path: Path) -> str:
    """Write the weights whole or not at all; return the checksum of what was written."""
    with written_whole(path) as aside:
        _save_weights(model, aside)
        aside.chmod(path.parent.stat().st_mode & 0o666)  # the writer makes it its owner's alone
        return digest(aside)


def _save_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_model as save

    try:
        save(_laid_out(model), str(path))
    except SafetensorError as error:
        # The writer is Rust and hides the system's error number in its message.
        number = re.search(r"os error (\d+)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise ModelError(f"the weights cannot be stored: {error}") from error


def _laid_out(model: nn.Module) -> nn.Module:
    """Return a model whose shared tensors the writer can tell apart: it reads them as they lie.

    In channels-last a tensor that two names share is no row of numbers to it.
    """
    tensors = model.state_dict(keep_vars=True).values()
    strided = [tensor.data_ptr() for tensor in tensors if not tensor.is_contiguous()]
    if len(set(strided)) == len(strided):
        return model
    plain: nn.Module = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return plain


def _rebuild(folder: Path, spec: Mapping[str, Any], allow_code: bool) -> nn.Module:
    from limbeck.models.registry import build_model

    if spec["model"] is None:
        raise ModelError(
            f"{str(folder)!r} holds the weights of a module that has no name: build it yourself "
            "and pass load_model(folder, model=...)"
        )
    if not isinstance(spec["arguments"], dict):
        raise ModelError(f"{folder / DESCRIPTION} is damaged: 'arguments' is not a mapping")
    # Building draws weights that are overwritten at once: leave the caller's generator alone.
    with torch.random.fork_rng(devices=[]):
        if spec["model"] in COMPOSED:
            return COMPOSED[spec["model"]](spec, lambda one: _rebuild(folder, one, allow_code))
        return build_model(
            str(spec["model"]),
            num_classes=spec["num_classes"],
            input_shape=spec["input_shape"],
            allow_code=allow_code,
            **spec["arguments"],
        )


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file; ModelError names the first weight that misfits."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    own: dict[str, Tensor] = model.state_dict()
    same = {name: (t.data_ptr(), t.shape, t.stride(), t.dtype) for name, t in own.items()}
    found = {same[name] for name in stored if name in own}
    for name, tensor in stored.items():
        if name not in own:
            raise ModelError(f"{path} has weights {name!r}, which this network does not have")
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"{path}: weights {name!r} have shape {tuple(tensor.shape)}, this network needs "
                f"{tuple(own[name].shape)}"
            )
    for name in own:
        counter = name.endswith("num_batches_tracked")  # absent in old files; torch fills it in
        if name not in stored and not counter and same[name] not in found:
            raise ModelError(f"{path} has no weights for {name!r} of this network")
    model.load_state_dict(stored, strict=False)
