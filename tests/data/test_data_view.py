"""Views: selection, overlay, relabelling, checkpoints."""

import pytest
import torch

from limbeck.data import IGNORE, TensorSamples, View
from limbeck.errors import DataError


@pytest.fixture
def view() -> View:
    x = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 2, 2).contiguous()
    return View.of(TensorSamples(x, torch.arange(10) % 3))


def naive(view: View) -> list[tuple[int, int, int, bool]]:
    batch = view.fetch(torch.arange(len(view)))
    assert batch.index is not None
    assert batch.targets is not None
    changed = [False] * len(batch) if batch.changed is None else batch.changed.tolist()
    pixels = [int(row.flatten()[0]) for row in batch.inputs]
    return list(zip(batch.index.tolist(), pixels, batch.targets.tolist(), changed, strict=True))


def test_the_whole_set_is_itself(view: View) -> None:
    assert naive(view) == [(k, k, k % 3, False) for k in range(10)]
    assert view.changed is None


def test_selection_keeps_base_positions_order_and_repeats(view: View) -> None:
    chosen = view.select(torch.tensor([7, 2, 7]))
    assert naive(chosen) == [(7, 7, 1, False), (2, 2, 2, False), (7, 7, 1, False)]
    assert chosen.targets.tolist() == [1, 2, 1]
    assert naive(chosen.select(torch.tensor([0]))) == [(0, 0, 0, False)]  # base positions again


def test_overlays_add_up_and_leave_the_base_alone(view: View) -> None:
    def images(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)

    once = view.with_overlay(torch.tensor([2, 5]), images(102, 105))
    twice = once.with_overlay(torch.tensor([5, 7]), images(205, 207))
    assert [row[1] for row in naive(twice)] == [0, 1, 102, 3, 4, 205, 6, 207, 8, 9]
    assert [row[3] for row in naive(twice)] == [k in (2, 5, 7) for k in range(10)]
    assert [row[1] for row in naive(once)] == [0, 1, 102, 3, 4, 105, 6, 7, 8, 9]
    assert naive(view) == [(k, k, k % 3, False) for k in range(10)]
    assert twice.overlay_inputs is not None
    assert len(twice.overlay_inputs) == 3  # the replaced row is not kept
    picked = twice.select(torch.tensor([7, 0]))
    assert naive(picked) == [(7, 207, 1, True), (0, 0, 0, False)]
    again = view.with_overlay(torch.tensor([4, 4]), images(1, 2))
    assert naive(again)[4][1] == 2  # the last one holds


def test_condensation_as_its_paper_uses_views(view: View) -> None:
    """Three stages of KCD: the set shrinks, borderline images are mixed for good, one returns."""
    pixels = {k: float(k) for k in range(10)}
    current = view
    for kept, lost, weight in (([0, 1, 2, 3, 4], [5, 6], 0.75), ([0, 1, 2, 5], [3, 4], 0.5)):
        border = kept[-2:]
        a = current.at(torch.tensor(border)).inputs.double()
        b = current.at(torch.tensor(lost)).inputs.double()
        mixed = (weight * a + (1 - weight) * b).round().to(torch.uint8)
        current = current.with_overlay(torch.tensor(border), mixed).select(torch.tensor(kept))
        for x, y in zip(border, lost, strict=True):
            pixels[x] = float(torch.tensor(weight * pixels[x] + (1 - weight) * pixels[y]).round())
    assert [row[:2] for row in naive(current)] == [(k, int(pixels[k])) for k in (0, 1, 2, 5)]


def test_other_targets(view: View) -> None:
    targets = torch.arange(10) % 3
    targets[4:] = IGNORE
    hidden = view.with_targets(targets).select(torch.tensor([3, 4]))
    assert hidden.targets.tolist() == [0, IGNORE]
    assert hidden.labelled.tolist() == [True, False]
    assert [row[2] for row in naive(hidden)] == [0, IGNORE]
    assert view.labelled.all()


def test_a_checkpointed_view_is_the_same_view(view: View, tmp_path: object) -> None:
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    overlay = torch.full((1, 1, 2, 2), 99, dtype=torch.uint8)
    changed = (
        view.with_overlay(torch.tensor([3]), overlay)
        .with_targets(torch.arange(10))
        .select(torch.tensor([9, 3, 3]))
    )
    file = Path(str(tmp_path)) / "view.safetensors"
    save_file(changed.state_dict(), file)
    restored = View.from_state_dict(view.samples, load_file(file))
    assert naive(restored) == naive(changed) == [(9, 9, 9, False), *[(3, 99, 3, True)] * 2]
    assert set(view.state_dict()) == {"indices"}


def test_misuse_is_one_clear_line(view: View) -> None:
    with pytest.raises(DataError, match="10 is outside of a set of 10"):
        view.select(torch.tensor([10]))
    with pytest.raises(DataError, match="-1 is outside"):
        view.select(torch.tensor([-1, 0]))
    with pytest.raises(DataError, match="expected int64"):
        view.select(torch.tensor([0.5]))
    with pytest.raises(DataError, match=r"expected torch\.uint8 \[1, 1, 2, 2\]"):
        view.with_overlay(torch.tensor([0]), torch.zeros(1, 1, 2, 2))
    with pytest.raises(DataError, match="expected 10 rows, got 3"):
        view.with_targets(torch.zeros(3))
    named = View.of(TensorSamples({"x": torch.zeros(2, 1)}))
    with pytest.raises(DataError, match="inputs by name"):
        named.with_overlay(torch.tensor([0]), torch.zeros(1, 1))
