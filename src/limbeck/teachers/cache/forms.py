"""From a teacher's answers to stored tensors and back; pieces of a shard join by concatenation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from limbeck.errors import CacheError
from limbeck.taps.outputs import Outputs, SparseProbs
from limbeck.teachers.cache import sparse
from limbeck.teachers.cache.codec import Codec, FeatureForm

Block = dict[str, Tensor]
_HALF_MOST = torch.finfo(torch.float16).max


def encode(outputs: Outputs, codec: Codec, index: Tensor, view: int) -> Block:
    """Return the answers about one batch as tensors to be stored.

    Args:
        outputs: dense, on the CPU.
        codec: the form.
        index: int64 ``[rows]``: positions of the samples in their data set.
        view: which view of the samples.
    """
    logits = outputs.logits
    if codec.name == "topk":
        block = sparse.encode_topk(logits, codec)
    elif codec.name == "sampled":
        block = sparse.encode_sampled(logits, codec, index, view)
    else:
        block = {"logits": logits.contiguous() if codec.name == "float32" else half(logits)}
    for kind, tensors in (("feature", outputs.features), ("attention", outputs.attentions)):
        for name, value in tensors.items():
            block |= _encode_feature(f"{kind}:{name}", value, codec.features)
    return block


def join(blocks: Sequence[Block]) -> Block:
    """Return several blocks as one, rows after rows."""
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def decode(
    block: Block,
    rows: Tensor,
    codec: Codec,
    *,
    classes: int,
    piece: int,
    taps: Sequence[str] | None,
) -> Outputs:
    """Return the answers at ``rows`` of a block.

    Args:
        block: of :func:`encode`, or several joined; a sampled one has its ``starts``.
        rows: int64 ``[batch]``.
        codec: the form.
        classes: classes of the dense outputs.
        piece: rows that were encoded together; all pieces but the last have as many.
        taps: which features and attentions; None: all.
    """
    found: dict[str, dict[str, Tensor]] = {"feature": {}, "attention": {}}
    for stored in block:
        kind, _, name = stored.partition(":")
        if kind in found and (taps is None or name in taps):
            found[kind][name] = _decode_feature(block, stored, rows, piece)
    logits, kept = _decode_logits(block, rows, codec, classes)
    return Outputs(logits, found["feature"], found["attention"], sparse=kept)


def _decode_logits(
    block: Block, rows: Tensor, codec: Codec, classes: int
) -> tuple[Tensor, SparseProbs | None]:
    if not codec.is_sparse:
        logits = block["logits"].index_select(0, rows)
        return logits if codec.name == "float32" else logits.float(), None
    if codec.name == "topk":
        kept = sparse.decode_topk(block, rows, codec)
    else:
        kept = sparse.decode_sampled(block, rows, codec, classes)
    return torch.empty(*kept.ids.shape[:-1], 0), kept


def ready(block: Block, codec: Codec, classes: int) -> Block:
    """Return a block ready for :func:`decode`."""
    return sparse.with_starts(block, codec, classes) if codec.name == "sampled" else block


def half(values: Tensor) -> Tensor:
    """Return float16; what is beyond its range becomes its largest number, not infinity."""
    return values.clamp(-_HALF_MOST, _HALF_MOST).half()


def _encode_feature(name: str, value: Tensor, form: FeatureForm) -> Block:
    if form != "int8":
        return {name: value.contiguous() if form == "float32" else half(value)}
    if not bool(value.isfinite().all()):
        raise CacheError(
            f"codec.features: {name.partition(':')[2]} has numbers that are not finite, which int8 "
            "has no place for; use float32"
        )
    scale = value.float().abs().amax(dim=_shares_a_scale(value)).clamp(min=1e-30) / 127
    codes = (value.float() / _beside(scale[None], value)).round().to(torch.int8)
    return {name: codes, f"scale:{name}": scale[None]}


def _shares_a_scale(value: Tensor) -> list[int]:
    """Return over which dimensions of a feature numbers share a scale: all but the second.

    Of three dimensions, tokens ``[batch, places, channels]`` or ``[batch, channels, length]``,
    over samples alone, so that either may be the channels'.
    """
    return [0] if value.dim() == 3 else [dim for dim in range(value.dim()) if dim != 1]


def _beside(scale: Tensor, value: Tensor) -> Tensor:
    return scale.view(*scale.shape, *[1] * (value.dim() - scale.dim()))


def _decode_feature(block: Block, name: str, rows: Tensor, piece: int) -> Tensor:
    value = block[name].index_select(0, rows).float()
    scales = block.get(f"scale:{name}")
    if scales is None:
        return value
    scale = scales.index_select(0, rows // piece)
    return value * _beside(scale, value)


def row_bytes(block: Block, codec: Codec, rows: int, classes: int) -> int:
    """Return the most bytes that a sample can take, from the block of one batch of ``rows``."""
    total = 0.0
    for name, value in block.items():
        if name not in ("packed", "lengths"):
            total += value.numel() * value.element_size() / rows
        elif name == "lengths":
            total += value.numel() / rows * sparse.most_bytes(codec, classes)
    return max(1, int(total + 0.999))


def sizes_of(blocks: Mapping[str, Tensor]) -> int:
    """Return the bytes of all tensors."""
    return sum(value.numel() * value.element_size() for value in blocks.values())
