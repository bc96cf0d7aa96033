"""The bridge between two tables of word vectors: closed cases, and numpy's least squares."""

import numpy as np
import pytest
import torch

from limbeck.functional import embedding_bridge


@pytest.fixture
def table():
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_equal_tables_give_the_identity(table):
    torch.testing.assert_close(embedding_bridge(table, table), torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("width", [3, 5, 8])
def test_a_linear_image_gives_its_matrix(table, width):
    matrix = torch.randn(width, 5, dtype=torch.float64)
    found = embedding_bridge(table, table @ matrix.T)
    assert found.shape == (width, 5)
    torch.testing.assert_close(found, matrix, rtol=1e-10, atol=1e-12)


def test_any_tables_give_the_least_squares_of_numpy(table):
    theirs = torch.randn(30, 7, dtype=torch.float64)
    expected = np.linalg.lstsq(table.numpy(), theirs.numpy(), rcond=None)[0].T
    torch.testing.assert_close(embedding_bridge(table, theirs), torch.from_numpy(expected))


def test_fewer_tokens_than_numbers_still_map_each_token_exactly():
    ours, theirs = torch.randn(3, 5).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(ours @ embedding_bridge(ours, theirs).T, theirs)


def test_it_has_no_graph_and_the_students_precision(table):
    single = table.float().requires_grad_()
    found = embedding_bridge(single, table)
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_other_vocabularies_are_refused(table):
    with pytest.raises(ValueError, match="student table has 30 tokens, teacher table 29; expected"):
        embedding_bridge(table, table[1:])
