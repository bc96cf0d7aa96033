"""Sparse forms of a distribution: the largest classes with the rest's mass, or a random sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.data.seeds import counter_bits
from limbeck.taps.outputs import SparseProbs
from limbeck.teachers.cache.bits import Array, bits_for, bytes_of, pack, unpack
from limbeck.teachers.cache.codec import Codec

Block = dict[str, Tensor]
_DRAWS = 0x52534B44  # the stream of the random draws
_AT_ONCE = 1 << 22  # numbers in float64 at a time: 32 MiB


def encode_topk(logits: Tensor, codec: Codec) -> Block:
    """Keep the k largest probabilities of ``[rows, ..., classes]``, and the mass of the others.

    The mass is summed over the others, not 1 minus the rest, and kept in float32.
    """
    classes = logits.shape[-1]
    k = min(codec.k, classes)
    kind = torch.uint8 if classes <= 256 else torch.int16 if classes <= 32768 else torch.int32
    ids, values, tails = [], [], []
    for part in _parts(logits):
        log_p = (part.double() / codec.temperature).log_softmax(dim=-1)
        top = log_p.topk(k, dim=-1)
        rest = log_p.scatter(-1, top.indices, -torch.inf).logsumexp(dim=-1)
        ids.append(top.indices.to(kind))
        values.append(top.values.half())
        tails.append(rest.float())
    shape = logits.shape[:-1]
    return {
        "ids": torch.cat(ids).view(*shape, k),
        "values": torch.cat(values).view(*shape, k),
        "tail": torch.cat(tails).view(shape),
    }


def decode_topk(block: Block, rows: Tensor, codec: Codec) -> SparseProbs:
    """Return the rows; the kept classes are scaled so that with the exact tail they sum to 1."""
    values = block["values"].index_select(0, rows).float()
    tail = block["tail"].index_select(0, rows)
    kept = (-tail.expm1()).log()  # rounding to float16 has moved the sum of the kept a little
    log_probs = values - values.logsumexp(dim=-1, keepdim=True) + kept[..., None]
    return SparseProbs(
        block["ids"].index_select(0, rows).long(), log_probs, tail, codec.temperature
    )


def encode_sampled(logits: Tensor, codec: Codec, index: Tensor, view: int) -> Block:
    """Draw from the distributions of ``[rows, ..., classes]``; the same for the same sample.

    Args:
        logits: one row a sample, or one a position of each sample.
        codec: how many draws, at which temperature, from which seed.
        index: int64 ``[rows]``: positions of the samples in their data set.
        view: which view of the samples.
    """
    classes, rounds = logits.shape[-1], codec.rounds
    positions = logits[0, ..., 0].numel()
    streams = [_DRAWS + number for number in range(positions * rounds)]
    bits = counter_bits(codec.seed, view, index, streams)  # [positions * rounds, rows]
    uniform = ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53
    uniform = uniform.T.reshape(-1, rounds)
    drawn = []
    for part, where in zip(_parts(logits), torch.split(uniform, _chunk(classes)), strict=True):
        mass = (part.double() / codec.temperature).softmax(dim=-1).cumsum(dim=-1)
        found = torch.searchsorted(mass, (where * mass[:, -1:]).contiguous(), right=True)
        drawn.append(found.clamp_(max=classes - 1))
    codes, lengths = _counted(torch.cat(drawn), classes)
    packed = pack(codes, lengths, _width(classes, rounds))
    kind = np.uint8 if rounds <= 255 else np.int32
    return {
        "packed": torch.from_numpy(packed),
        "lengths": torch.from_numpy(lengths.astype(kind)).view(logits.shape[:-1]),
    }


def decode_sampled(block: Block, rows: Tensor, codec: Codec, classes: int) -> SparseProbs:
    """Return the rows as counts / rounds."""
    lengths, width = block["lengths"], _width(classes, codec.rounds)
    shape = lengths.shape[1:]
    each = int(np.prod(shape, dtype=np.int64))
    places = (rows[:, None] * each + torch.arange(each)).flatten()
    sizes = lengths.flatten().index_select(0, places).numpy()
    starts = block["starts"].index_select(0, places).numpy()
    codes = torch.from_numpy(unpack(block["packed"].numpy(), starts, sizes, width))
    used = torch.arange(codes.shape[1]) < torch.from_numpy(sizes.astype(np.int64))[:, None]
    mask = (1 << bits_for(classes)) - 1
    counts = (codes >> bits_for(classes)) + 1
    probs = torch.where(used, counts.float() / codec.rounds, 0.0)
    full = (len(rows), *shape, codes.shape[1])
    return SparseProbs((codes & mask).view(full), probs.log().view(full), None, codec.temperature)


def with_starts(block: Block, codec: Codec, classes: int) -> Block:
    """Add where each row of a sampled block begins."""
    lengths = block["lengths"].flatten().numpy()
    sizes = bytes_of(lengths, _width(classes, codec.rounds))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
    return {**block, "starts": torch.from_numpy(starts.astype(np.int64))}


def most_bytes(codec: Codec, classes: int) -> int:
    """Return the most bytes that one sampled distribution can take."""
    distinct = min(codec.rounds, classes)
    sizes = bytes_of(np.array([distinct]), _width(classes, codec.rounds))
    return int(sizes[0]) + (1 if codec.rounds <= 255 else 4)


def _counted(drawn: Tensor, classes: int) -> tuple[Array, Array]:
    """Turn draws ``[rows, rounds]`` into codes (class and count - 1) and how many a row has."""
    ordered = drawn.sort(dim=1).values.numpy()
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    lengths = first.sum(axis=1)
    place = first.cumsum(axis=1) - 1  # of each draw among the distinct ones of its row
    row = np.arange(len(ordered))[:, None]
    ids = np.zeros((len(ordered), int(lengths.max(initial=1))), np.int64)
    counts = np.zeros_like(ids)
    ids[np.broadcast_to(row, place.shape), place] = ordered
    np.add.at(counts, (np.broadcast_to(row, place.shape), place), 1)
    return ids | (np.maximum(counts, 1) - 1) << bits_for(classes), lengths


def _width(classes: int, rounds: int) -> int:
    return max(1, bits_for(classes) + bits_for(rounds))


def _chunk(classes: int) -> int:
    return max(1, _AT_ONCE // classes)


def _parts(logits: Tensor) -> tuple[Tensor, ...]:
    """Cut ``[rows, ..., classes]`` into pieces ``[some, classes]`` that fit in memory widened."""
    flat = logits.reshape(-1, logits.shape[-1])
    return torch.split(flat, _chunk(logits.shape[-1]))
