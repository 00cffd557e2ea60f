"""Exact nearest neighbours beside faiss's flat index: rate, and whether both find the same.

    python benchmarks/knn.py --bank 1000000 --queries 10000 --dim 384 --k 200 --threads 2

Random unit vectors, float32, inner product. Memory: the bank twice (ours and faiss's copy), 3.1 GB at the
sizes above. Neighbours are equal where the rows are the same, or where the products differ by no more than
rounding (two libraries sum 384 products in different orders).
"""

import argparse
import time

import faiss
import torch

from nexus.data.neighbors import nearest_rows, unit_rows

ROUNDING = 1e-5


def main() -> None:
    """Search twice, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("bank", 1_000_000), ("queries", 10_000), ("dim", 384), ("k", 200), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    faiss.omp_set_num_threads(wanted.threads)
    generator = torch.Generator().manual_seed(0)
    bank, queries = (
        unit_rows(torch.randn(count, wanted.dim, generator=generator))
        for count in (wanted.bank, wanted.queries)
    )
    index = faiss.IndexFlatIP(wanted.dim)
    index.add(bank.numpy())
    began = time.perf_counter()
    values, rows = nearest_rows(bank, queries, wanted.k)
    ours = time.perf_counter() - began
    began = time.perf_counter()
    their_values, their_rows = index.search(queries.numpy(), wanted.k)
    theirs = time.perf_counter() - began
    same = rows.numpy() == their_rows
    near = abs(values.numpy() - their_values) <= ROUNDING
    print(
        f"bank {wanted.bank:,} x {wanted.dim}, {wanted.queries:,} queries, k {wanted.k}, "
        f"{wanted.threads} threads"
    )
    print(f"nexus  {ours:8.2f} s  {wanted.queries / ours:10.0f} queries/s")
    print(f"faiss  {theirs:8.2f} s  {wanted.queries / theirs:10.0f} queries/s")
    print(f"same row at the same place: {same.mean():.6%}; same product within {ROUNDING}: {near.mean():.6%}")


if __name__ == "__main__":
    main()
