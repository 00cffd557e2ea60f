"""Exact nearest rows against faiss and against a full sort, block by block."""

import numpy as np
import pytest
import torch

from nexus.data.neighbors import nearest_rows, unit_rows


def whole_numbers(count, dim, seed):
    """Rows whose products are exact in float32 whatever the order of the sum."""
    return torch.randint(-3, 4, (count, dim), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize(("rows", "chunk"), [(64, 5), (130, 100), (1000, 3), (100_000, 512)])
@pytest.mark.parametrize("count", [1, 7, 60])
def test_equal_to_sorting_everything(rows, chunk, count):
    bank, queries = whole_numbers(703, 24, 0), whole_numbers(13, 24, 1)
    products = queries @ bank.T
    values, index = nearest_rows(bank, queries, count, rows=rows, chunk=chunk)
    expected = products.sort(dim=1, descending=True, stable=True).values[:, :count]
    assert torch.equal(values, expected)
    assert torch.equal(products.gather(1, index), values)
    assert all(len(set(line.tolist())) == count for line in index)
    tied = values[:, 1:] == values[:, :-1]
    assert bool((index[:, 1:] > index[:, :-1])[tied].all())


def test_equal_to_faiss():
    import faiss

    generator = torch.Generator().manual_seed(0)
    bank, queries = (unit_rows(torch.randn(n, 32, generator=generator)) for n in (3000, 40))
    index = faiss.IndexFlatIP(32)
    index.add(bank.numpy())
    their_values, their_rows = index.search(queries.numpy(), 50)
    values, rows = nearest_rows(bank, queries, 50, rows=700)
    np.testing.assert_allclose(values.numpy(), their_values, atol=1e-6)
    assert (rows.numpy() == their_rows).mean() > 0.999


def test_a_bank_smaller_than_asked_and_ascending_rows():
    bank = torch.arange(1.0, 6)[:, None]
    _, rows = nearest_rows(bank, torch.ones(2, 1), 9)
    assert rows.tolist() == [[4, 3, 2, 1, 0]] * 2
    rising = torch.arange(5000.0)[:, None]
    assert nearest_rows(rising, torch.ones(1, 1), 3, rows=64)[1].tolist() == [[4999, 4998, 4997]]
