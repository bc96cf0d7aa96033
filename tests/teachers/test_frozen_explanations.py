"""Explanations as a teacher's answers: live, kept, and moved with the image they are about.

The toy network sees the same from the left as from the right and has no borders, so that its map of
a flipped or shifted image is the flipped or shifted map: frozen must equal live.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cache_worlds import ROWS, cached, digits, epoch, network, visits
from torch import Tensor, nn

from limbeck.data import DataBundle, TensorSamples, bundle_from
from limbeck.data.geometry import apply_geometric
from limbeck.errors import MethodError, TapError
from limbeck.taps.explaining import GradCAM, InputGradient
from limbeck.teachers import LiveTeacher
from limbeck.teachers.cache import shards

CAM, SLOPE = GradCAM("relu").name, InputGradient().name
MARGIN = 5


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))


class Mirrored(nn.Module):
    """Convolutions whose kernels are their own mirror image, a sum over places, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.last = nn.Conv2d(4, 5, 3, padding=1, bias=False)
        self.relu, self.head = nn.ReLU(), nn.Linear(5, 10)
        with torch.no_grad():
            for layer in (self.first, self.last):
                layer.weight.add_(layer.weight.flip(3).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.relu(self.last(torch.tanh(self.first(inputs))))
        return self.head(features.sum((2, 3)) / 50)


def framed(augment: list) -> DataBundle:  # type: ignore[type-arg]
    """Digits amid black: what a crop cuts off, and what a kernel sees of the border, is zero."""
    view = digits().splits["train"]
    raw = view.fetch(torch.arange(len(view)))
    images = nn.functional.pad(raw.inputs, (MARGIN,) * 4)
    samples = TensorSamples(images, raw.targets)
    few = TensorSamples(images[:8], raw.targets[:8])
    return bundle_from(samples, few, few, num_classes=10, augment=augment, name="framed")


@pytest.mark.parametrize("steps", [["flip"], [{"crop": 2}], ["flip", {"crop": 2}]], ids=repr)
@pytest.mark.parametrize("tap", [CAM, SLOPE])
def test_a_frozen_map_equals_the_live_one_under_flips_and_crops(tmp_path, steps, tap):
    data = framed(steps)
    teacher = cached(
        tmp_path / "c", LiveTeacher(Mirrored()), data=data, taps=(tap,), inputs="clean",
        codec={"name": "float32", "features": "float32"}, look=visits(views=None),
    )  # fmt: skip
    live = LiveTeacher(Mirrored())
    live.set_taps((tap,))
    moved = 0
    for number in range(3):
        for batch in epoch(data, number, views=None):
            kept, now = teacher.ask(batch), live.ask(batch)
            torch.testing.assert_close(kept.logits, now.logits, rtol=1e-4, atol=1e-5)
            # a slope at a black pixel is not zero, so it does not survive a crop at the border
            rim = 0 if tap == CAM else 2
            ours, theirs = (
                one.features[tap][..., rim : one.features[tap].shape[-1] - rim] if rim else
                one.features[tap] for one in (kept, now)
            )  # fmt: skip
            if rim:
                ours, theirs = ours[..., rim:-rim, :], theirs[..., rim:-rim, :]
            scale = float(theirs.abs().max())
            assert scale > 0
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)
            clean = data.augment_eval(data.splits["train"].at(batch.index, 0).inputs, batch.index)
            moved += int((clean != batch.inputs).flatten(1).any(1).sum())
    assert moved > 100  # the images did move


def test_the_kept_map_is_that_of_the_clean_image_moved_to_the_bit(tmp_path):
    data = digits()
    name = GradCAM().name
    teacher = cached(
        tmp_path / "c", data=data, taps=(name,), inputs="clean",
        codec={"name": "float32", "features": "float32"}, look=visits(views=None),
    )  # fmt: skip
    live = LiveTeacher(network())
    live.set_taps((name,))
    for batch in epoch(data, 1, views=None)[:2]:
        raw = data.splits["train"].at(batch.index, 0)
        clean = live.ask(raw.replace(inputs=data.augment_eval(raw.inputs, raw.index)))
        parameters = data.augment_train.geometric_parameters(batch.index, seed=0, view=1)
        expected = apply_geometric(clean.features[name], parameters)
        torch.testing.assert_close(teacher.ask(batch).features[name], expected)
        assert expected.shape == (ROWS, 8, 8)  # in the images' size, not in the layer's


def test_maps_of_views_are_kept_as_they_are(tmp_path):
    name = GradCAM().name
    teacher = cached(tmp_path / "c", taps=(name,), codec={"name": "float32", "features": "float32"})
    live = LiveTeacher(network())
    live.set_taps((name,))
    for number in range(2):
        batch = epoch(digits(), number)[0]
        assert torch.equal(teacher.ask(batch).features[name], live.ask(batch).features[name])


def test_the_map_is_of_the_teachers_own_top_class_and_beside_other_taps():
    live, batch = LiveTeacher(network()), epoch(digits())[0]
    live.set_taps(("stages.0", GradCAM().name))
    said = live.ask(batch)
    assert list(said.features) == ["stages.0", GradCAM().name]
    graph = live.ask(batch, taps=("stages[-1]",), require_grad=True)
    maps = GradCAM().map(graph, said.logits.argmax(1), graph=False)
    resized = nn.functional.interpolate(maps[:, None], (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(said.features[GradCAM().name], resized)
    assert not said.logits.requires_grad
    assert all(p.grad is None for p in live.module.parameters())


def test_other_explanations_are_another_cache(tmp_path):
    teacher = cached(None, taps=(GradCAM().name,))
    other = cached(None, taps=(GradCAM("stages.0").name,))
    assert teacher.folder != other.folder


def test_what_cannot_be_explained_is_said_in_a_line():
    live, batch = LiveTeacher(network()), epoch(digits())[0]
    live.set_taps((GradCAM("stages").name,))
    with pytest.raises(MethodError, match="tap 'stages' must name one layer"):
        live.ask(batch)
    live.set_taps(("explanation:bcos:encode",))
    with pytest.raises(TapError, match="encode"):
        live.ask(batch)
