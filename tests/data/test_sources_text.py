"""Texts: reading, labels, tokens, splits, and refusals by line."""

import gzip
import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.data import IGNORE, load_data
from limbeck.data.loader import batches, eval_batches
from limbeck.errors import DataError, RecipeError

GOOD = ["a warm and funny film", "what a lovely little story", "great fun, from start to end"]
BAD = ["a dull and empty film", "what a waste of an evening", "no fun at all; it never ends"]


def sentences(count=40):
    return [
        ((GOOD, BAD)[k % 2][k % 3] + f" number {k}", ("good", "bad")[k % 2]) for k in range(count)
    ]


def write(folder: Path, name: str, lines) -> str:
    opened = gzip.open if name.endswith(".gz") else open
    with opened(folder / name, "wt", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
    return str(folder / name)


def texts_csv(folder: Path) -> str:
    lines = [f'"{text}",{label}' for text, label in sentences()]
    return write(folder, "texts.csv", ["text,label", *lines])


def load(path: str, **more):
    return load_data("text", **{"path": path, "vocab_size": 120, **more})


def decoded(bundle, part="train"):
    view = bundle.splits[part]
    ids = view.fetch(torch.arange(len(view))).inputs["input_ids"]
    return bundle.vocabulary.tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_texts_become_padded_numbers_with_a_mask(tmp_path: Path):
    bundle = load(texts_csv(tmp_path))
    assert (bundle.task, bundle.class_names) == ("classification", ("bad", "good"))
    assert {part: len(view) for part, view in bundle.splits.items()} == {
        "train": 29,
        "validation": 3,
        "test": 8,
    }
    batch = bundle.splits["train"].fetch(torch.arange(29))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert ids.dtype == mask.dtype == torch.int64
    assert bundle.input_shape[0] <= ids.shape[1]
    tokenizer, position = bundle.vocabulary.tokenizer, int(bundle.record.train[4])
    text, label = sentences()[position]
    own = tokenizer(text)["input_ids"]
    assert ids[4].tolist() == own + [0] * (ids.shape[1] - len(own))
    assert mask[4].sum() == len(own)
    assert bundle.class_names[batch.targets[4]] == label
    assert tokenizer.convert_ids_to_tokens(own)[0] == "[CLS]"
    assert bundle.vocabulary.pad_token_id == 0
    assert bundle.vocabulary.size == len(tokenizer) <= 120


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.jsonl", "t.txt", "t.parquet"])
def test_every_form_reads_the_same(name, tmp_path: Path):
    rows = sentences()
    forms = {
        "csv": ["text,label", *(f'"{text}",{label}' for text, label in rows)],
        "tsv": ["text\tlabel", *(f"{text}\t{label}" for text, label in rows)],
        "jsonl": [json.dumps({"text": text, "label": label}) for text, label in rows],
        "txt": [f"{label} {text}" for text, label in rows],
    }
    kind = name.removesuffix(".gz").split(".")[-1]
    if kind == "parquet":
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        pandas.DataFrame(rows, columns=["text", "label"]).to_parquet(tmp_path / name)
        path = str(tmp_path / name)
    else:
        path = write(tmp_path, name, forms[kind])
    bundle, reference = load(path), load(texts_csv(tmp_path))
    assert bundle.fingerprint() == reference.fingerprint()
    assert bundle.vocabulary.digest == reference.vocabulary.digest


def test_words_that_a_table_would_call_missing_are_texts(tmp_path: Path):
    rows = [("null", "NA"), ("NA", "none"), ("None of it", "NA"), ("nan", "none")] * 5
    path = write(tmp_path, "t.tsv", [f"{text}\t{label}" for text, label in rows])
    bundle = load(path, header=False, text=0, target=1)
    assert bundle.class_names == ("NA", "none")
    assert set(decoded(bundle)) <= {"null", "na", "none of it", "nan"}


def test_numbers_are_classes_in_order_and_holes_are_unlabelled(tmp_path: Path):
    rows = [(f"text {k}", ("10", "9", "2")[k % 3]) for k in range(30)]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    lines += [json.dumps({"text": f"open {k}", "label": None}) for k in range(5)]
    lines += [json.dumps({"text": f"open {k}"}) for k in range(5, 7)]
    bundle = load(write(tmp_path, "t.jsonl", lines))
    assert bundle.class_names == ("2", "9", "10")
    assert int((bundle.splits["train"].targets == IGNORE).sum()) == 7
    fewer = load(write(tmp_path, "t.jsonl", lines), labels_per_class=2)
    assert int(fewer.splits["train"].labelled.sum()) == 6
    assert fewer.vocabulary.digest == bundle.vocabulary.digest  # texts count, labels do not


def test_signs_are_words(tmp_path: Path):
    lines = ["text,label", *(f"text {k},{('-', '--5', '+')[k % 3]}" for k in range(30))]
    assert load(write(tmp_path, "t.csv", lines)).class_names == ("+", "-", "--5")


def test_pairs_have_segments(tmp_path: Path):
    lines = ["premise\tclaim\tlabel"]
    lines += [f"it rains {k}\tit is wet\t{('yes', 'no')[k % 2]}" for k in range(20)]
    path = write(tmp_path, "t.tsv", lines)
    bundle = load(path, text=["premise", "claim"], target="label")
    inputs = bundle.splits["test"].fetch(torch.arange(1)).inputs
    ids, segments = inputs["input_ids"][0], inputs["token_type_ids"][0]
    border = int((ids == bundle.vocabulary.tokenizer.sep_token_id).nonzero()[0])
    length = int(inputs["attention_mask"][0].sum())
    assert segments.tolist() == [int(border < place < length) for place in range(len(ids))]


def test_regression_and_separate_files(tmp_path: Path):
    path = write(tmp_path, "t.csv", ["text,label", *(f"text {k},{k / 4}" for k in range(20))])
    later = write(tmp_path, "later.csv", ["text,label", "an unseen one,1.5", "another,"])
    bundle = load(path, task="regression", test_path=later, validation_path=path)
    assert bundle.splits["test"].targets[0].tolist() == [1.5]
    assert bundle.splits["test"].targets[1].isnan().all()
    assert len(bundle.splits["train"]) == len(bundle.splits["validation"]) == 20
    assert "cut from" not in bundle.describe()


def test_the_vocabulary_is_trained_on_the_train_part_alone(tmp_path: Path):
    path = texts_csv(tmp_path)
    later = write(tmp_path, "later.csv", ["text,label", "żółw 龟,good"])
    bundle = load(path, test_path=later)
    assert "龟" not in bundle.vocabulary.tokenizer.get_vocab()
    unknown = bundle.vocabulary.tokenizer.unk_token_id
    assert unknown in bundle.splits["test"].fetch(torch.arange(1)).inputs["input_ids"]


def test_long_texts_are_cut_and_said(tmp_path: Path):
    bundle = load(texts_csv(tmp_path), max_length=6)
    assert bundle.splits["train"].fetch(torch.arange(3)).inputs["input_ids"].shape == (3, 6)
    assert "40 of 40 texts reach max_length 6" in bundle.describe()


def test_a_tokenizer_of_a_folder_reads_the_same(tmp_path: Path):
    trained = load(texts_csv(tmp_path))
    trained.vocabulary.save(tmp_path / "tokenizer")
    read = load(texts_csv(tmp_path), tokenizer=str(tmp_path / "tokenizer"), vocab_size=8000)
    assert read.fingerprint() == trained.fingerprint()
    assert read.vocabulary.digest == trained.vocabulary.digest
    assert read.vocabulary.describe() == trained.vocabulary.describe()


def test_batches_are_as_long_as_their_longest_text(tmp_path: Path):
    rows = [(f"short {k}", "no") for k in range(16)] + [("word " * 30, "yes") for _ in range(16)]
    path = write(tmp_path, "t.csv", ["text,label", *(f"{text},{label}" for text, label in rows)])
    bundle, whole = load(path), load(path, trim=False)
    assert bundle.fingerprint() == whole.fingerprint()

    def widths(data):
        found = eval_batches(data.splits["train"], 4, data.augment_eval)
        return {batch.inputs["input_ids"].shape[1] for batch in found}

    assert widths(whole) == {32}
    assert widths(bundle) == {8, 32}
    step = next(
        batches(bundle.splits["train"], batch_size=4, seed=0, epoch=0, augment=bundle.augment_train)
    )[0]
    ids, mask = step.inputs["input_ids"], step.inputs["attention_mask"]
    raw = bundle.splits["train"].at(step.index).inputs
    assert torch.equal(raw["input_ids"][:, : ids.shape[1]], ids)
    assert (raw["attention_mask"][:, ids.shape[1] :] == 0).all()
    assert mask.shape == ids.shape


@pytest.mark.parametrize(
    ("name", "lines", "options", "message"),
    [
        ("t.csv", ["text,label", "a,b,c"], {}, "line 2: 3 values, expected 2 .*quoting=false"),
        ("t.csv", ["text,label", '"a,b'], {}, "line 2: unexpected end of data .*quoting=false"),
        ("t.tsv", ["text\tlabel", '"a\tb\tc'], {"quoting": False}, "line 2: 3 values, expected 2$"),
        ("t.csv", ["text,label"], {}, "is empty"),
        ("t.csv", ["words,label", "a,b"], {}, "unknown column 'text'.*label, words"),
        ("t.csv", ["text,label", "a,b"], {"text": 2}, "column 2: .* has 2 columns"),
        ("t.jsonl", ["{]"], {}, "line 1: not JSON"),
        ("t.jsonl", ["[1]"], {}, "line 1: expected an object"),
        ("t.jsonl", ['{"text": 3, "label": "a"}'] * 20, {}, "row 0, column 'text': 3, not a text"),
        ("t.txt", ["alone"], {}, "line 1: expected a label and a text, got 'alone'"),
        ("t.csv", ["text,label", *[" ,a"] * 20], {}, "row 0, column 'text': no text"),
        (
            "t.csv",
            ["text,label", *["a,1.5x"] * 9],
            {"task": "regression"},
            "'1.5x' is not a number",
        ),
        ("t.jsonl", ['{"text": "a", "label": 1.5}'], {}, "1.5 is not a class .task='regression'"),
        ("t.doc", ["a"], {}, "unknown ending '.doc'"),
        (
            "t.csv",
            ["text,label", *["a,b"] * 20],
            {"tokenizer": "./no"},
            "there is no folder './no'",
        ),
    ],
)
def test_refusals_of_files(name, lines, options, message, tmp_path: Path):
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path, name, lines), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "clasification"}, "did you mean 'classification'"),
        ({"text": ["text", "label", "text"]}, "expected one column, or two for pairs, got 3"),
        ({"max_length": 1}, "max_length: expected a whole number of at least 2, got 1"),
        ({"vocab_size": 9}, r"vocab_size: expected at least \d+ .*, got 9"),
        ({"algorithm": "bpe", "vocab_size": 99}, "vocab_size: expected at least 261"),
        ({"algorithm": "unigram"}, "unknown algorithm 'unigram'"),
        ({"augment": ["flip"]}, "texts have no pixels"),
    ],
)
def test_refusals_of_options(options, message, tmp_path: Path):
    with pytest.raises(RecipeError, match=message):
        load(texts_csv(tmp_path), **options)


def test_refusals_of_other_kinds(tmp_path: Path):
    with pytest.raises(DataError, match=r"no file .*nothing\.csv"):
        load(str(tmp_path / "nothing.csv"))
    (tmp_path / "latin.csv").write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        load(str(tmp_path / "latin.csv"))
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"text,label\na,b\n")[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        load(str(tmp_path / "broken.csv.gz"))
    later = write(tmp_path, "later.csv", ["text,label", "new,other"])
    with pytest.raises(
        DataError, match=r"later\.csv, row 0: class 'other' does not occur in train"
    ):
        load(texts_csv(tmp_path), test_path=later)


def test_questions_with_labels_in_front(shared_data: Path):
    folder = shared_data / "text" / "trec"
    if not folder.is_dir():
        pytest.skip("no TREC questions under text/trec")
    bundle = load_data(
        "text",
        path=str(folder / "train.txt.gz"),
        test_path=str(folder / "test.txt.gz"),
        vocab_size=2000,
    )
    assert bundle.num_outputs == 6
    assert {part: len(view) for part, view in bundle.splits.items()} == {
        "train": 4907,
        "validation": 545,
        "test": 500,
    }
    assert bundle.vocabulary.size == 2000


def test_quotation_marks_that_are_part_of_a_text(shared_data: Path):
    folder = shared_data / "text" / "cad-nli"
    if not folder.is_dir():
        pytest.skip("no sentence pairs under text/cad-nli")
    bundle = load_data(
        "text",
        path=str(folder / "original_train.tsv.gz"),
        test_path=str(folder / "original_test.tsv.gz"),
        text=["sentence1", "sentence2"],
        target="gold_label",
        quoting=False,
        vocab_size=2000,
    )
    assert bundle.class_names == ("contradiction", "entailment", "neutral")
    assert len(bundle.splits["test"]) == 400


def test_missing_transformers_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        DataError, match=r"reading texts needs transformers: pip install 'limbeck\["
    ):
        load(texts_csv(tmp_path))


def test_a_text_without_tokens_is_named(tmp_path: Path):
    bundle = load(texts_csv(tmp_path))
    bundle.vocabulary.tokenizer.backend_tokenizer.post_processor = None
    bundle.vocabulary.save(tmp_path / "bare")
    rows = ["text,label", *(f"text {k},a" for k in range(9)), "\u200b,b"]
    path = write(tmp_path, "t.csv", rows)
    with pytest.raises(DataError, match="train, sample 9: the text has no tokens"):
        load(path, tokenizer=str(tmp_path / "bare"))


def test_a_damaged_parquet_file(tmp_path: Path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read as Parquet") as caught:
        load(str(tmp_path / "t.parquet"))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_not_on_the_hub(tmp_path: Path, monkeypatch):
    import huggingface_hub

    class Session:
        def head(self, address, **options):
            assert address.endswith("/some-one/some-name/resolve/main/config.json")
            return type("Answer", (), {"status_code": 404})()

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    with pytest.raises(DataError, match=r"'some-one/some-name': is neither .* \(answer 404\)"):
        load(texts_csv(tmp_path), tokenizer="some-one/some-name")
