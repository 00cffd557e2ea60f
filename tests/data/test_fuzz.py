"""Damaged images never crash the crop engine and are never half read; more: benchmarks/fuzz_images.py."""

from benchmarks.fuzz_images import fuzz


def test_damaged_images() -> None:
    found = fuzz(300, seed=1)
    assert 10 < found["usable"] < 290
    assert found["slowest_seconds"] < 5
