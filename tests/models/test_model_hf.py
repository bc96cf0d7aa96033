"""transformers networks: from a configuration, with weights, saved, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from limbeck.errors import ModelError  # noqa: E402
from limbeck.models import build_model, load_model, model_spec, save_model  # noqa: E402
from limbeck.models.calling import call_model  # noqa: E402
from limbeck.models.hf import FRESH  # noqa: E402

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 60, "pad_token_id": 0}
IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 3, 0, 0]])
TEXTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


def bert(**more):
    return build_model("hf/bert", num_classes=3, input_shape=(5,), **{**BERT, **more})


def logits(model):
    with torch.no_grad():
        return call_model(model.eval(), TEXTS).logits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier of three classes as transformers itself saves it."""
    bert().save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bert", {k: v for k, v in BERT.items() if "_token" not in k}),
        ("distilbert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}),
        ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}),
        ("gpt2", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}),
        (
            "llama",
            {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "intermediate_size": 32,
            },
        ),
    ],
)
def test_a_model_type_is_built_from_fields_of_its_configuration(name, fields):
    given = {"vocab_size": 60, "pad_token_id": 0, **fields}
    model = build_model(f"hf/{name}", num_classes=3, input_shape=(5,), **given)
    for key, value in given.items():
        assert getattr(model.config, key) == value
    said = logits(model)
    assert said.shape == (2, 3)
    alone = {key: value[1:, :3] for key, value in TEXTS.items()}
    with torch.no_grad():  # padding changes nothing
        torch.testing.assert_close(call_model(model, alone).logits, said[1:])


def test_weights_are_drawn_from_the_seed():
    torch.manual_seed(4)
    one = logits(bert())
    torch.manual_seed(4)
    assert torch.equal(logits(bert()), one)
    assert not torch.equal(logits(bert()), one)


def test_nothing_is_printed(capfd, folder):
    capfd.readouterr()  # what saving the fixture printed
    build_model("hf/gpt2", num_classes=2, input_shape=(5,), **GPT2)
    build_model(f"hf/{folder}", num_classes=3, input_shape=(5,))
    assert "".join(capfd.readouterr()) == ""


def test_default_token_numbers_beyond_the_vocabulary_are_left_out():
    model = build_model("hf/gpt2", num_classes=2, input_shape=(5,), **GPT2)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (None, None)
    kept = build_model("hf/gpt2", num_classes=2, input_shape=(5,), **GPT2, eos_token_id=5)
    assert kept.config.eos_token_id == 5


def test_a_causal_language_model_speaks_for_every_token():
    model = build_model("hf/gpt2", head="causal", **GPT2)
    assert logits(model).shape == (2, 5, 60)
    assert build_model("hf/gpt2", head="causal", num_classes=60, **GPT2)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("hf/bert", {"hiden_size": 8}, "'hiden_size': did you mean 'hidden_size'"),
        ("hf/bert", {"hidden_size": "big"}, "cannot build 'hf/bert' with .*expected int, got str"),
        ("hf/bert", {"hidden_size": 15}, "15.* is not a multiple of the number of attention heads"),
        ("hf/bert", {"hidden_act": "no"}, "KeyError 'no'"),
        ("hf/bert", {"head": "classifier"}, "unknown head 'classifier': did you mean 'classif"),
        ("hf/bert", {"attention": "flesh"}, "cannot build 'hf/bert' with .*flesh"),
        ("hf/bert", {"num_classes": None}, "needs num_classes"),
        ("hf/bert", {"max_position_embeddings": 4}, "has 4 positions, .* texts of 5 tokens"),
        ("hf/roberta", {"max_position_embeddings": 5, "pad_token_id": 1}, "has 3 positions"),
        ("hf/vit", {}, "no network of this type for classification"),
        ("hf/bert", {"head": "causal"}, "60 logits for each token, the data have 3 classes"),
        ("hf/./no/such/folder", {}, "there is no folder './no/such/folder'"),
    ],
)
def test_refusals(name, given, message):
    fields = BERT if name in ("hf/bert", "hf/roberta") else {}
    with pytest.raises(ModelError, match=message) as caught:
        build_model(name, **{"num_classes": 3, "input_shape": (5,), **fields, **given})
    assert "\n" not in str(caught.value)


def test_missing_transformers_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs transformers, .*: pip install 'limbeck\[lang"):
        bert()


def test_a_folder_brings_its_weights(folder):
    model = build_model(f"hf/{folder}", num_classes=3, input_shape=(5,), vocab_size=60)
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(logits(model), logits(reference))
    assert getattr(model, FRESH) == ()


def test_what_does_not_come_with_weights_is_known(folder):
    transformers.AutoModel.from_pretrained(folder).save_pretrained(folder)
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace("BertForSequenceClassification", "BertModel")
    )
    model = build_model(f"hf/{folder}", num_classes=5, input_shape=(5,))
    assert getattr(model, FRESH) == ("classifier.bias", "classifier.weight")
    assert logits(model).shape == (2, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_classes": 4}, "was trained for 3 classes, the data have 4"),
        ({"vocab_size": 61}, "knows 60 tokens, the data's tokenizer has 61"),
        ({"pad_token_id": 1}, "pads with token 0, the data's tokenizer with 1"),
        ({"hidden_size": 8}, "has a configuration of its own: remove 'hidden_size'"),
        ({"input_shape": (513,)}, "has 512 positions, the data have texts of 513"),
    ],
)
def test_a_folder_must_fit_the_data(folder, given, message):
    with pytest.raises(ModelError, match=message):
        build_model(f"hf/{folder}", **{"num_classes": 3, "input_shape": (5,), **given})


def test_pickled_weights_are_never_read(folder):
    torch.save(bert().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file named model\.safetensors") as caught:
        build_model(f"hf/{folder}", num_classes=3, input_shape=(5,))
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_model_is_never_run(folder):
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    described = json.loads((folder / "config.json").read_text())
    described |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="contains custom code") as caught:
        build_model(f"hf/{folder}", num_classes=3, input_shape=(5,))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(folder):
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"has no weights for 'bert\.encoder\.layer\.2\."):
        build_model(f"hf/{folder}", num_classes=3, input_shape=(5,))


NO_HUB = """
from limbeck.errors import ModelError
from limbeck.models import build_model
for name in ("hf/some-one/some-model", "hf/brt"):
    try:
        build_model(name, num_classes=2, input_shape=(4,), hidden_size=8)
    except ModelError as error:
        print(error)
"""


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(tmp_path: Path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NO_HUB],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(
        "model 'hf/some-one/some-model': is neither a folder nor in the cache, and the hub cannot "
        "be reached ("
    )
    assert second.startswith("unknown model 'hf/brt': did you mean 'hf/bert'?")


def test_a_saved_student_is_read_here_and_by_transformers(tmp_path: Path):
    model = bert().eval()
    spec = model_spec("hf/bert", num_classes=3, input_shape=(5,), **BERT)
    save_model(model, tmp_path / "saved", spec, {"class_names": ["low", "mid", "high"]})
    assert torch.equal(logits(load_model(tmp_path / "saved")), logits(model))
    read = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(read), logits(model))
    assert read.config.id2label == {0: "low", 1: "mid", 2: "high"}
    again = build_model(f"hf/{tmp_path / 'saved'}", num_classes=3, input_shape=(5,))
    assert torch.equal(logits(again), logits(model))


def test_a_student_that_began_from_a_folder_outlives_it(folder, tmp_path: Path):
    model = build_model(f"hf/{folder}", num_classes=3, input_shape=(5,), pad_token_id=0)
    spec = model_spec(f"hf/{folder}", num_classes=3, input_shape=(5,), pad_token_id=0)
    assert spec["model"] == "hf/bert"
    save_model(model, tmp_path / "saved", spec)
    for file in folder.iterdir():
        file.unlink()
    assert torch.equal(logits(load_model(tmp_path / "saved")), logits(model))


def test_tied_weights_of_a_language_model_come_back(tmp_path: Path):
    model = build_model("hf/gpt2", head="causal", **GPT2)
    spec = model_spec("hf/gpt2", num_classes=60, input_shape=(5,), head="causal", **GPT2)
    save_model(model, tmp_path / "saved", spec)
    assert torch.equal(logits(load_model(tmp_path / "saved")), logits(model))
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(read), logits(model))


def test_a_description_of_an_older_network_does_not_stay(tmp_path: Path):
    save_model(bert(), tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").is_file()
    save_model(torch.nn.Linear(2, 2), tmp_path / "saved")
    assert not (tmp_path / "saved" / "config.json").exists()


def test_segments_go_to_networks_that_know_them():
    segments = {**TEXTS, "token_type_ids": torch.ones_like(IDS)}
    model = bert().eval()
    assert not torch.allclose(call_model(model, segments).logits, logits(model))
    small = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 60}
    model = build_model("hf/distilbert", num_classes=3, input_shape=(5,), **small).eval()
    assert torch.equal(call_model(model, segments).logits, logits(model))


def test_segments_of_networks_of_ones_own():
    class Strict(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return input_ids.float()

    class Open(torch.nn.Module):
        def forward(self, **inputs):
            return inputs["token_type_ids"].float()

    segments = {**TEXTS, "token_type_ids": torch.ones_like(IDS)}
    assert torch.equal(call_model(Strict(), segments), IDS.float())
    assert torch.equal(call_model(Open(), segments), torch.ones(2, 5))
    assert torch.equal(call_model(torch.compile(Strict(), backend="eager"), segments), IDS.float())
    with pytest.raises(TypeError, match="colour"):  # what is no segment is never dropped
        call_model(Strict(), {**TEXTS, "colour": IDS})
