"""The actor between trainings and Ray Tune, without Ray: its methods are coroutines."""

import asyncio
from typing import Any

from pipelines.sweeps.probe_exchange import ENDED, PROBE, STEP, _Counter


def probe(step: int, ended: bool = False) -> dict[str, Any]:
    return {STEP: step, PROBE: 0.5, ENDED: ended}


def test_a_training_waits_for_its_verdict() -> None:
    async def story() -> None:
        desk = _Counter()
        judged = asyncio.create_task(desk.judge(7, probe(10)))
        assert (await desk.event(7, 0))[STEP] == 10
        await asyncio.sleep(0)
        assert not judged.done()
        await desk.go_on(7, 0)
        assert await judged is True

    asyncio.run(story())


def test_a_stopped_trial_stops_at_the_probe_that_waits_and_at_later_ones() -> None:
    async def story() -> None:
        desk = _Counter()
        waiting = asyncio.create_task(desk.judge(1, probe(10)))
        await desk.event(1, 0)
        await desk.stop(1)
        assert await waiting is False and await desk.judge(1, probe(20)) is False
        other = asyncio.create_task(desk.judge(2, probe(10)))  # another trial has nothing to do with it
        await desk.event(2, 0)
        await desk.go_on(2, 0)
        assert await other is True

    asyncio.run(story())


def test_a_probe_that_comes_again_has_the_same_verdict() -> None:
    """A worker that was killed begins again at its checkpoint, and reports what it had reported."""

    async def story() -> None:
        desk = _Counter()
        first = asyncio.create_task(desk.judge(1, probe(10)))
        await desk.event(1, 0)
        await desk.go_on(1, 0)
        assert await first and await desk.judge(1, probe(10))
        await desk.say(1, probe(10, ended=True))
        assert (await desk.event(1, 1))[ENDED]

    asyncio.run(story())


def test_a_new_listener_hears_everything() -> None:
    """Tune's part of a trial was killed: its next one reports from the start, and trainings do not wait for it."""

    async def story() -> None:
        desk = _Counter()
        for step in (10, 20):
            await desk.say(1, probe(step))
        await desk.go_on(1, 1)
        assert [(await desk.event(1, k))[STEP] for k in (0, 1)] == [10, 20]
        assert await desk.judge(1, probe(20)) is True

    asyncio.run(story())
