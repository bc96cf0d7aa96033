"""Average pooling by two products against torch's own."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from limbeck import functional as lf
from limbeck.functional.pooling import pooled_by_products


def test_products_keep_their_precision_under_autocast():
    feature = torch.randn(2, 3, 8, 5)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pooled_by_products(feature, 3)
    torch.testing.assert_close(pooled, adaptive_avg_pool2d(feature, 3))
    assert pooled.dtype == torch.float32


@pytest.mark.parametrize("size", [1, 3, (2, 7), (8, 5), (16, 11)])
def test_products_give_the_means_and_gradients_of_adaptive_pooling(size):
    feature = torch.randn(2, 3, 8, 5, dtype=torch.float64, requires_grad=True)
    ours, theirs = pooled_by_products(feature, size), adaptive_avg_pool2d(feature, size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn_like(theirs)
    slopes = [torch.autograd.grad((y * weights).sum(), feature)[0] for y in (ours, theirs)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-12)
    assert torch.equal(lf.average_pool(feature, size=size), theirs)  # on a CPU it is torch's own
