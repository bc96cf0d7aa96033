"""Digits: 1,797 scans of handwritten digits, 8x8 grey, bundled with scikit-learn."""

from __future__ import annotations

from typing import Unpack

import torch

from limbeck.data.bundle import Common, DataBundle, bundle_from
from limbeck.data.normalize import Normalize
from limbeck.data.registry import register_data
from limbeck.data.sources.common import common_options

TEST, TEST_SEED = 0.3, 0
STROKES = (0, 1, 2, 2, 1, 2, 0, 1, 0, 0)
"""How each digit is drawn: 0 with a closed loop, 1 of straight strokes, 2 of open curves."""

STATISTICS = Normalize((0.3053,), (0.3761,))  # of all pixels / 16


@register_data("digits")
def digits(**common: Unpack[Common]) -> DataBundle:
    """Optical recognition of handwritten digits (Alpaydin and Kaynak 1998, UCI; CC BY 4.0).

    30 % are test, the same whatever the seed; 15 % of the rest are validation. Pixels are floats
    in [0, 1]. ``superclasses["strokes"]`` groups digits by how they are drawn (ours: loops
    0 6 8 9, straight strokes 1 4 7, open curves 2 3 5). No file and no network is needed.

    Args:
        **common: options of every data set.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels / 16).float().view(-1, 1, 8, 8)
    return bundle_from(
        (images, torch.from_numpy(labels).long()),
        task="classification",
        class_names=[str(digit) for digit in range(10)],
        normalization=STATISTICS,
        superclasses={"strokes": torch.tensor(STROKES)},
        test_size=TEST,
        test_seed=TEST_SEED,
        name="digits",
        **common_options(common, validation=0.15),
    )
