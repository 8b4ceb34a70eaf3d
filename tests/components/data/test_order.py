"""Order, plan and slices: permutations, exact partitions, and the same stream whatever the number of workers."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from components.data.order import Order, Plan, check_divisible, slice_span
from components.data.scramble import make_key, permute, uniforms
from components.errors import UserError

Case = tuple[np.random.Generator, list[int], Callable[[], Order]]


def random_cases(count: int) -> list[Case]:
    """(generator, shard sizes, how to make the order anew)."""
    cases: list[Case] = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 40, rng.integers(1, 30)).tolist()
        window, lanes = int(rng.integers(1, 10)), int(2 ** rng.integers(0, 5))
        if seed % 2:
            cases.append((rng, sizes, partial(Order, sizes, seed)))
        else:
            cases.append((rng, sizes, partial(Order, sizes, seed, window, lanes)))
    return cases


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 97, 100, 1000, 4096])
def test_permute_is_a_permutation_and_depends_on_the_key(n: int) -> None:
    places = np.arange(n)
    first = permute(places, n, make_key("a"))
    assert sorted(first) == list(range(n))
    assert np.array_equal(permute(places[n // 2 :], n, make_key("a")), first[n // 2 :])
    if n > 8:
        assert not np.array_equal(first, permute(places, n, make_key("b")))


def test_permute_sends_every_place_everywhere_equally_often() -> None:
    counts = np.zeros((10, 10))
    for trial in range(2000):
        counts[np.arange(10), permute(np.arange(10), 10, make_key(trial))] += 1
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert chi_square < 81 + 5 * np.sqrt(2 * 81)  # 81 degrees of freedom


def test_uniforms_depend_on_the_row_alone_and_are_uniform() -> None:
    rows = np.arange(1000)
    table = uniforms(make_key(1), rows, 4, 5)
    assert table.shape == (1000, 4, 5)
    assert table.dtype == np.float32
    assert np.array_equal(uniforms(make_key(1), rows[[7, 3]], 4, 5), table[[7, 3]])
    histogram = np.histogram(table, 10, (0, 1))[0]
    assert abs(histogram - 2000).max() < 5 * np.sqrt(2000)


def shards_of(ids: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The shard of each id."""
    return np.searchsorted(np.cumsum(sizes), ids, side="right")


@pytest.mark.parametrize("case", random_cases(20))
def test_every_epoch_is_another_permutation(case: Case) -> None:
    _, sizes, make = case
    order, n = make(), sum(sizes)
    epochs = [order.ids(e * n, (e + 1) * n) for e in range(3)]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(n))
    if n > 20:
        assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


@pytest.mark.parametrize("case", random_cases(20))
def test_any_span_is_cut_from_the_same_stream(case: Case) -> None:
    rng, sizes, make = case
    whole = make().ids(0, 4 * sum(sizes))
    for _ in range(10):
        start, stop = np.sort(rng.integers(0, len(whole), 2)).tolist()
        assert np.array_equal(make().ids(start, stop), whole[start:stop])
        positions, ids = make().batch(start, stop)
        assert np.array_equal(np.sort(positions), np.arange(start, stop))
        assert np.array_equal(ids, whole[positions])


@pytest.mark.parametrize("case", random_cases(20))
def test_changing_worlds_keep_the_exact_stream(case: Case) -> None:
    rng, _, make = case
    order, alone = make(), make()
    plan = Plan(order.samples, min(order.samples, int(rng.integers(1, 50))), 2.3)
    for step in range(plan.steps):
        start, stop = plan.span(step)
        world = int(rng.integers(1, 9))
        parts = [slice(*slice_span(0, stop - start, rank, world)) for rank in range(world)]
        positions, ids = (np.concatenate([values[part] for part in parts]) for values in order.batch(start, stop))
        assert np.array_equal(ids[np.argsort(positions)], alone.ids(start, stop))
        assert np.array_equal(positions, alone.batch(start, stop)[0]), "the batch is arranged alike in every world"


def test_samples_of_many_shards_are_mixed() -> None:
    """A batch has its share of every lane, and within a lane no shard comes before another."""
    order, sizes = Order([50] * 64, seed=3), [50] * 64
    assert order.lanes == 8
    for start in range(0, 3200, 64):
        assert len(set(shards_of(order.ids(start, start + 64), sizes))) >= 8
    neighbours = shards_of(order.ids(0, 3200), sizes)
    assert (neighbours[1:] == neighbours[:-1]).mean() < 0.01
    few = Order([50] * 8, seed=3)
    assert len(set(shards_of(few.ids(0, 64), [50] * 8))) == 8, "of few shards, all are mixed"


def traffic(order: Order, sizes: list[int], batch: int, world: int) -> list[set[int]]:
    """The shards that each rank reads in the second epoch, the batches at its borders included."""
    plan = Plan(order.samples, batch, 3)
    read: list[set[int]] = [set() for _ in range(world)]
    shards = np.repeat(np.arange(len(sizes)), sizes)
    for step in range(plan.step_at(order.samples), plan.step_at(2 * order.samples) + 1):
        positions, ids = order.batch(*plan.span(step))
        for rank in range(world):
            mine = slice(*slice_span(0, len(ids), rank, world))
            inside = positions[mine] // order.samples == 1
            read[rank].update(shards[ids[mine][inside]].tolist())
    return read


@pytest.mark.parametrize("world", [1, 2, 4, 8, 16])
def test_every_shard_is_read_by_one_rank_where_lanes_divide(world: int) -> None:
    order, sizes = Order([50] * 512, seed=3, lanes=16), [50] * 512  # 25,600 samples are whole batches
    read = traffic(order, sizes, 128, world)
    assert [len(shards) for shards in read] == [512 // world] * world
    assert len(set.union(*read)) == 512


@pytest.mark.parametrize("world", [2, 3, 5, 7, 12, 16, 32])
@pytest.mark.parametrize("batch", [32, 100, 128, 250])
def test_the_shards_that_a_rank_reads_are_bounded(world: int, batch: int) -> None:
    """Its part of the lanes, one more at each end, and by how much batches differ (docs/decisions/0007-lanes.md)."""
    sizes = np.random.default_rng(0).integers(20, 60, 300).tolist()
    order = Order(sizes, seed=5, lanes=16)
    uneven = 2 * np.log2(order.lanes) * order.lanes / batch  # twice: a batch at the border has two epochs
    lanes = order.lanes / world + 2 + 2 * uneven
    lane_shards = order.samples / order.lanes / min(sizes) + 1
    read = traffic(order, sizes, batch, world)
    assert max(map(len, read)) <= lanes * lane_shards
    assert sum(map(len, read)) <= len(sizes) * (1 + 2 * world / order.lanes) * (1 + uneven)
    assert len(set.union(*read)) == len(sizes)


def test_any_run_of_turns_is_spread_evenly_over_the_lanes() -> None:
    """Any number of consecutive positions has its share of the first x lanes, up to log2(lanes)."""
    lanes = 64
    order = Order([100] * 64, seed=0, lanes=lanes)
    for start in range(0, 2 * lanes, 5):
        for length in (1, 3, 10, 33, 64, 100):
            places, _ = order._find(start, start + length)
            below = np.searchsorted(np.sort(places), np.arange(lanes + 1) * 100)
            assert np.abs(below - length * np.arange(lanes + 1) / lanes).max() <= np.log2(lanes)


def test_a_set_costs_its_shards_not_its_samples() -> None:
    order = Order([10**9] * 1000, seed=0)
    positions, ids = order.batch(10**12 - 100, 10**12 + 100)
    assert set(positions // 10**12) == {0, 1} and 0 <= ids.min() < ids.max() < 10**12


def test_the_order_is_fixed_for_good() -> None:
    """Positions in checkpoints mean something only as long as these numbers stay."""
    order = Order([5, 3, 4], seed=7, window=2, lanes=2)
    assert order.ids(8, 16).tolist() == [7, 8, 5, 11, 8, 0, 5, 3]
    assert [values.tolist() for values in order.batch(8, 16)] == [
        [10, 14, 8, 12, 13, 9, 15, 11],
        [5, 5, 7, 8, 0, 8, 3, 11],
    ]


@pytest.mark.parametrize("total", range(0, 40, 3))
@pytest.mark.parametrize("batch", [1, 4, 7, 16])
def test_plan_covers_every_position_once(total: int, batch: int) -> None:
    plan = Plan(total, batch, 1)
    spans = [plan.span(step) for step in range(plan.steps)]
    assert [p for start, stop in spans for p in range(start, stop)] == list(range(total))
    assert plan.steps == -(-total // batch)
    sizes = [stop - start for start, stop in spans]
    assert all(size == batch for size in sizes[:-2])
    if total >= batch and sizes:
        assert max(sizes) <= batch
        assert min(sizes) >= batch // 2
    for step, (start, stop) in enumerate(spans):
        assert {plan.step_at(position) for position in range(start, stop)} == {step}
    assert plan.step_at(total) == plan.steps


def test_plan_runs_across_epochs_and_counts_fractions() -> None:
    plan = Plan(100, 32, 2.5)
    assert (plan.total, plan.steps) == (250, 8)
    assert plan.span(3) == (96, 128)
    assert [plan.span(step) for step in (6, 7)] == [(192, 221), (221, 250)]
    assert Plan(100, 32, 0).steps == 0
    with pytest.raises(IndexError, match="step 8 is not among the 8 steps"):
        plan.span(8)


@pytest.mark.parametrize("world", range(1, 12))
def test_slices_partition_a_span_evenly(world: int) -> None:
    for start, stop in [(0, 0), (3, 4), (10, 50), (7, 1007)]:
        slices = [slice_span(start, stop, rank, world) for rank in range(world)]
        assert [p for a, b in slices for p in range(a, b)] == list(range(start, stop))
        sizes = [b - a for a, b in slices]
        assert max(sizes) - min(sizes) <= 1


def test_no_samples_is_an_error_for_the_reader() -> None:
    with pytest.raises(UserError, match="holds no samples") as caught:
        Order([], 0)
    assert "\n" not in str(caught.value)


def test_fewer_samples_than_a_batch_is_an_error_for_the_reader() -> None:
    with pytest.raises(UserError) as caught:
        check_divisible(Plan(100, 128, 4), workers=1)
    assert str(caught.value) == (
        "the training split has 100 samples, fewer than one global batch of 128: "
        "prepare more images or use --set training.batch=100"
    )


def test_a_batch_that_cannot_be_divided_is_an_error_for_the_reader() -> None:
    check_divisible(Plan(100, 8, 4), workers=4, micro_batches=2)
    with pytest.raises(UserError) as caught:
        check_divisible(Plan(101, 8, 1), workers=4, micro_batches=2)
    assert str(caught.value) == (
        "a step of 6 samples cannot be divided among 4 workers x 2 micro-batches: "
        "use --set training.batch=16 or more, or fewer workers"
    )
    check_divisible(Plan(101, 16, 1), workers=4, micro_batches=2)
