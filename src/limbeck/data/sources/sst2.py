"""The Stanford Sentiment Treebank with two classes: whole sentences, or phrases to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from limbeck.data.bundle import Common, DataBundle
from limbeck.data.registry import register_data
from limbeck.data.sources.files import roots
from limbeck.data.sources.text import TRAIN, bundle_of_rows
from limbeck.data.sources.text_rows import Rows, read_rows
from limbeck.errors import DataError, RecipeError, unknown

SENTENCES, PHRASES = "sst2-sentences", "sst2-glue"
KINDS = ("sentences", "phrases")


@register_data("sst2")
def sst2(
    *,
    root: str | None = None,
    kind: str = "sentences",
    tokenizer: str = TRAIN,
    vocab_size: int = 8000,
    max_length: int = 64,
    **common: Unpack[Common],
) -> DataBundle:
    """SST-2 (Socher et al. 2013): is a sentence of a film review praise (1) or blame (0)?

    6,920 sentences or 67,349 phrases of them to train on; 872 sentences for validation and 1,821
    for test, either way. Needs transformers. Nothing is fetched.

    Args:
        root: folder, or the folder above it, with ``sst2-sentences`` (train, dev and test .tsv.gz:
            text and label) and, for phrases, ``sst2-glue`` (train.tsv.gz with a header); None:
            $LIMBECK_DATA, also its folder ``text``.
        kind: what to train on: "sentences" or "phrases".
        tokenizer, vocab_size, max_length: as of ``text``.
        **common: options of every data set.

    Raises:
        DataError: files that are not there.
        RecipeError: an unknown kind.
    """
    if kind not in KINDS:
        raise RecipeError("data.kind: " + unknown("kind", kind, KINDS))
    home = PHRASES if kind == "phrases" else SENTENCES
    files = {
        "train": (home, "train.tsv.gz"),
        "validation": (SENTENCES, "dev.tsv.gz"),
        "test": (SENTENCES, "test.tsv.gz"),
    }

    def read() -> dict[str, Rows]:
        return {
            part: read_rows(
                _find(folder, name, root),
                header=folder == PHRASES,
                separator=None,
                quoting=False,
            )
            for part, (folder, name) in files.items()
        }

    return bundle_of_rows(
        read,
        text=0,
        target=1,
        task="classification",
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        algorithm="wordpiece",
        lowercase=True,
        max_length=max_length,
        trim=True,
        test=0.2,
        common=common,
        name=f"sst2 ({kind})",
    )


def _find(folder: str, name: str, root: str | None) -> Path:
    """Return where a file lies; DataError names the places that were looked in."""
    places = [start / sub / folder for start in roots(root) for sub in ("", "text")]
    for place in places:
        if (place / name).is_file():
            return place / name
    looked = ", ".join(str(place) for place in places) or "no folder"
    raise DataError(
        f"{folder}/{name} not found (looked in {looked}): pass data.root=FOLDER, or "
        "set LIMBECK_DATA"
    )
