"""A trained tokenizer is a function of its texts: the same in every process."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.data.augment import Augment
from limbeck.data.tokenizer import train_vocabulary
from limbeck.data.tokens import token_mask, trim
from limbeck.data.vocabulary import vocabulary_of
from limbeck.errors import DataError, ShapeError

TEXTS = [f"{a} {b}-{c}ing of the {d}" for a in ("quick", "slow", "Émile's") for b in ("re", "over")
         for c in ("jump", "paint", "think") for d in ("dogs", "houses", "thinkers")]  # fmt: skip

SCRIPT = f"""
from limbeck.data.tokenizer import train_vocabulary
texts = {TEXTS!r}
for algorithm in ("wordpiece", "bpe"):
    print(train_vocabulary(texts, 300, algorithm=algorithm).digest)
"""


def test_every_process_trains_the_same_tokenizer():
    """The library's own WordPiece training does not: hash order numbers its inner letters."""
    said = set()
    for number in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": number, "RAYON_NUM_THREADS": number}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=True,
        )
        said.add(done.stdout)
    here = [train_vocabulary(TEXTS, 300, algorithm=name).digest for name in ("wordpiece", "bpe")]
    assert said == {"".join(f"{digest}\n" for digest in here)}


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe"])
def test_words_come_back(algorithm):
    vocabulary = train_vocabulary(TEXTS, 320, algorithm=algorithm)
    tokenizer = vocabulary.tokenizer
    row = vocabulary.encode(["Slow painting of the dogs"], None, 40)[0]["input_ids"]
    assert tokenizer.convert_ids_to_tokens(row)[0] == "[CLS]"
    assert tokenizer.convert_ids_to_tokens(row)[-1] == "[SEP]"
    assert tokenizer.unk_token_id not in row
    assert tokenizer.decode(row, skip_special_tokens=True).strip() == "slow painting of the dogs"
    cased = train_vocabulary(TEXTS, 320, algorithm=algorithm, lowercase=False).tokenizer
    tokens = "".join(cased.convert_ids_to_tokens(cased("Émile")["input_ids"]))
    assert ("É" in tokens) is (algorithm == "wordpiece")
    assert "Ã" in tokens or algorithm == "wordpiece"  # the first byte of É, as BPE writes it


def test_letters_are_not_special():
    """They were announced as special tokens in training only: texts must not be cut at each."""
    vocabulary = train_vocabulary(TEXTS, 320)
    assert len(vocabulary.tokenizer.all_special_ids) == 5
    assert vocabulary.encode(["painting"], None, 40)[0]["input_ids"][1:-1] != []
    assert len(vocabulary.encode(["painting"], None, 40)[0]["input_ids"]) < 8


def test_nothing_to_learn_from():
    with pytest.raises(DataError, match="no training text has a word"):
        train_vocabulary(["", "  "], 100)


def test_a_tokenizer_without_padding_pads_with_its_end():
    class Fake:
        def __init__(self, eos):
            self.pad_token = self.pad_token_id = None
            self.eos_token = eos

        def __setattr__(self, name, value):
            object.__setattr__(self, name, value)
            if name == "pad_token" and value is not None:
                object.__setattr__(self, "pad_token_id", 7)

        def get_vocab(self):
            return {"a": 0, "<end>": 7}

    vocabulary = vocabulary_of(Fake("<end>"), "some")
    assert (vocabulary.pad_token_id, vocabulary.size) == (7, 8)
    with pytest.raises(DataError, match="neither a padding nor an end-of-text token"):
        vocabulary_of(Fake(None), "some")


def test_trimming_leaves_out_columns_of_padding():
    mask = torch.zeros(3, 20, dtype=torch.int64)
    mask[0, :5], mask[1, :9], mask[2, :1] = 1, 1, 1
    inputs = {"input_ids": mask * 4, "attention_mask": mask, "length": torch.tensor([5, 9, 1])}
    found = Augment(["trim"])(inputs, torch.arange(3))
    assert found["input_ids"].shape == (3, 16)
    assert torch.equal(found["attention_mask"], mask[:, :16])
    assert found["length"] is inputs["length"]
    assert Augment(["trim"]).spec == ["trim"]
    assert not Augment(["trim"]).is_random
    left = {"input_ids": mask.flip(1), "attention_mask": mask.flip(1)}
    assert trim(left)["input_ids"].shape == (3, 20)
    assert trim({"input_ids": mask})["input_ids"].shape == (3, 20)
    full = torch.ones(2, 13, dtype=torch.int64)
    assert trim({"attention_mask": full})["attention_mask"].shape == (2, 13)
    with pytest.raises(ShapeError, match="expected uint8 or float inputs"):
        Augment(["trim", "flip"])(inputs, torch.arange(3))


def test_which_tokens_are_real():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    features = torch.zeros(2, 3, 4)
    found = token_mask({"input_ids": mask, "attention_mask": mask}, features)
    assert found.tolist() == [[True, True, False], [True, False, False]]
    assert token_mask({"attention_mask": mask}, torch.zeros(2, 3)) is None
    assert token_mask({"attention_mask": mask}, torch.zeros(2, 4, 4)) is None
    assert token_mask({"input_ids": mask}, features) is None
    assert token_mask(features, features) is None
