"""Order, plan and slices: permutations, exact partitions, and the same stream whatever the number of workers."""

import numpy as np
import pytest

from components.data.order import Order, Plan, check_divisible, slice_span
from components.data.scramble import make_key, permute, uniforms
from components.errors import UserError


def random_cases(count: int) -> list[tuple[np.random.Generator, list[int], int, int]]:
    """(generator, shard sizes, seed, window)."""
    cases = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 40, rng.integers(1, 30)).tolist()
        cases.append((rng, sizes, int(rng.integers(1000)), int(rng.integers(1, 10))))
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


@pytest.mark.parametrize("case", random_cases(20))
def test_every_epoch_is_a_permutation(case: tuple[np.random.Generator, list[int], int, int]) -> None:
    _, sizes, seed, window = case
    order = Order(sizes, seed, window)
    n = order.samples
    epochs = order.ids(0, 3 * n).reshape(3, n)
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(n))
    if n > 20:
        assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("case", random_cases(20))
def test_a_span_does_not_depend_on_how_it_is_asked_for(case: tuple[np.random.Generator, list[int], int, int]) -> None:
    rng, sizes, seed, window = case
    whole = Order(sizes, seed, window).ids(0, 4 * sum(sizes))
    for _ in range(10):
        start, stop = np.sort(rng.integers(0, len(whole), 2))
        assert np.array_equal(Order(sizes, seed, window).ids(int(start), int(stop)), whole[start:stop])


@pytest.mark.parametrize("case", random_cases(20))
def test_changing_worlds_keep_the_exact_stream(case: tuple[np.random.Generator, list[int], int, int]) -> None:
    rng, sizes, seed, window = case
    order = Order(sizes, seed, window)
    plan = Plan(order.samples, min(order.samples, int(rng.integers(1, 50))), 2.3)
    seen = []
    for step in range(plan.steps):
        world = int(rng.integers(1, 9))
        for rank in range(world):
            seen.append(order.ids(*slice_span(*plan.span(step), rank, world)))
    assert np.array_equal(np.concatenate(seen), order.ids(0, plan.total))


def test_a_window_bounds_the_shards_that_are_touched_at_once() -> None:
    order = Order([50] * 40, seed=3, window=4)
    for start in range(0, 2000, 25):
        assert len(order.shards(start, start + 25)) <= 8
    first = order.ids(0, 200)
    assert len(order.shards(0, 200)) == 4
    assert len(set((first[:50] // 50).tolist())) == 4, "samples of the window's shards are mixed"


def test_the_order_is_fixed_for_good() -> None:
    """Positions in checkpoints mean something only as long as these numbers stay."""
    assert Order([5, 3, 4], seed=7, window=2).ids(8, 16).tolist() == [9, 11, 8, 10, 5, 9, 10, 8]


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
