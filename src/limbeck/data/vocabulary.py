"""Vocabulary: the tokenizer that data, student and teacher share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import DataError
from limbeck.files import storage_errors

FOLDER = "tokenizer"
"""Where a student's folder keeps its tokenizer."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What networks, and whoever deploys one, must know of the tokenizer.

    Attributes:
        tokenizer: a transformers tokenizer.
        size: embeddings that a network needs: the largest token number + 1.
        pad_token_id: number of the token that fills up short texts.
    """

    tokenizer: Any
    size: int
    pad_token_id: int

    @cached_property
    def digest(self) -> str:
        """The sha256 over tokens, their numbers and the padding token."""
        tokens = sorted(self.tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
        return hashlib.sha256(f"{tokens}|{self.pad_token_id}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what a saved student says of the vocabulary it reads."""
        return {"size": self.size, "pad_token_id": self.pad_token_id, "sha256": self.digest}

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, for ``AutoTokenizer.from_pretrained(folder)``.

        Raises:
            StorageError: the folder cannot be written.
        """
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.tokenizer.save_pretrained(str(folder))

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> list[dict[str, list[int]]]:
        """Return token numbers of each text, cut to ``max_length`` and not padded.

        Args:
            texts: the texts.
            pairs: a second text for each, or None; then ``token_type_ids`` tell the two apart.
            max_length: most tokens of a text, or of both together.

        Raises:
            DataError: a text without any token.
        """
        rows: list[dict[str, list[int]]] = []
        for start in range(0, len(texts), 1000):
            part = slice(start, start + 1000)
            found = self.tokenizer(
                list(texts[part]),
                None if pairs is None else list(pairs[part]),
                truncation=True,
                max_length=max_length,
                return_token_type_ids=pairs is not None,
            )
            names = ["input_ids", "attention_mask", *(["token_type_ids"] if pairs else [])]
            for row in zip(*(found[name] for name in names), strict=True):
                if not row[0]:
                    raise DataError(f"sample {len(rows)}: the text has no tokens")
                rows.append(dict(zip(names, row, strict=True)))
        return rows

    def padded(self, rows: Iterable[Mapping[str, list[int]]], length: int) -> dict[str, Tensor]:
        """Return int64 tensors ``[samples, length]``, filled up on the right."""
        rows = list(rows)
        fill = {"input_ids": self.pad_token_id}
        table = {}
        for name in rows[0]:
            values = torch.full((len(rows), length), fill.get(name, 0), dtype=torch.int64)
            for number, row in enumerate(rows):
                values[number, : len(row[name])] = torch.tensor(row[name])
            table[name] = values
        return table


def vocabulary_of(tokenizer: Any, what: str) -> Vocabulary:
    """Return the vocabulary of a transformers tokenizer; one without padding pads with its end.

    Raises:
        DataError: it has neither a padding nor an end-of-text token.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise DataError(f"tokenizer {what!r} has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    size = max(tokenizer.get_vocab().values()) + 1
    return Vocabulary(tokenizer, size, int(tokenizer.pad_token_id))


def load_vocabulary(source: str) -> Vocabulary:
    """Read the tokenizer of a folder or hub id.

    Raises:
        DataError: it cannot be found, or is none.
    """
    require_transformers()
    from transformers import AutoTokenizer

    from limbeck.models.hub import load_from

    what = f"tokenizer {source!r}"
    return vocabulary_of(load_from(AutoTokenizer.from_pretrained, source, what, DataError), source)


def require_transformers() -> None:
    """Raise DataError with the line to type where transformers is not installed."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise DataError(
            "reading texts needs transformers: pip install 'limbeck[language]'"
        ) from error
