"""What is cut out of a network lies where the network lies."""

import copy

import torch
from torch import nn

from limbeck.models import assistant


def test_what_joins_the_halves_is_on_the_networks_device(monkeypatch):
    """A device without numbers stands for a GPU; cutting compares numbers, and is left out."""
    monkeypatch.setattr(assistant, "narrowed", lambda given, *_, **__: copy.deepcopy(given))
    given = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to("meta")
    options = {"head": "3", "features": 5, "num_classes": 3, "example": torch.zeros(2, 4)}
    both = assistant.cut_in_two(given, (0.5, 0.5), **options)
    assert {tensor.device.type for tensor in both.state_dict().values()} == {"meta"}
