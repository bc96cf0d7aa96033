"""Taps of transformers networks, against what transformers itself returns."""

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from limbeck.errors import TapError  # noqa: E402
from limbeck.models import build_model  # noqa: E402
from limbeck.taps import (  # noqa: E402
    TappedModel,
    as_outputs,
    head_of,
    infer_roles,
    pair_taps,
    roles_of,
    tapping,
)

WIDE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SMALL = {
    "bert": WIDE,
    "roberta": WIDE,
    "electra": {**WIDE, "embedding_size": 8},
    "modernbert": WIDE,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "llama": {**WIDE, "num_key_value_heads": 1},
}
IDS = torch.tensor([[2, 7, 9, 11, 3, 5], [2, 8, 3, 0, 0, 0]])
TEXTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


def small(name, **more):
    given = {"vocab_size": 60, "pad_token_id": 0, **SMALL[name], **more}
    return build_model(f"hf/{name}", num_classes=3, input_shape=(6,), **given).eval()


@pytest.mark.parametrize("name", SMALL)
def test_roles_are_what_transformers_returns(name):
    model = small(name, attention="eager")
    own = model(**TEXTS, output_hidden_states=True, output_attentions=True)
    tapped = TappedModel(model, ["stages", "attentions", "penultimate", "head"])
    said = tapped(TEXTS)
    tapped.close()
    # transformers' last hidden state is after the final norm where there is one: its blocks' inputs
    # are the ones before, so the first block's output is its second hidden state
    assert torch.equal(said.features["stages.0"], own.hidden_states[1])
    for block in (0, 1):
        found = said.features[f"attentions.{block}"]
        assert torch.equal(found, own.attentions[block])
        sums = found.sum(dim=-1)[TEXTS["attention_mask"].bool()[:, None].expand(2, 2, 6)]
        torch.testing.assert_close(sums, torch.ones_like(sums))
    head = head_of(model)
    assert torch.equal(head(said.features["penultimate"]), said.features["head"])
    assert said.features["head"].shape[-1] == 3
    assert torch.equal(said.logits, own.logits)


@pytest.mark.parametrize(("name", "shape"), [("bert", (2, 16)), ("gpt2", (2, 6, 16))])
def test_what_the_classifier_reads(name, shape):
    model = small(name)
    with tapping(model, "penultimate") as store, torch.no_grad():
        said = model(**TEXTS).logits
    assert tuple(store["penultimate"].shape) == shape
    vectors = store["penultimate"]
    if len(shape) == 3:  # it classifies by the last token that is no padding
        vectors = vectors[torch.arange(2), TEXTS["attention_mask"].sum(dim=1) - 1]
    torch.testing.assert_close(head_of(model)(vectors), said)


def test_encoder_and_decoder_blocks_are_stages_in_order():
    fields = {
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "vocab_size": 60,
    }
    model = build_model("hf/bart", num_classes=3, input_shape=(6,), **fields)
    found = roles_of(model)
    assert found["stages"] == [
        "model.encoder.layers.0",
        "model.encoder.layers.1",
        "model.decoder.layers.0",
    ]
    assert found["head"] == "classification_head.out_proj"
    assert "attentions" not in found


def test_the_head_of_a_language_model_is_its_output():
    model = build_model("hf/gpt2", head="causal", vocab_size=60, pad_token_id=0, **SMALL["gpt2"])
    assert roles_of(model)["head"] == "lm_head"


def test_fused_attention_has_no_probabilities():
    tapped = TappedModel(small("bert", attention="sdpa"), "attentions[-1]")
    with pytest.raises(TapError, match=r"no attention probabilities; .*attention='eager'"):
        tapped(TEXTS)
    one = TappedModel(
        small("bert", attention="eager"), "bert.encoder.layer.*.attention.self:attention"
    )
    assert list(one(TEXTS).features) == [
        f"bert.encoder.layer.{block}.attention.self:attention" for block in (0, 1)
    ]
    with pytest.raises(TapError, match="no attention probabilities"):
        TappedModel(small("bert"), "classifier:attention")(TEXTS)


def test_gradients_with_respect_to_probabilities():
    model = small("bert", attention="eager")
    said = TappedModel(model, "attentions[0]")(TEXTS)
    (gradient,) = torch.autograd.grad(said.logits.sum(), said.features["attentions[0]"])
    assert gradient.abs().sum() > 0
    model.requires_grad_(False)
    with pytest.raises(TapError, match="gradients with respect to them cannot be made"):
        TappedModel(model).ask(TEXTS, "attentions[0]", require_grad=True)


def test_a_role_the_network_lacks_names_those_it_has():
    with pytest.raises(TapError, match=r"'attentions'.*roles"):
        TappedModel(nn.Sequential(nn.Linear(2, 2)), "attentions")
    assert infer_roles(small("roberta"), TEXTS)["head"] == "classifier.out_proj"


def test_blocks_of_two_networks_pair_from_the_end():
    student, teacher = small("distilbert"), small("bert", num_hidden_layers=4)
    found = pair_taps(student, teacher, student_example=TEXTS)
    assert [pair.names for pair in found] == [("stages.0", "stages.2"), ("stages.1", "stages.3")]


def test_outputs_that_were_asked_for_are_kept():
    model = small("bert", attention="eager")
    own = model(**TEXTS, output_hidden_states=True, output_attentions=True)
    said = as_outputs(own)
    assert list(said.features) == ["hidden_states.0", "hidden_states.1", "hidden_states.2"]
    assert list(said.attentions) == ["attentions.0", "attentions.1"]
    assert said.attentions["attentions.1"] is own.attentions[1]
    plain = as_outputs(model(**TEXTS))
    assert (dict(plain.features), dict(plain.attentions)) == ({}, {})
