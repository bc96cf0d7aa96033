"""Small real data and networks that the tests of teachers share."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

from limbeck.data import Batch, DataBundle, Normalize, bundle_from

CPU = torch.device("cpu")


def digits(**options: Any) -> DataBundle:
    """Scikit-learn's digits as uint8 images, normalised by the data's statistics."""
    found = load_digits()
    images = torch.as_tensor(found.images * 15.9375).round().to(torch.uint8)[:, None]
    options = {"normalization": Normalize((0.3,), (0.4,)), "num_classes": 10, **options}
    return bundle_from((images, torch.as_tensor(found.target)), **options)


def cancer(**options: Any) -> DataBundle:
    """Breast cancer: 30 standardised features, 2 classes."""
    found = load_breast_cancer()
    table = torch.as_tensor(found.data, dtype=torch.float32)
    table = (table - table.mean(0)) / table.std(0)
    return bundle_from((table, torch.as_tensor(found.target)), **options)


def batch_of(data: DataBundle, split: str = "train", size: int = 8) -> Batch:
    """The first samples of a part, as evaluation shows them."""
    raw = data.splits[split].fetch(torch.arange(size))
    return raw.replace(inputs=data.augment_eval(raw.inputs, raw.index))


class Net(nn.Module):
    """Convolution, batch norm with statistics of its own, dropout, head."""

    def __init__(self, classes: int = 10, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, classes)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
            self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.conv(inputs)))
        return self.head(self.drop(hidden.mean((2, 3))))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
