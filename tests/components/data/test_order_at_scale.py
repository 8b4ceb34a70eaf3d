"""Ten million shards: every sample once, evenly shared, whatever happens to the number of workers."""

import numpy as np
import pytest

from components.data.order import Order, Plan, slice_span
from components.data.scramble import Int64

SHARDS = 10_000_000
WORKERS = 4096
BATCH = 65_536


def slices(count: int, world: int) -> tuple[Int64, Int64]:
    """Where the parts of all ranks begin and end in an arranged batch."""
    first, last = np.array([slice_span(0, count, rank, world) for rank in range(world)]).T
    return first, last


@pytest.mark.slow
def test_ten_million_shards_in_changing_worlds() -> None:
    """Every position of an epoch is planned, with another number of workers in every step: each id comes once."""
    rng = np.random.default_rng(0)
    order = Order(np.ones(SHARDS, np.int64).tolist(), seed=1)  # a sample each: every shard is looked up
    plan = Plan(order.samples, BATCH, 1)
    seen = np.zeros(SHARDS, np.bool_)
    planned = 0
    for step in range(plan.steps):
        _, ids = order.batch(*plan.span(step))
        world = int(np.exp(rng.uniform(0, np.log(WORKERS + 1))))
        first, last = slices(len(ids), world)
        assert first[0] == 0 and last[-1] == len(ids) and np.array_equal(first[1:], last[:-1])
        assert np.ptp(last - first) <= 1
        seen[ids] = True
        planned += len(ids)
    assert planned == SHARDS and seen.all()


@pytest.mark.slow
def test_of_ten_billion_samples_a_rank_reads_its_part() -> None:
    """Its slices come from its part of the line of shards, a lane more at each end, at any time of an epoch."""
    rng = np.random.default_rng(0)
    order = Order([1000] * SHARDS, seed=2)
    spread = order.samples / order.lanes * (1 + np.log2(order.lanes) * order.lanes / BATCH)
    for world in (1, 2, 7, 64, 128, 1000, WORKERS):
        first, last = slices(BATCH, world)
        for start in rng.integers(order.samples, 2 * order.samples - BATCH, 3).tolist():
            places = np.sort(order._find(start, start + BATCH)[0])
            assert (places[first] >= order.samples * np.arange(world) / world - spread).all()
            assert (places[last - 1] <= order.samples * np.arange(1, world + 1) / world + spread).all()
