"""Training a tokenizer on texts: the same texts give the same tokenizer, in every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.data.vocabulary import Vocabulary, require_transformers, vocabulary_of
from limbeck.errors import DataError, RecipeError, unknown

ALGORITHMS = ("wordpiece", "bpe")
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def train_vocabulary(
    texts: Sequence[str],
    size: int,
    *,
    algorithm: str = "wordpiece",
    lowercase: bool = True,
    max_length: int = 128,
) -> Vocabulary:
    """Train a tokenizer with the ``tokenizers`` library.

    Both kinds put [CLS] before a text and [SEP] behind it; [PAD] is token 0.

    Args:
        texts: what to learn from.
        size: most tokens of the vocabulary.
        algorithm: "wordpiece" (BERT's: words and punctuation, unknown letters become [UNK]) or
            "bpe" (GPT-2's: bytes, nothing is unknown).
        lowercase: whether case and accents are dropped (wordpiece), or case (bpe).
        max_length: what the tokenizer says its model's length is.

    Raises:
        RecipeError: an unknown algorithm, or a size too small for the letters alone.
        DataError: nothing to learn from.
    """
    if algorithm not in ALGORITHMS:
        raise RecipeError(unknown("algorithm", algorithm, ALGORITHMS))
    require_transformers()
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast

    make = _wordpiece if algorithm == "wordpiece" else _bpe
    tokenizer = make(texts, size, lowercase)
    cls, sep = (tokenizer.token_to_id(SPECIAL[name]) for name in ("cls", "sep"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    wrapped = wrap(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        **{f"{name}_token": token for name, token in SPECIAL.items()},
    )
    return vocabulary_of(wrapped, "train")


def _wordpiece(texts: Sequence[str], size: int, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def fresh(model: Any) -> Any:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    unknown_token = SPECIAL["unk"]
    scratch = fresh(models.WordPiece(unk_token=unknown_token))
    letters = _letters(scratch, texts)
    _check_size(size, len(SPECIAL) + len(letters))
    # The library numbers inner letters ("##a") in an order that changes from process to process,
    # and breaks ties between merges by number: left alone, each run would get another vocabulary.
    # Letters that are announced as special tokens are numbered in our order.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL.values(), *letters], show_progress=False
    )
    scratch.train_from_iterator(texts, trainer)
    tokenizer = fresh(models.WordPiece(scratch.get_vocab(), unk_token=unknown_token))
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _letters(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return all letters as WordPiece writes them: first ones as they are, inner ones with ##."""
    found: set[str] = set()
    for text in texts:
        plain = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain):
            found.add(word[0])
            found.update(f"##{letter}" for letter in word[1:])
    if not found:
        raise DataError("no training text has a word: there is nothing to train a tokenizer on")
    return sorted(found)


def _bpe(texts: Sequence[str], size: int, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size(size, len(SPECIAL) + len(alphabet))
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _check_size(size: int, least: int) -> None:
    if isinstance(size, bool) or size < least:
        raise RecipeError(
            f"vocab_size: expected at least {least} (special tokens and single letters), got {size}"
        )
