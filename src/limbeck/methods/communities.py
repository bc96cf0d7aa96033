"""Features that act together, as communities of a graph."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import MethodError


def communities(
    strength: Tensor,
    groups: int,
    *,
    resolution: float = 1.0,
    step: float = 0.01,
    tries: int = 100,
    seed: int = 100,
) -> Tensor:
    """Cut features into groups by Louvain's communities of their interactions.

    The resolution is moved until there are as many communities as wanted: up by ``step`` for too
    few, down for too many. Where the walk turns, the step is halved from there on (the authors'
    code would go back and forth). Features without any interaction go to the smallest groups.

    Args:
        strength: ``[features, features]``, symmetric, not negative.
        groups: how many.
        resolution: where the walk begins, above 0.
        step: its first step, above 0.
        tries: partitions to look at, at least 1.
        seed: of Louvain's order of features.

    Returns:
        int64 ``[features]``: group of each, counted in the order of their first features.

    Raises:
        MethodError: no resolution on the walk gives so many communities, or there is nothing
            to cut.
    """
    linked = (strength.sum(dim=0) > 0).nonzero().squeeze(1)
    if groups == 1:
        return torch.zeros(len(strength), dtype=torch.int64)
    if not len(linked):
        raise MethodError(
            "method superfeatures: no two features act together in the teacher; use "
            "partition: random"
        )
    found = _walk(strength, linked, groups, resolution, step, tries, seed)
    group = torch.full((len(strength),), -1, dtype=torch.int64)
    for number, members in enumerate(sorted(sorted(part) for part in found)):
        group[linked[torch.tensor(members)]] = number
    for alone in (group < 0).nonzero().squeeze(1):
        group[alone] = int(torch.bincount(group[group >= 0], minlength=groups).argmin())
    return group


def _walk(
    strength: Tensor,
    linked: Tensor,
    groups: int,
    resolution: float,
    step: float,
    tries: int,
    seed: int,
) -> list[set[int]]:
    """Return communities of the linked features, as sets of positions among these."""
    import networkx

    weights = strength[linked][:, linked].double().cpu()
    graph = networkx.from_numpy_array((weights / weights.mean()).numpy())
    met, last = [], 0
    for _ in range(tries):
        parts: list[set[int]] = networkx.community.louvain_communities(
            graph, weight="weight", resolution=resolution, seed=seed
        )
        met.append(len(parts))
        if len(parts) == groups:
            return parts
        way = 1 if len(parts) < groups else -1
        step = step / 2 if way == -last else step
        resolution, last = max(resolution + way * step, 0.0), way
    raise MethodError(
        f"method superfeatures: {tries} resolutions, the last {resolution:.4g}, gave "
        f"{min(met)} to {max(met)} communities of features, never {groups}; set the student's "
        f"groups to {met[-1]}, or partition: random"
    )
