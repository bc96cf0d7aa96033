"""Backward-KD of texts: where word vectors go, what the teacher is given, and whole runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from method_runs import same_weights  # noqa: E402
from test_gkd import STILL, bert, plan_of, texts  # noqa: E402

from limbeck.engine import distiller  # noqa: E402
from limbeck.engine.distributed import World  # noqa: E402
from limbeck.engine.running import run_plan  # noqa: E402
from limbeck.engine.setup import assemble  # noqa: E402
from limbeck.engine.signals import Interrupted  # noqa: E402
from limbeck.errors import MethodError  # noqa: E402
from limbeck.models import build_model  # noqa: E402
from limbeck.taps.outputs import as_outputs  # noqa: E402

ROUND = {"name": "backward", "rounds": 1, "rate": 0.5, "steps": 1, "temperature": 1.0}


def parts_of(method: dict[str, Any], **more: Any) -> Any:
    student = more.pop("student", None) or bert(2, 5, width=4, **STILL)
    return assemble(plan_of("kd", method, student=student, epochs=3, **more), World())


def at_round(parts: Any) -> tuple[Any, Any]:
    (runtime,) = [one for one in parts.runtimes if one.method.name == "backward"]
    parts.ctx.epoch = 1
    parts.module.face(0)
    view = runtime.data.splits["train"]
    assert runtime.examples(view, parts.ctx) is view
    return runtime, view


def tables(parts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    theirs = parts.teachers["teacher"].module.bert.embeddings.word_embeddings.weight
    return parts.student.bert.embeddings.word_embeddings.weight.detach(), theirs


def by_hand(parts: Any, residual: bool) -> torch.Tensor:
    """One step uphill of each text alone, both networks fed word vectors."""
    ours, theirs = tables(parts)
    bridge = torch.linalg.lstsq(ours.double(), theirs.double()).solution.T
    student = copy.deepcopy(parts.student).double().eval()
    teacher = copy.deepcopy(parts.teachers["teacher"].module).double().eval()
    inputs, _ = texts()
    found = []
    for row in range(16):
        ids, mask = (inputs[key][row : row + 1] for key in ("input_ids", "attention_mask"))
        start = ours[ids].double().requires_grad_()
        seen = start @ bridge.T
        if residual:
            seen = theirs[ids].double() + (start - ours[ids].double()) @ bridge.T
        q = student(inputs_embeds=start, attention_mask=mask).logits.log_softmax(1)
        p = teacher(inputs_embeds=seen, attention_mask=mask).logits.log_softmax(1)
        (slope,) = torch.autograd.grad((p.exp() * (p - q)).sum(), start)
        found.append((start + 0.5 * slope).detach())
    return torch.cat(found)


@pytest.mark.parametrize("bridge", ["paper", "residual"])
def test_word_vectors_climb_through_both_networks(bridge):
    parts = parts_of({**ROUND, "bridge": bridge})
    runtime, view = at_round(parts)
    expected = by_hand(parts, bridge == "residual")
    torch.testing.assert_close(
        runtime.moved[0][view.indices].double(), expected, rtol=1e-4, atol=1e-5
    )
    start = tables(parts)[0][texts()[0]["input_ids"]]
    mask = texts()[0]["attention_mask"].bool()
    assert torch.equal(runtime.moved[0][~mask], start[~mask])  # padding stays
    assert not torch.equal(runtime.moved[0][mask], start[mask])
    parts.close()


@pytest.mark.parametrize("bridge", ["paper", "residual"])
def test_a_batch_is_texts_and_copies_for_both_networks(bridge):
    parts = parts_of({**ROUND, "bridge": bridge})
    runtime, view = at_round(parts)
    batch = view.fetch(torch.tensor([3, 5]))
    joined = runtime.batch(batch, parts.ctx)
    ours, theirs = tables(parts)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    moved = runtime.moved[0][batch.index]
    assert len(joined) == 4
    assert joined.changed.tolist() == [False, False, True, True]
    assert torch.equal(joined.targets, batch.targets.repeat(2))
    for side in (joined.inputs, joined.teacher_inputs):
        assert torch.equal(side["attention_mask"], mask.repeat(2, 1))
        assert "input_ids" not in side
    assert torch.equal(joined.inputs["inputs_embeds"], torch.cat([ours[ids], moved]))
    carried = moved @ runtime.bridges[0].T
    if bridge == "residual":
        carried = theirs[ids] + (moved - ours[ids]) @ runtime.bridges[0].T
    expected = torch.cat([theirs[ids], carried])
    torch.testing.assert_close(joined.teacher_inputs["inputs_embeds"], expected)
    # The originals are read as by their numbers, and the student's table learns from them.
    with torch.no_grad():
        by_number = as_outputs(parts.student.eval()(**batch.inputs)).logits
        by_vector = as_outputs(parts.student(**joined.inputs)).logits[:2]
    torch.testing.assert_close(by_vector, by_number)
    assert joined.inputs["inputs_embeds"].requires_grad
    assert not joined.teacher_inputs["inputs_embeds"].requires_grad
    parts.close()


def test_the_residual_form_without_a_step_is_the_texts_themselves():
    parts = parts_of({**ROUND, "steps": 0, "bridge": "residual"})
    runtime, view = at_round(parts)
    batch = view.fetch(torch.tensor([3, 5]))
    joined = runtime.batch(batch, parts.ctx)
    for side in (joined.inputs, joined.teacher_inputs):
        first, second = side["inputs_embeds"].detach().chunk(2)
        torch.testing.assert_close(first, second)
    parts.close()


def test_a_teacher_that_is_the_student_leaves_texts_where_they_are():
    network = bert(2, 5, **STILL)
    parts = parts_of(ROUND, student=network, teacher=copy.deepcopy(network))
    runtime, _ = at_round(parts)
    torch.testing.assert_close(runtime.bridges[0], torch.eye(8), rtol=0, atol=1e-5)
    start = tables(parts)[0][texts()[0]["input_ids"]]
    torch.testing.assert_close(runtime.moved[0], start, rtol=0, atol=1e-5)
    parts.close()


def test_copies_move_no_weight_and_leave_no_gradient():
    parts = parts_of(ROUND)
    networks = [parts.student, parts.teachers["teacher"].module]
    before = [copy.deepcopy(one.state_dict()) for one in networks]
    at_round(parts)
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
        assert all(value.grad is None for value in network.parameters())
    assert parts.student.training
    parts.close()


def test_a_run_learns_deploys_tokens_and_resumes_to_the_same_bits(tmp_path):
    def plan() -> Any:
        method = {**ROUND, "bridge": "residual", "hard_label": "teacher"}
        return plan_of("kd", method, student=bert(2, 5, width=4), epochs=3)

    whole = run_plan(plan(), tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 3)
        with pytest.raises(Interrupted):
            run_plan(plan(), tmp_path / "cut", quiet=True)
    again = run_plan(plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, again.student)
    table = whole.student.bert.embeddings.word_embeddings.weight
    assert not torch.equal(table, bert(2, 5, width=4).bert.embeddings.word_embeddings.weight)
    assert whole.student(**texts()[0]).logits.shape == (16, 3)


class Own(nn.Module):
    """A network of texts that is none of transformers'."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = bert(1, 0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits


def gpt() -> nn.Module:
    return build_model(
        "hf/gpt2", num_classes=3, input_shape=(6,), vocab_size=20, pad_token_id=0,
        n_embd=8, n_layer=1, n_head=2,
    )  # fmt: skip


def wider() -> nn.Module:
    network = bert(2, 5)
    network.resize_token_embeddings(21, mean_resizing=False)
    return network


@pytest.mark.parametrize(
    ("student", "match"),
    [
        (Own, r"the student \(Own\) has no word embeddings that could be moved; texts need"),
        (gpt, r"the student \(GPT2ForSequenceClassification\) classifies by a text's last token"),
        (wider, r"the student knows 21 tokens and teacher 'teacher' 20; word vectors are carried"),
    ],
)
def test_networks_whose_words_cannot_move_are_refused(student, match):
    with pytest.raises(MethodError, match=match):
        parts_of(ROUND, student=student())


def test_an_unknown_bridge_is_refused():
    with pytest.raises(MethodError, match=r"method\.bridge: expected paper or residual"):
        parts_of({**ROUND, "bridge": "lstsq"})
