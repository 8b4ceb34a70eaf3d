"""The queue itself, without Ray: whose work it is, and who counts a failure."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

from components.errors import UserError
from pipelines.workers.work_queue import Failure, WorkQueue, _Queue, unpickled

LOST, RECLAIMED = Failure(b"lost", False, True), Failure(b"gone", False, False)
ADVICE = Failure(b"use less", True, True)
ALL = Failure(b"all", False, True)


def story(tell: Callable[[_Queue], Awaitable[None]], *work: tuple[bytes, int | None, int]) -> list[bytes | None]:
    """What became of work, (bytes, rank, retries), that its workers have begun."""

    async def run() -> list[bytes | None]:
        queue = _Queue()
        for place, (content, rank, retries) in enumerate(work):
            assert await queue.put(content, rank, retries) == place
            assert await queue.begin(place, rank or 0) == content
        await tell(queue)
        return [await queue.outcome(place, 0) for place in range(len(work))]

    return asyncio.run(run())


def test_work_of_one_rank_is_no_other_ones() -> None:
    async def tell(queue: _Queue) -> None:
        assert [await queue.begin(0, rank) for rank in (0, 1)] == [b"", b"a"]
        assert [await queue.begin(1, rank) for rank in (0, 1)] == [b"b", b"b"]
        await queue.done(1, b"well")
        assert [await queue.begin(1, rank) for rank in (0, 1)] == [b"", b""]  # whoever comes after it
        assert await queue.first() == 0
        await queue.done(0, b"too")
        assert await queue.first() == 2

    assert story(tell, (b"a", 1, 0), (b"b", None, 0)) == [b"too", b"well"]


def test_who_failed_counts_it_and_the_others_do_not() -> None:
    async def once(queue: _Queue) -> None:
        await queue.failed(ALL, {1: LOST})

    async def twice(queue: _Queue) -> None:
        await once(queue)
        await once(queue)

    assert story(once, (b"a", 0, 0), (b"b", 1, 1)) == [None, None]
    assert story(twice, (b"a", 0, 0), (b"b", 1, 1)) == [None, b"lost"]


def test_each_is_told_its_own_failure_and_all_the_one_of_what_they_do_together() -> None:
    async def tell(queue: _Queue) -> None:
        await queue.failed(ALL, {0: ADVICE, 1: LOST})

    assert story(tell, (b"a", 0, 5), (b"b", 1, 0)) == [b"use less", b"lost"]
    assert story(tell, (b"a", None, 0)) == [b"all"]


def test_a_loss_of_somebody_without_work_does_not_come_for_ever() -> None:
    async def tell(queue: _Queue) -> None:
        await queue.failed(ALL, {2: LOST})

    assert story(tell, (b"a", 0, 0), (b"b", 1, 1)) == [b"all", None]


def test_a_machine_that_was_reclaimed_counts_as_no_try() -> None:
    async def tell(queue: _Queue) -> None:
        for _ in range(3):
            await queue.failed(RECLAIMED, {0: RECLAIMED})

    assert story(tell, (b"a", 0, 0)) == [None]


def test_what_has_not_begun_or_has_ended_counts_nothing() -> None:
    async def tell(queue: _Queue) -> None:
        await queue.done(0, b"well")
        await queue.put(b"later", 0, 0)
        await queue.failed(ALL, {0: LOST})
        assert await queue.outcome(1, 0) is None

    assert story(tell, (b"a", 0, 0)) == [b"well"]


def test_what_is_told_of_each_rank() -> None:
    told: list[tuple[Failure, dict[int, Failure]]] = []

    actor = SimpleNamespace(failed=SimpleNamespace(remote=lambda *what: told.append(what)))
    WorkQueue(actor).failed({1: UserError("use less"), 0: ValueError("broken")})
    ((together, by_rank),) = told
    assert together.final and together.counts and by_rank[1].final and not by_rank[0].final
    assert [str(error) for error in unpickled(together.outcome).errors] == ["broken", "use less"]
    assert [str(error) for error in unpickled(by_rank[0].outcome).errors] == ["broken"]
