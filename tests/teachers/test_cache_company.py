"""What a cached teacher may make of the rest of a batch: rounding is told, more is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cache_worlds import cached, digits, epoch, network
from torch import nn

from limbeck.data import bundle_from
from limbeck.errors import CacheError
from limbeck.teachers import LiveTeacher
from limbeck.teachers.cache import explain, read_manifest
from limbeck.teachers.cache.capture import apart


class _OfTheBatch(nn.Module):
    """Answers with statistics of the batch, or by a sample's place in it."""

    def __init__(self, by_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read = nn.Linear(64, 10)
        self.norm = nn.BatchNorm1d(10, track_running_stats=False)
        self.by_place = by_place

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.read(images.flatten(1))
        return said + torch.arange(len(said))[:, None] if self.by_place else self.norm(said)


@pytest.mark.parametrize("by_place", [False, True])
def test_a_teacher_that_looks_at_the_rest_of_the_batch_is_refused(
    by_place: bool, tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match="with the samples beside it in a batch"):
        cached(tmp_path / "c", LiveTeacher(_OfTheBatch(by_place))).capture()
    assert list(tmp_path.iterdir()) == []


class _RoundedOtherwise(nn.Module):
    """Has last bits that depend on a sample's place, as kernels of large batches may."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.inner, self.size = network(), size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.inner(images)
        return said * (1 + self.size * (torch.arange(len(said)) % 2))[:, None]


def test_last_bits_that_depend_on_the_batch_are_said(tmp_path: Path) -> None:
    lines: list[str] = []
    teacher = cached(tmp_path / "c", LiveTeacher(_RoundedOtherwise(1e-3)), say=lines.append)
    teacher.ask(epoch(digits())[0])
    assert "the samples beside one change its answer by up to 0.0" in lines[-1]
    assert "not bit for bit" in lines[-1]
    lines.clear()
    (teacher.folder / "view-0000" / "00000.safetensors").unlink()
    assert len(teacher.repair()) == 1
    assert lines == []  # the conditions are the same: no more is asked about than that shard
    teacher.capture()
    said = "\n".join(explain(teacher.folder, read_manifest(teacher.folder)))
    assert "of its size: equal to the live teacher to that" in said


class _ReadsPadding(nn.Module):
    """A mean over all places, padding too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.head(self.embed(input_ids).mean(1))
        return said


def test_a_teacher_that_reads_padding_is_refused(tmp_path: Path) -> None:
    lengths = torch.randint(3, 40, (96,), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(40) < lengths[:, None]).long()
    texts = {"input_ids": torch.randint(1, 50, (96, 40)) * mask, "attention_mask": mask}
    data = bundle_from((texts, torch.arange(96) % 2), num_classes=2, augment=["trim"])
    with pytest.raises(CacheError, match=r"beside it in a batch .*padding"):
        cached(tmp_path / "c", LiveTeacher(_ReadsPadding()), data=data).capture()


@pytest.mark.parametrize("mask", [0.0, -1e4, float("-inf")])
def test_a_masked_class_hides_no_difference(mask: float) -> None:
    said = torch.randn(8, 5)
    said[:, 2] = mask if mask else said[:, 2]
    other = said.clone()
    other[3, 4] *= 1.5
    assert apart(said, said) == 0
    assert 0.1 < apart(other, said) < 0.5
    assert apart(torch.full((3, 2), 1e-12), torch.zeros(3, 2)) < 1e-5
    assert apart(torch.full((1, 1), -torch.inf), torch.zeros(1, 1)) == torch.inf
