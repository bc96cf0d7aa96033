"""How the weights of convolutional networks start."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def start_convolutions(model: nn.Module) -> None:
    """Draw every convolution from He's normal distribution over the fan out; biases start at 0.

    He et al., "Delving Deep into Rectifiers" (2015, arXiv 1502.01852). The networks of the
    CIFAR-100 distillation tables start so, the ShuffleNets excepted.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def start_head(head: nn.Linear) -> None:
    """Draw a classifier from a normal distribution of deviation 0.01; its bias starts at 0."""
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
