"""The order of the images: every one once a pass, the same at any world size and accumulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.data.order import CROPS, MASKS, REPLACEMENTS, Order, StepSampler, generator


@given(st.integers(1, 60), st.integers(0, 2**31), st.integers(0, 5))
def test_each_pass_is_a_permutation(size, seed, epoch):
    order = Order(size, seed)
    assert sorted(order[epoch * size + i] for i in range(size)) == list(range(size))


def test_passes_and_seeds_differ():
    passes = [[Order(50, seed)[epoch * 50 + i] for i in range(50)] for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(one) for one in passes}) == 6


def test_a_position_needs_no_history():
    order = Order(10, 3)
    there = [order[i] for i in range(95)]
    assert [order[i] for i in reversed(range(95))] == there[::-1]
    assert [Order(10, 3)[i] for i in range(95)] == there


@given(
    world=st.sampled_from([1, 2, 4]),
    parts=st.sampled_from([1, 2, 3]),
    micro=st.integers(1, 4),
    start=st.integers(0, 6),
)
def test_ranks_and_micro_batches_share_out_the_same_steps(world, parts, micro, start):
    """The union over ranks and micro-batches of a step is what one process would draw in it."""
    steps, batch = 9, world * parts * micro
    ranks = [
        list(
            StepSampler(
                start_step=start, steps=steps, micro_batch=micro, accumulation=parts, rank=r, world_size=world
            )
        )
        for r in range(world)
    ]
    whole = list(StepSampler(start_step=start, steps=steps, micro_batch=batch))
    assert [len(blocks) for blocks in ranks] == [(steps - start) * parts] * world
    for step in range(steps - start):
        drawn = [p for blocks in ranks for block in blocks[step * parts : (step + 1) * parts] for p in block]
        assert sorted(drawn) == whole[step] == list(range((start + step) * batch, (start + step + 1) * batch))


@pytest.mark.parametrize("start", [0, 3, 9, 12])
def test_length_is_what_it_yields(start):
    sampler = StepSampler(start_step=start, steps=9, micro_batch=2, accumulation=2)
    assert len(sampler) == len(list(sampler)) == 2 * max(9 - start, 0)


def test_a_late_start_is_the_end_of_an_early_one():
    whole = list(StepSampler(start_step=0, steps=9, micro_batch=2, accumulation=3, rank=1, world_size=2))
    late = list(StepSampler(start_step=4, steps=9, micro_batch=2, accumulation=3, rank=1, world_size=2))
    assert late == whole[12:]


def test_random_streams_are_independent_and_repeatable():
    draws = {
        (seed, stream, position): tuple(generator(seed, stream, position).integers(0, 2**62, 2))
        for seed in (0, 1)
        for stream in (CROPS, MASKS, REPLACEMENTS)
        for position in (0, 1, 2)
    }
    assert len(set(draws.values())) == len(draws)
    again = generator(1, MASKS, 2).integers(0, 2**62, 2)
    assert tuple(again) == draws[1, MASKS, 2]
    assert not np.array_equal(generator(0, CROPS, 0).permutation(50), generator(0, 0, 0).permutation(50))
