"""transformers networks: ``hf/<model type>`` from a configuration, ``hf/<folder or hub id>``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from limbeck.errors import ModelError, unknown
from limbeck.models.hub import line_of, load_from, quiet

if TYPE_CHECKING:
    from limbeck.data.vocabulary import Vocabulary

PREFIX = "hf/"
HEADS = {
    "classification": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
}
FRESH = "limbeck_fresh"
"""Attribute that names the weights which a pretrained network did not bring with it."""

_DATA = ("vocab_size", "pad_token_id")
NOT_FIELDS = {
    "model_type", "transformers_version", "architectures", "_name_or_path", "id2label",
    "label2id", "num_labels", "problem_type", "dtype", "torch_dtype", "return_dict",
    "output_attentions", "output_hidden_states", "auto_map",
}  # fmt: skip


def build_hf(
    name: str,
    num_classes: int | None,
    input_shape: tuple[int, ...] | None,
    arguments: Mapping[str, Any],
) -> nn.Module:
    """Build a transformers network.

    Args:
        name: ``hf/<model type>`` ("hf/bert"): random weights; ``hf/<folder or hub id>``: its
            weights, from safetensors alone; code that comes with it is never run.
        num_classes: outputs of the classifier; not for ``head="causal"``.
        input_shape: ``(tokens,)``, where known: positions are checked against it.
        arguments: ``head`` ("classification", "causal"), ``attention`` (an implementation that
            transformers knows: "sdpa", "eager" ...; None: its default), ``vocab_size`` and
            ``pad_token_id`` (from the data), and for a model type fields of its configuration.

    Raises ModelError, in one line.
    """
    _import(name)
    given = dict(arguments)
    head, attention = given.pop("head", "classification"), given.pop("attention", None)
    if head not in HEADS:
        raise ModelError(f"model {name!r}: " + unknown("head", str(head), HEADS))
    if head == "classification" and num_classes is None:
        raise ModelError(f"model {name!r} needs num_classes, the number of its outputs")
    target = name.removeprefix(PREFIX)
    if is_model_type(target):
        config = configuration(name, given)
    else:
        config = stored_configuration(name, given)
    if head == "classification":
        _set_classes(name, config, num_classes)
    elif num_classes not in (None, config.vocab_size):
        raise ModelError(
            f"model {name!r} with head 'causal' gives {config.vocab_size} logits for each token, "
            f"the data have {num_classes} classes: use head 'classification'"
        )
    if is_model_type(target):
        model = _from_configuration(name, config, head, attention)
    else:
        model = _with_weights(name, config, head, attention)
    _check_positions(name, model, input_shape)
    return model


def is_model_type(target: str) -> bool:
    """Whether transformers knows a model type of this name."""
    from transformers import CONFIG_MAPPING

    return target in CONFIG_MAPPING


def is_transformers(model: nn.Module) -> bool:
    """Whether a module is a transformers network; never imports transformers."""
    library = sys.modules.get("transformers")
    return library is not None and isinstance(model, library.PreTrainedModel)


def needs_weights(name: str) -> bool:
    """Whether ``hf/…`` is a model type, whose random weights have learned nothing."""
    _import(name)
    return is_model_type(name.removeprefix(PREFIX))


def with_vocabulary(
    name: str, arguments: Mapping[str, Any], vocabulary: Vocabulary | None
) -> dict[str, Any]:
    """Return the arguments of a network with what ``hf/`` networks must know of the data."""
    if vocabulary is None or not name.startswith(PREFIX):
        return dict(arguments)
    facts = {"vocab_size": vocabulary.size, "pad_token_id": vocabulary.pad_token_id}
    return {**facts, **arguments}


def check_vocabulary(model: nn.Module, vocabulary: Vocabulary | None) -> None:
    """Refuse a network with fewer embeddings than the data have tokens.

    Raises ModelError; passes where the network's embeddings cannot be told.
    """
    if vocabulary is None or not is_transformers(model):
        return
    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    rows = getattr(table, "num_embeddings", None)
    if isinstance(rows, int) and rows < vocabulary.size:
        raise ModelError(
            f"{type(model).__name__} knows {rows:,} tokens, the data's tokenizer has "
            f"{vocabulary.size:,}: it was made for another tokenizer"
        )


def configuration(name: str, fields: Mapping[str, Any]) -> Any:
    """Return the configuration of a model type with some fields set; refuses unknown fields."""
    from transformers import AutoConfig

    kind = name.removeprefix(PREFIX)
    with quiet(), _told(name, fields):
        default = AutoConfig.for_model(kind)
    choices = (set(default.to_dict()) | set(default.attribute_map)) - NOT_FIELDS
    for key in fields:
        if key not in choices:
            raise ModelError(
                unknown(f"argument of model {name!r}:", key, {*choices, "head", "attention"})
            )
    given = dict(fields)
    for key, value in default.to_dict().items():
        # Default ids of special tokens belong to the original tokenizer, not to a smaller one.
        beyond = isinstance(value, int) and value >= given.get("vocab_size", value + 1)
        if key.endswith("_token_id") and key not in given and beyond:
            given[key] = None
    with quiet(), _told(name, fields):
        return AutoConfig.for_model(kind, **given)


def _import(name: str) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"model {name!r} needs transformers, which is not installed: "
            "pip install 'limbeck[language]'"
        ) from error


@contextmanager
def _told(name: str, fields: Mapping[str, Any]) -> Iterator[None]:
    """Turn whatever transformers raises for some arguments into one line."""
    try:
        yield
    except Exception as error:
        given = f" with {dict(fields)!r}" if fields else ""
        raise ModelError(f"transformers cannot build {name!r}{given}: {line_of(error)}") from error


def _from_configuration(name: str, config: Any, head: str, attention: str | None) -> nn.Module:
    import transformers

    auto = getattr(transformers, HEADS[head])
    if type(config) not in auto._model_mapping:  # its own message lists them all
        raise ModelError(f"model {name!r}: transformers has no network of this type for {head}")
    with quiet(), _told(name, {} if attention is None else {"attention": attention}):
        model: nn.Module = auto.from_config(config, attn_implementation=attention)
    return model


def stored_configuration(name: str, given: Mapping[str, Any]) -> Any:
    """Read the configuration that comes with weights, and hold it against the data."""
    target = name.removeprefix(PREFIX)
    from transformers import CONFIG_MAPPING, AutoConfig

    try:
        config: Any = load_from(AutoConfig.from_pretrained, target, f"model {name!r}", ModelError)
    except ModelError as error:
        if "/" in target or "cannot be reached" not in str(error):
            raise
        types = [f"{PREFIX}{kind}" for kind in CONFIG_MAPPING]
        near = unknown("model", name, types).split(" (choices")[0].rstrip(":")
        raise ModelError(f"{near} (a model type, hf/<owner>/<name>, or hf/<folder>)") from error
    for key in given:
        if key not in _DATA:
            raise ModelError(f"model {name!r} has a configuration of its own: remove {key!r}")
    size, pad = given.get("vocab_size"), given.get("pad_token_id")
    own = getattr(config, "vocab_size", None)
    if size is not None and own is not None and own < size:
        raise ModelError(
            f"model {name!r} knows {own:,} tokens, the data's tokenizer has {size:,}: give "
            f"data.tokenizer={target!r}, or another model"
        )
    if pad is not None and config.pad_token_id not in (None, pad):
        raise ModelError(
            f"model {name!r} pads with token {config.pad_token_id}, the data's tokenizer with "
            f"{pad}: they were made for different tokenizers"
        )
    if pad is not None:
        config.pad_token_id = pad
    return config


def _set_classes(name: str, config: Any, num_classes: int | None) -> None:
    trained = any("ForSequenceClassification" in kind for kind in config.architectures or ())
    if trained and config.num_labels != num_classes:
        raise ModelError(
            f"model {name!r} was trained for {config.num_labels} classes, the data have "
            f"{num_classes}"
        )
    if config.num_labels != num_classes:
        config.num_labels = num_classes
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a classifier never generates


def _with_weights(name: str, config: Any, head: str, attention: str | None) -> nn.Module:
    import transformers

    auto = getattr(transformers, HEADS[head])

    def load(source: str, **options: Any) -> Any:
        return auto.from_pretrained(
            source,
            config=config,
            use_safetensors=True,  # nothing is ever unpickled
            attn_implementation=attention,
            output_loading_info=True,
            **options,
        )

    model, told = load_from(load, name.removeprefix(PREFIX), f"model {name!r}", ModelError)
    fresh = sorted(told["missing_keys"])
    inside = [key for key in fresh if key.startswith(f"{model.base_model_prefix}.")]
    lacking = [key for key in inside if ".pooler." not in key]
    if lacking:
        raise ModelError(f"model {name!r} has no weights for {lacking[0]!r} of this network")
    setattr(model, FRESH, tuple(fresh))
    network: nn.Module = model
    return network


def _check_positions(name: str, model: Any, input_shape: tuple[int, ...] | None) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if input_shape is None or not isinstance(limit, int):
        return
    # RoBERTa and its kin count positions from the padding token's number on.
    shifted = any(hasattr(part, "create_position_ids_from_input_ids") for part in model.modules())
    limit -= model.config.pad_token_id + 1 if shifted else 0
    if limit < input_shape[0]:
        raise ModelError(
            f"model {name!r} has {limit} positions, the data have texts of {input_shape[0]} "
            "tokens: set data.max_length lower, or max_position_embeddings higher"
        )
