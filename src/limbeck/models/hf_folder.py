"""Saved transformers networks: rebuilt here without the hub, and read by plain transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.files import write_json
from limbeck.models.hf import (
    NOT_FIELDS,
    PREFIX,
    is_model_type,
    is_transformers,
    stored_configuration,
)

CONFIG = "config.json"


def portable(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return how to rebuild an ``hf/`` network where its folder or the hub may be gone.

    A network with weights is said as its model type and configuration: the weights are saved
    beside it, and building must not need those it began from.
    """
    if is_model_type(name.removeprefix(PREFIX)):
        return name, dict(arguments)
    own = {key: value for key, value in arguments.items() if key in ("head", "attention")}
    facts = {key: value for key, value in arguments.items() if key not in own}
    config = stored_configuration(name, facts)
    kind = f"{PREFIX}{config.model_type}"
    default = type(config)().to_dict()
    fields = {
        key: value
        for key, value in json.loads(config.to_json_string(use_diff=False)).items()
        if key in default and key not in NOT_FIELDS
    }
    return kind, {**fields, **own}


def write_config(model: nn.Module, folder: Path, class_names: Sequence[str] = ()) -> None:
    """Write ``config.json`` beside a transformers network's weights, for its ``from_pretrained``.

    Of any other network, an older file of this name is taken away: it would describe another.
    """
    if not is_transformers(model):
        (folder / CONFIG).unlink(missing_ok=True)
        return
    config: Any = model.config
    document = json.loads(config.to_json_string(use_diff=False))
    document["architectures"] = [type(model).__name__]
    if class_names and len(class_names) == config.num_labels:
        document["id2label"] = {str(number): name for number, name in enumerate(class_names)}
        document["label2id"] = {name: number for number, name in enumerate(class_names)}
    write_json(folder / CONFIG, document)
