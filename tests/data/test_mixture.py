"""Several sources drawn by weight: exact shares, complete sources, the same at any restart and world size."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.data.datasets import MixtureDataset, open_dataset
from nexus.data.order import MixtureOrder, Order, StepSampler
from nexus.data.replacing import first_usable
from nexus.errors import DataError, ImageError
from tests.data.making import tar

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@st.composite
def mixtures(draw) -> tuple[list[int], list[Fraction], int]:
    sizes = draw(SIZES)
    weights = [Fraction(draw(st.integers(1, 40)), 10) for _ in sizes]
    return sizes, weights, draw(st.integers(0, 2**31))


def sources(order: MixtureOrder, sizes: list[int], count: int) -> list[tuple[int, int]]:
    """(source, image in it) of the first positions."""
    starts = np.cumsum([0, *sizes])
    found = []
    for position in range(count):
        index = order[position]
        source = int(np.searchsorted(starts, index, side="right")) - 1
        found.append((source, index - int(starts[source])))
    return found


@settings(max_examples=30, deadline=None)
@given(mixtures())
def test_shares_are_exact_after_every_block(mixture):
    sizes, weights, seed = mixture
    order = MixtureOrder(sizes, weights, seed)
    drawn = sources(order, sizes, 6 * order.block)
    for blocks in range(1, 7):
        counts = Counter(source for source, _ in drawn[: blocks * order.block])
        for source, weight in enumerate(weights):
            assert abs(counts[source] - blocks * order.block * weight / sum(weights)) <= 1


@settings(max_examples=30, deadline=None)
@given(mixtures())
def test_every_image_of_a_source_comes_before_any_comes_again(mixture):
    sizes, weights, seed = mixture
    drawn = sources(MixtureOrder(sizes, weights, seed), sizes, 150)
    for source, size in enumerate(sizes):
        images = [image for s, image in drawn if s == source]
        for first in range(0, len(images) - size, size):
            assert sorted(images[first : first + size]) == list(range(size))
        rest = images[len(images) - len(images) % size :]
        assert len(set(rest)) == len(rest)


@settings(max_examples=25, deadline=None)
@given(mixtures(), st.integers(0, 300))
def test_a_position_needs_no_history(mixture, position):
    sizes, weights, seed = mixture
    order = MixtureOrder(sizes, weights, seed)
    there = [order[p] for p in range(position + 1)]
    assert MixtureOrder(sizes, weights, seed)[position] == there[-1]
    assert [order[p] for p in range(position, -1, -1)] == there[::-1]


def test_turns_are_shuffled_and_differ_between_seeds():
    streams = {
        tuple(s for s, _ in sources(MixtureOrder([9, 9], [0.5, 0.5], seed), [9, 9], 40)) for seed in range(6)
    }
    assert len(streams) == 6
    longest = max(len(run) for one in streams for run in "".join(map(str, one)).replace("01", "0 1").split())
    assert longest > 2, "no strict taking of turns"


def test_sources_of_one_size_are_shuffled_differently():
    drawn = sources(MixtureOrder([30, 30], [1, 1], 0), [30, 30], 60)
    first, second = ([image for s, image in drawn if s == source] for source in (0, 1))
    assert first != second


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 40),
    world=st.integers(1, 5),
    micro=st.integers(1, 5),
    parts=st.integers(1, 3),
    start=st.integers(0, 7),
    mixed=st.booleans(),
)
def test_ranks_share_every_pass_out(size, world, micro, parts, start, mixed):
    """The ranks' positions are disjoint, together without gaps, and independent of where the run resumed."""
    order = MixtureOrder([size, 3], [2, 1], 5) if mixed else Order(size, 5)
    steps = start + -(-3 * order.size // (world * micro * parts))

    def positions(rank: int, first: int) -> list[int]:
        sampler = StepSampler(
            start_step=first, steps=steps, micro_batch=micro, accumulation=parts, rank=rank, world_size=world
        )
        return [position for block in sampler for position in block]

    ranks = [positions(rank, 0) for rank in range(world)]
    assert len({len(one) for one in ranks}) == 1, "evenly"
    everything = sorted(position for one in ranks for position in one)
    assert everything == list(range(steps * world * micro * parts)), "completely, and nothing twice"
    per_step = micro * parts
    assert [positions(rank, start) for rank in range(world)] == [one[start * per_step :] for one in ranks]
    if not mixed:
        passes = [order[p] for p in everything]
        for k in range(len(everything) // size):
            assert sorted(passes[k * size : (k + 1) * size]) == list(range(size))


def test_the_syntax(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tar(tmp_path, range(4), "a.tar")
    tar(tmp_path, range(4, 6), "b.tar")
    data = open_dataset("a.tar:0.75,b.tar:0.25")
    assert isinstance(data, MixtureDataset)
    assert len(data) == 6
    assert data.weights == (Fraction(3, 4), Fraction(1, 4))
    assert data.description.startswith("mixture of 75 % a.tar, 4 images")
    assert len(open_dataset("synthetic:n=4,size=16:3,b.tar:1")) == 6
    assert open_dataset(" a.tar:0.75  b.tar:0.25").weights == data.weights
    assert open_dataset("synthetic:n=4,size=16:3 b.tar:1, a.tar:2").weights == (3, 1, 2)
    assert open_dataset(["a.tar:2", "b.tar:1"]).weights == (2, 1)
    counts = Counter(data.order(0)[p] >= 4 for p in range(800))
    assert counts[True] == 200
    assert not isinstance(open_dataset("a.tar,b.tar"), MixtureDataset)


def test_what_looks_like_a_weight_but_is_none(tmp_path, monkeypatch):
    from nexus.data.datasets.address import at_commas, weighted

    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:7").mkdir()
    assert weighted(["odd:7", "x"]) == (["odd:7", "x"], None)
    assert weighted(["http://host:8080", "C:\\imgs"]) == (["http://host:8080", "C:\\imgs"], None)
    texts, weights = weighted(["http://host:8080/a.tar:2", "C:\\imgs:0.5", "s3://b/x.tar:.5"])
    assert texts == ["http://host:8080/a.tar", "C:\\imgs", "s3://b/x.tar"]
    assert weights == [2, Fraction(1, 2), Fraction(1, 2)]
    assert at_commas("a?bands=3,2,1:0.7,b:0.3") == ["a?bands=3,2,1:0.7", "b:0.3"]
    assert at_commas("x-{1,2}.tar, y?window=-40,400") == ["x-{1,2}.tar", "y?window=-40,400"]


def test_blanks_separate_behind_weights_only(tmp_path, monkeypatch):
    from nexus.data.datasets.address import at_blanks

    monkeypatch.chdir(tmp_path)
    assert at_blanks("a:0.7 b:.3\tc:2") == ["a:0.7", "b:.3", "c:2"]
    assert at_blanks("my photos:0.7 other photos:0.3") == ["my photos:0.7", "other photos:0.3"]
    assert at_blanks("my photos") == ["my photos"]
    assert at_blanks("my photos:1") == ["my photos:1"]
    assert at_blanks("run:1 photos:0.7 b:1") == ["run:1", "photos:0.7", "b:1"]
    assert at_blanks("run:1 photos") == ["run:1", "photos"]
    (tmp_path / "run:1 photos").mkdir()
    assert at_blanks("run:1 photos:0.7 b:1") == ["run:1 photos:0.7", "b:1"]
    assert at_blanks("run:1 photos") == ["run:1 photos"]
    assert at_blanks("http://host:8080/a.tar:2 s3://b/x.tar:1") == [
        "http://host:8080/a.tar:2",
        "s3://b/x.tar:1",
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a.tar:0.7 b.tar", "b.tar has no weight, but other sources have one"),
        ("http://host:8080 b.tar:1", "http://host:8080 has no weight"),
        ("odd:0.3 b.tar:1", "odd:0.3 has no weight, but other sources have one; .* such as odd:0.3:1"),
        ("a.tar:0.7,b.tar", "b.tar has no weight, but other sources have one; give every source one"),
        ("a.tar:0,b.tar:1", "weights must be above 0"),
        ("a.tar:1,b.tar:100000000", "none below a millionth"),
    ],
)
def test_wrong_weights(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    tar(tmp_path, range(4), "a.tar")
    tar(tmp_path, range(4, 6), "b.tar")
    (tmp_path / "odd:0.3").mkdir()
    with pytest.raises(DataError, match=message):
        open_dataset(spec)


def test_the_image_that_takes_anothers_place_is_of_its_source():
    order = MixtureOrder([5, 7, 2], [0.5, 0.3, 0.2], 0)
    bounds = [(0, 5), (5, 12), (12, 14)]
    tried: list[int] = []

    def use(index: int) -> int:
        tried.append(index)
        if len(tried) < 6:
            raise ImageError("x", "no")
        return index

    for position in range(60):
        begin, end = next((a, b) for a, b in bounds if a <= order[position] < b)
        assert order.source(position) == (begin, end)
        tried.clear()
        first_usable(order, position, use)
        assert len(tried) == 6
        assert all(begin <= index < end for index in tried)


def test_the_shell_parts_sources_at_blanks(tmp_path, monkeypatch):
    from nexus.cli.options import with_more_sources

    monkeypatch.chdir(tmp_path)
    words = ["optim.lr=1e-3", "b?bands=1,2:0.2", "c:0.1", "log.every=:3"]
    data, settings = with_more_sources("a:0.7", words)
    assert data == "a:0.7 b?bands=1,2:0.2 c:0.1"
    assert settings == ["optim.lr=1e-3", "log.every=:3"]
    assert with_more_sources("a", ["b:0.3"]) == ("a", ["b:0.3"])
    assert with_more_sources(None, None) == (None, [])
