"""Data sets that come by name; importing this registers them (no heavy import)."""

from limbeck.data.sources import (
    blocks,
    cifar,
    cifar_jpeg,
    digits,
    fsdd,
    hf,
    hierarchy,
    idx,
    images,
    patched,
    shards,
    sst2,
    table,
    text,
)

__all__ = [
    "blocks",
    "cifar",
    "cifar_jpeg",
    "digits",
    "fsdd",
    "hf",
    "hierarchy",
    "idx",
    "images",
    "patched",
    "shards",
    "sst2",
    "table",
    "text",
]
