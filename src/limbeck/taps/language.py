"""Roles of transformers networks: read off their structure, without running them."""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck.models.hf import is_transformers

ATTENTION = ":attention"
"""Behind a path: the attention probabilities that the module returns beside its output."""


def transformers_roles(model: nn.Module) -> dict[str, list[str] | str]:
    """Return the roles of a transformers network; {} for any other.

    ``stages`` are the blocks, the encoder's before the decoder's; ``head`` is the layer that gives
    the logits (of a classifier of several layers, the last), ``penultimate`` what it reads: one
    vector a text, or, where the network classifies by its last token, one vector a token.
    ``attentions`` are the blocks' self-attention probabilities ``[batch, heads, tokens, tokens]``,
    of networks that are an encoder or a decoder alone. ``embeddings``, of such
    networks too, is the whole block of embeddings (words, positions, segments, norm) where there is
    one, else the word vectors.
    """
    if not is_transformers(model):
        return {}
    roles: dict[str, list[str] | str] = {}
    blocks = _blocks(model)
    if blocks:
        roles["stages"] = blocks
    head = _head(model)
    if head:
        roles["head"] = head
        roles["penultimate"] = f"{head}:in"
    embeddings = None if _config(model).is_encoder_decoder else _embeddings(model)
    if embeddings:
        roles["embeddings"] = embeddings
    attentions = [_self_attention(model, block) for block in blocks]
    if attentions and all(attentions) and not _config(model).is_encoder_decoder:
        roles["attentions"] = [f"{path}{ATTENTION}" for path in attentions]
    return roles


def _config(model: nn.Module) -> Any:
    return model.config


def _embeddings(model: nn.Module) -> str | None:
    base: Any = getattr(model, model.base_model_prefix, model)  # type: ignore[call-overload]
    found = getattr(base, "embeddings", None)
    if not isinstance(found, nn.Module):
        try:
            found = base.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            return None
    return next((name for name, part in model.named_modules() if part is found and name), None)


def _blocks(model: nn.Module) -> list[str]:
    """Return the paths of the blocks: the outermost lists of modules of one class each."""
    found: list[str] = []
    for name, part in model.named_modules():
        if not isinstance(part, nn.ModuleList) or any(
            name.startswith(f"{block}.") for block in found
        ):
            continue
        children = list(part.named_children())
        # A block that was grown (``models.grown``) is still one of its kind.
        kinds = {type(getattr(child, "grown_around", child)) for _, child in children}
        if len(kinds) == 1 and any(_is_attention(inner) for inner in part.modules()):
            found += [f"{name}.{child}" for child, _ in children]
    return found


def _head(model: nn.Module) -> str | None:
    output: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if output is not None:
        return next((name for name, part in model.named_modules() if part is output), None)
    base = f"{model.base_model_prefix}."
    linear = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
        and part.out_features == _config(model).num_labels
        and not name.startswith(base)
    ]
    return linear[-1] if linear else None


def _is_attention(module: nn.Module) -> bool:
    """Whether a module is an innermost attention, which returns probabilities where it is eager."""
    inner = [part for part in module.modules() if part is not module]
    named = type(module).__name__.endswith("Attention")
    return named and not any(type(part).__name__.endswith("Attention") for part in inner)


def _self_attention(model: nn.Module, block: str) -> str | None:
    part = model.get_submodule(block)
    found = [name for name, inner in part.named_modules() if _is_attention(inner)]
    return f"{block}.{found[0]}" if found else None
