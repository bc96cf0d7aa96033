"""QuEST, letKD, SimKD and SRRL between every kind of networks, or one line says what to name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_every_pair import FAMILIES, PAIRS, TOKENS, images, make_plan, step

from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble
from limbeck.errors import ShapeError
from limbeck.methods import all_methods
from limbeck.models.calling import call_model
from limbeck.taps import as_outputs

__all__ = ["images"]  # a fixture

ANYWHERE = ("simkd", "srrl")
QUICK = [("resnet", "vgg"), ("timm_cnn", "timm_vit"), ("encoder", "vit"), ("odd", "timm_vit")]
QUICK += [("mobilenetv2", "shufflenetv2")]
every_pair = pytest.mark.parametrize(
    ("student", "teacher"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in PAIRS],
    ids=["-".join(pair) for pair in PAIRS],
)


def two_steps(plan: Any) -> None:
    """Take two steps; the grown student, deployed, answers as it did in training's eval mode."""
    teacher = plan.teachers["teacher"]
    keys = list(plan.make_student().state_dict())
    try:
        parts = assemble(plan, World(device=torch.device("cpu")))
    except BaseException:
        teacher.close()
        raise
    try:
        for _ in range(2):
            step(plan, parts)
        batch = plan.data.splits["test"].fetch(torch.arange(4))
        batch = batch.replace(inputs=plan.data.augment_eval(batch.inputs, batch.index))
        parts.module.eval()
        with torch.no_grad():
            before = parts.voice.ask(batch).logits
    finally:
        parts.close()
    student = parts.student
    for runtime in parts.runtimes:
        student = runtime.deploy(student)
    with torch.no_grad():
        assert torch.equal(as_outputs(call_model(student, batch.inputs)).logits, before)
    grown = any(method.card.deploys == "grown" for method in plan.methods)
    assert (list(student.state_dict()) != keys) == grown
    for module in (student, teacher.module):
        assert not [m for m in module.modules() if m._forward_hooks or m._forward_pre_hooks]


@every_pair
@pytest.mark.parametrize("name", ["quest", "letkd1", "letkd2", "simkd", "srrl"])
def test_a_method_on_every_pair(name: str, student: str, teacher: str, images: Any) -> None:
    def plan(**arguments: Any) -> Any:
        if name not in ANYWHERE:
            arguments["codewords"] = 4
        method = all_methods()[name](**arguments)
        return make_plan(FAMILIES[student], FAMILIES[teacher], method, images)

    same = (student in TOKENS) == (teacher in TOKENS)
    if same or name in ANYWHERE:
        two_steps(plan())
        return
    with pytest.raises(ShapeError) as caught:
        two_steps(plan())
    line = str(caught.value)
    assert "\n" not in line
    assert "pairs: penultimate" in line
    if name == "letkd2":
        with pytest.raises(ShapeError, match="inner: penultimate"):
            two_steps(plan(pairs="penultimate"))
        two_steps(plan(pairs="penultimate", inner="penultimate"))
    else:
        two_steps(plan(pairs="penultimate"))
