"""Explanations as answers of a teacher: maps of its top class, beside the logits, and moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor

from limbeck.data.batch import Batch
from limbeck.data.geometry import apply_geometric
from limbeck.functional.explanation import resized_maps
from limbeck.taps.explaining import explainer_named
from limbeck.taps.outputs import Outputs


def apart(taps: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the taps that are layers, and those that stand for explanations."""
    explains = tuple(tap for tap in taps if explainer_named(tap) is not None)
    return tuple(tap for tap in taps if tap not in explains), explains


def with_maps(
    outputs: Outputs,
    explains: Sequence[str],
    ask: Callable[[tuple[str, ...]], Outputs],
    seen: Tensor,
) -> Outputs:
    """Return outputs with maps of their top class among the features.

    Args:
        outputs: what the teacher said.
        explains: taps that stand for explanations.
        ask: asks again, with these taps and with gradients at them.
        seen: the inputs; of images, maps are given in their height and width.
    """
    top = outputs.logits.detach().argmax(dim=1)
    found = dict(outputs.features)
    for tap in explains:
        explainer = explainer_named(tap)
        assert explainer is not None
        kept = explainer.map(explainer.pass_over(ask), top, graph=False).float()
        spatial = seen.ndim == 4 and kept.ndim >= 3
        found[tap] = resized_maps(kept, (seen.shape[-2], seen.shape[-1])) if spatial else kept
    return dataclasses.replace(outputs, features=found)


def moved_maps(outputs: Outputs, batch: Batch) -> Outputs:
    """Return kept maps of clean samples as the maps of a view: cropped, flipped and rotated so.

    What does not move pixels (noise, cutout, statistics) leaves a map as it is.
    """
    draw = batch.draw
    maps = apart(tuple(outputs.features))[1]
    if draw is None or batch.index is None or not maps or not draw.augment.steps.is_geometric:
        return outputs
    parameters = draw.augment.geometric_parameters(batch.positions, seed=draw.seed, view=draw.view)
    moved = {tap: apply_geometric(outputs.features[tap], parameters) for tap in maps}
    return dataclasses.replace(outputs, features={**outputs.features, **moved})
