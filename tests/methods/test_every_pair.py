"""Every kind of network teaches every other, or one line says what to name.

Families are a table of builders. A sample of the pairs runs always, all of them under ``slow``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.data import DataBundle, bundle_from
from limbeck.engine.distributed import World
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Checkpoints, Train
from limbeck.engine.setup import assemble
from limbeck.errors import ShapeError
from limbeck.methods import as_methods
from limbeck.models import build_model
from limbeck.teachers import as_teacher

SHAPE, CLASSES, BATCH = (3, 32, 32), 5, 4


class Odd(nn.Module):
    """A user's own: nothing declared, maps that are no squares, tokens, two heads, a dictionary."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coarse = nn.Linear(2 * width, 2)
        self.classify = nn.Linear(2 * width, CLASSES)
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 3, stride=(2, 4), padding=1), nn.ReLU()),
            nn.ModuleDict({"inner": nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)})["inner"],
        )

    def forward(self, images: Tensor) -> dict[str, Any]:
        maps = self.body(images).relu()
        vector = maps.mean(dim=(2, 3))
        return {"maps": [maps], "coarse": self.coarse(vector), "logits": self.classify(vector)}


def own(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: build_model(name, num_classes=CLASSES, input_shape=SHAPE, **arguments)


def transformers_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=CLASSES,
    )
    return ViTForImageClassification(config)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "resnet": own("resnet8"),
    "vgg": own("vgg8"),
    "mobilenetv2": own("mobilenetv2"),
    "shufflenetv2": own("shufflenetv2"),
    "vit": own("vit", dim=16, depth=2, heads=2, patch=8),
    "timm_cnn": own("timm/resnet10t"),
    "timm_vit": own(
        "timm/vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2
    ),
    "encoder": transformers_vit,
    "odd": lambda: Odd(6),
}
TOKENS = ("vit", "timm_vit", "encoder")
"""Families whose stages are tokens; those of all others are maps."""

UNFIT = {
    ("timm_cnn", "resnet"),  # an ImageNet network's maps are smaller at every depth
    ("timm_cnn", "odd"),
    ("odd", "resnet"),  # maps of 8x4 cannot become 8x8
    ("mobilenetv2", "odd"),  # nor the other way round
    ("shufflenetv2", "odd"),
}
"""Pairs of maps no two stages of which fit each other."""
NAMES = list(FAMILIES)
PAIRS = [(s, t) for s in NAMES for t in NAMES]
# Each family once as student and once as teacher, and maps against tokens.
QUICK = [(s, NAMES[(i + 1) % len(NAMES)]) for i, s in enumerate(NAMES)]
QUICK += [("resnet", "odd"), ("odd", "timm_vit"), ("encoder", "vit")]
every_pair = pytest.mark.parametrize(
    ("student", "teacher"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in PAIRS],
    ids=["-".join(pair) for pair in PAIRS],
)


@pytest.fixture(scope="module")
def images() -> DataBundle:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3 * BATCH, *SHAPE, generator=generator)
    y = torch.arange(3 * BATCH) % CLASSES
    parts = [(x[i : i + BATCH], y[i : i + BATCH]) for i in (0, BATCH, 2 * BATCH)]
    return bundle_from(*parts, num_classes=CLASSES)


def make_plan(student: Any, teacher: Any, method: Any, data: DataBundle) -> Plan:
    torch.manual_seed(0)
    return Plan(
        name="pair",
        data=data,
        make_student=student,
        methods=as_methods(method),
        teachers={"teacher": as_teacher(teacher())},
        train=Train(epochs=2, batch_size=BATCH, log_every=1),
        checkpoints=Checkpoints(),
        seed=0,
    )


def take_two_steps(plan: Plan) -> None:
    """Check the loss, the gradients, and what the deployed student looks like."""
    keys = list(plan.make_student().state_dict())
    teacher = plan.teachers["teacher"]
    try:
        parts = assemble(plan, World(device=torch.device("cpu")))
    except BaseException:
        teacher.close()
        raise
    try:
        for _ in range(2):
            step(plan, parts)
    finally:
        parts.close()
    student = parts.student
    for runtime in parts.runtimes:
        student = runtime.deploy(student)
    assert list(student.state_dict()) == keys
    for module in [student, teacher.module]:
        assert not [m for m in module.modules() if m._forward_hooks or m._forward_pre_hooks]


def step(plan: Plan, parts: Any) -> None:
    batch = plan.data.splits["train"].fetch(torch.arange(BATCH))
    batch = batch.replace(inputs=plan.data.augment_eval(batch.inputs, batch.index))
    for runtime in parts.runtimes:
        batch = runtime.batch(batch, parts.ctx)
    parts.module.train()
    parts.module.zero_grad()
    loss, terms = parts.module(batch, parts.stages[0])
    assert torch.isfinite(loss)
    assert all(any(term.startswith(method.name) for term in terms) for method in plan.methods)
    loss.backward()
    for runtime in parts.runtimes:
        for name, value in runtime.named_parameters():
            if not value.requires_grad:  # fixed parts
                continue
            assert value.grad is not None, name
            assert torch.isfinite(value.grad).all(), name
        if list(runtime.parameters()):
            assert any(v.grad.any() for v in runtime.parameters() if v.requires_grad)
    learning = {n: p.grad for n, p in parts.student.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in learning.values())
    first = next(iter(learning))  # the deepest that a gradient must travel
    assert learning[first].any(), f"no gradient reaches {first}"
    teacher = plan.teachers["teacher"].module
    assert all(value.grad is None for value in teacher.parameters())
    with torch.no_grad():
        for value in parts.module.parameters():
            if value.grad is not None:
                value -= 1e-3 * value.grad


@every_pair
def test_kd(student: str, teacher: str, images: DataBundle) -> None:
    take_two_steps(make_plan(FAMILIES[student], FAMILIES[teacher], lb.KD(), images))


@every_pair
def test_fitnet(student: str, teacher: str, images: DataBundle) -> None:
    def plan(pairs: str) -> Plan:
        return make_plan(FAMILIES[student], FAMILIES[teacher], lb.FitNet(pairs=pairs), images)

    same = (student in TOKENS) == (teacher in TOKENS)
    if same and (student, teacher) not in UNFIT:
        take_two_steps(plan("auto"))
        return
    with pytest.raises(ShapeError) as caught:
        take_two_steps(plan("auto"))
    line = str(caught.value)
    assert "\n" not in line
    assert "student tap" in line
    assert "teacher tap" in line
    assert "pairs: penultimate" in line
    take_two_steps(plan("penultimate"))  # what the line says can be done


def token_classifier(hidden: int) -> Callable[[], nn.Module]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=30,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=CLASSES,
    )
    return lambda: BertForSequenceClassification(config)


@pytest.mark.parametrize("method", [lb.KD(), lb.FitNet(), lb.FitNet(pairs="penultimate")])
def test_classifiers_of_tokens_with_inputs_by_name(method: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(30, (3 * BATCH, 6), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    y = torch.arange(3 * BATCH) % CLASSES
    parts = [
        ({name: value[i : i + BATCH] for name, value in inputs.items()}, y[i : i + BATCH])
        for i in (0, BATCH, 2 * BATCH)
    ]
    data = bundle_from(*parts, num_classes=CLASSES)
    take_two_steps(make_plan(token_classifier(8), token_classifier(16), method, data))
