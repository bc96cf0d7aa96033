"""Networks that are not called as model(inputs), or say more than logits: they teach and learn."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import ShapeError, TapError
from limbeck.taps import as_outputs, pair_taps

X = torch.rand(24, 3, 12, 8, generator=torch.Generator().manual_seed(0))
DATA = tuple((X[i : i + 8], torch.arange(8) % 3) for i in (0, 8, 16))


class Recurrent(nn.Module):
    """Reads rows of an image as a sequence; wants its inputs and their lengths by name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(24, width)
        self.cell = nn.GRU(width, width, batch_first=True)
        self.coarse, self.fine = nn.Linear(width, 2), nn.Linear(width, 3)

    def forward(self, *, rows, scale):
        states, _ = self.cell(self.embed(rows) * scale)
        return {"coarse": self.coarse(states[:, -1]), "fine": self.fine(states[:, -1])}


def fine(model, batch):
    rows = batch.inputs.permute(0, 2, 1, 3).flatten(2)
    return model(rows=rows, scale=1.0)["fine"]


@pytest.mark.parametrize(
    "method",
    [lb.KD(), lb.FitNet(pairs=(("cell", "cell"),)), lb.FitNet(pairs=(("fine:in", "fine:in"),))],
    ids=["kd", "sequences", "vectors"],
)
def test_a_network_that_needs_forward(tmp_path: Path, method) -> None:
    run = lb.distill(
        Recurrent(8), Recurrent(5), DATA, method, epochs=1, forward=fine, output=tmp_path / "run",
        quiet=True,
    )  # fmt: skip
    assert run.student.fine.weight.shape == (3, 5)


def test_two_heads_without_forward_are_named(tmp_path: Path) -> None:
    class TwoHeads(nn.Sequential):
        def forward(self, inputs):
            return {"coarse": super().forward(inputs), "fine": super().forward(inputs)}

    student = TwoHeads(nn.Flatten(), nn.Linear(288, 3))
    with pytest.raises(TapError, match=r"dict with 'coarse', 'fine'; .* Pass forward=lambda"):
        lb.distill(None, student, DATA, "plain", output=tmp_path / "run", quiet=True)


def test_vectors_alone_have_no_stages(tmp_path: Path) -> None:
    def vectors():
        return nn.Sequential(nn.Flatten(), nn.Linear(288, 6), nn.ReLU(), nn.Linear(6, 3))

    options = {"epochs": 1, "quiet": True}
    with pytest.raises(TapError, match=r"no stages found in Sequential.*pairs: penultimate"):
        lb.distill(vectors(), vectors(), DATA, "fitnet", output=tmp_path / "a", **options)
    method = lb.FitNet(pairs="penultimate")
    lb.distill(vectors(), vectors(), DATA, method, output=tmp_path / "b", **options)


def test_nested_sequentials_with_maps_that_are_no_squares(tmp_path: Path) -> None:
    def nested(width):
        first = nn.Sequential(nn.Sequential(nn.Conv2d(3, width, 3, padding=1)), nn.ReLU())
        second = nn.Sequential(nn.MaxPool2d(2), nn.Sequential(nn.Conv2d(width, width, 1)))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))
        return nn.Sequential(nn.Sequential(first, second), head)

    run = lb.distill(
        nested(6), nested(4), DATA, "fitnet", epochs=1, output=tmp_path / "run", quiet=True
    )
    assert list(run.student.state_dict()) == list(nested(4).state_dict())
    assert not [m for m in run.student.modules() if m._forward_hooks]


def test_maps_of_transposed_sides_are_refused_with_what_to_name() -> None:
    student = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(192, 3))
    teacher = nn.Sequential(nn.Conv2d(3, 2, (1, 8)), nn.Upsample((8, 12)), nn.Flatten())
    with pytest.raises(ShapeError, match="name layers that fit"):
        lb.FitNet(pairs=(("0", "1"),)).prepare(student, _holder(teacher), None, _context())


def _holder(module):
    from limbeck.teachers import LiveTeacher

    return {"teacher": LiveTeacher(module)}


def _context():
    from limbeck.data import Batch
    from limbeck.methods.context import Context

    return Context(example=Batch(X[:2]))


def test_channels_last_maps_are_refused() -> None:
    import timm

    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32, window_size=4, depths=(1, 1), embed_dim=8, num_heads=(1, 2), num_classes=3,
    )  # fmt: skip
    with pytest.raises(TapError, match=r"\[batch, height, width, channels\].*penultimate"):
        pair_taps(swin, swin, student_example=torch.rand(2, 3, 32, 32))
    (pair,) = pair_taps(swin, swin, "penultimate", student_example=torch.rand(2, 3, 32, 32))
    assert len(pair.student_shape) == 2


LOGITS = torch.zeros(2, 3)


@dataclasses.dataclass
class Answer:
    loss: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    more: torch.Tensor | None = None


class Named(NamedTuple):
    hidden: torch.Tensor
    logits: torch.Tensor


def model_output():
    from transformers.modeling_outputs import SequenceClassifierOutput

    return SequenceClassifierOutput(logits=LOGITS, hidden_states=(torch.ones(2, 4, 5),))


@pytest.mark.parametrize(
    "value",
    [
        LOGITS,
        (LOGITS, torch.ones(2)),
        [LOGITS],
        {"logits": LOGITS, "features": torch.ones(2)},
        {"out": LOGITS},
        Answer(scores=LOGITS),
        Named(torch.ones(2, 4), LOGITS),
        model_output(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_forms_of_answers(value) -> None:
    assert as_outputs(value).logits is LOGITS


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"a": LOGITS, "b": LOGITS}, "returned dict with 'a', 'b'; expected"),
        (Answer(scores=LOGITS, more=LOGITS), "returned Answer with 'scores', 'more'"),
        ([torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 4, 4)], "a list of 2 feature maps"),
        (None, "returned NoneType; expected"),
        ((), "returned tuple; expected"),
    ],
)
def test_answers_that_must_be_named(value, line) -> None:
    with pytest.raises(TypeError, match=line):
        as_outputs(value)
