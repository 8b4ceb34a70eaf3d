"""The actor between trainings and Ray Tune, without Ray: its methods are coroutines."""

import asyncio
import sys

from pipelines.sweeps.probe_exchange import Event, _Exchange


def probe(step: int, ended: bool = False) -> Event:
    return Event(step, 0.5, ended)


def test_a_training_waits_for_its_verdict() -> None:
    async def story() -> None:
        exchange = _Exchange()
        judged = asyncio.create_task(exchange.judge(7, probe(10)))
        assert (await exchange.event(7, 0)).step == 10
        await asyncio.sleep(0)
        assert not judged.done()
        await exchange.go_on(7, 0)
        assert await judged is True

    asyncio.run(story())


def test_a_stopped_trial_stops_at_the_probe_that_waits_and_at_later_ones() -> None:
    async def story() -> None:
        exchange = _Exchange()
        waiting = asyncio.create_task(exchange.judge(1, probe(10)))
        await exchange.event(1, 0)
        await exchange.stop(1)
        assert await waiting is False and await exchange.judge(1, probe(20)) is False
        other = asyncio.create_task(exchange.judge(2, probe(10)))  # another trial has nothing to do with it
        await exchange.event(2, 0)
        await exchange.go_on(2, 0)
        assert await other is True

    asyncio.run(story())


def test_a_probe_that_comes_again_has_the_same_verdict() -> None:
    """A worker that was killed begins again at its checkpoint, and reports what it had reported."""

    async def story() -> None:
        exchange = _Exchange()
        first = asyncio.create_task(exchange.judge(1, probe(10)))
        await exchange.event(1, 0)
        await exchange.go_on(1, 0)
        assert await first and await exchange.judge(1, probe(10))
        await exchange.say(1, probe(10, ended=True))
        assert (await exchange.event(1, 1)).ended

    asyncio.run(story())


def test_a_new_listener_hears_everything() -> None:
    """Tune's part of a trial was killed: its next one reports from the start, and trainings do not wait for it."""

    async def story() -> None:
        exchange = _Exchange()
        for step in (10, 20):
            await exchange.say(1, probe(step))
        await exchange.go_on(1, 1)
        assert [(await exchange.event(1, k)).step for k in (0, 1)] == [10, 20]
        assert await exchange.judge(1, probe(20)) is True

    asyncio.run(story())


def test_a_trial_that_nobody_judges_any_more_goes_on_to_its_end() -> None:
    async def story() -> None:
        exchange = _Exchange()
        waiting = asyncio.create_task(exchange.judge(1, probe(10)))
        await exchange.event(1, 0)
        await exchange.go_on(1, sys.maxsize)
        assert await waiting is True and await exchange.judge(1, probe(20)) is True

    asyncio.run(story())
