"""Where trainings, Ray Tune and the sweep meet: an actor that passes probes one way and verdicts the other.

A trial lives in three places. Its steps run in the sweep's own process, as those of every command do; its training in
Ray Train's workers; and in Ray Tune it is a function that does nothing but report what the training says. A worker
waits after each probe until Tune's scheduler has decided, so a trial never trains past the moment at which it is
stopped. Nothing here needs torch: Tune starts a process per trial that is under way.
"""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from infra.errors import OutsideError
from pipelines.workers.actors import start_here

PROBE, STEP, ENDED = "probe", "step", "ended"  # keys of what Tune is told; the scheduler goes by the first two


@dataclass(frozen=True)
class Event:
    """What happened in a trial: a probe at a step, or its end, with its last probe."""

    step: int
    score: float
    ended: bool = False

    def for_tune(self) -> dict[str, Any]:
        """As Tune is told of it."""
        return {STEP: self.step, PROBE: self.score, ENDED: self.ended}


class _Trial:
    """The probes of one trial so far, and what was decided about them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.decided = 0  # so many of the events may go on
        self.stopped = False
        self.changed = asyncio.Condition()


class _Exchange:
    """The actor. Its methods wait without keeping each other from running."""

    def __init__(self) -> None:
        self._trials: dict[int, _Trial] = {}

    async def say(self, number: int, event: Event) -> int:
        """Add what happened in a trial; returns its place. A probe that was reported before is not added again."""
        trial = self._of(number)
        async with trial.changed:
            known = [k for k, e in enumerate(trial.events) if not e.ended and e.step == event.step]
            if known and not event.ended:
                return known[0]
            trial.events.append(event)
            trial.changed.notify_all()
            return len(trial.events) - 1

    async def judge(self, number: int, event: Event) -> bool:
        """Add a probe and wait for the verdict: whether the training goes on."""
        place, trial = await self.say(number, event), self._of(number)
        async with trial.changed:
            await trial.changed.wait_for(lambda: trial.decided > place or trial.stopped)
            return trial.decided > place

    async def event(self, number: int, place: int) -> Event:
        """What happened in a trial at that place; waits for it."""
        trial = self._of(number)
        async with trial.changed:
            await trial.changed.wait_for(lambda: len(trial.events) > place)
            return trial.events[place]

    async def go_on(self, number: int, place: int) -> None:
        """The verdict on the event at that place, and on those before: the training goes on."""
        trial = self._of(number)
        async with trial.changed:
            trial.decided = max(trial.decided, place + 1)
            trial.changed.notify_all()

    async def stop(self, number: int) -> None:
        """The verdict on all that is not decided yet: the training stops."""
        trial = self._of(number)
        async with trial.changed:
            trial.stopped = True
            trial.changed.notify_all()

    def _of(self, number: int) -> _Trial:
        return self._trials.setdefault(number, _Trial())


@dataclass(frozen=True)
class ProbeExchange:
    """The handle of the actor; may be sent anywhere."""

    actor: Any

    @classmethod
    def open(cls) -> "ProbeExchange":
        """Start the actor beside this process. Ray must be connected."""
        return cls(start_here(ray.remote(_Exchange), {"max_concurrency": 1000}))

    def close(self) -> None:
        """End the actor."""
        if ray.is_initialized():
            ray.kill(self.actor)

    def judge(self, number: int, step: int, score: float) -> bool:
        """Tell of a probe and wait: whether the training goes on."""
        return bool(self._ask("judge", number, Event(step, score)))

    def tell(self, number: int, step: int, score: float) -> None:
        """Tell of a probe that was decided upon before."""
        self._ask("say", number, Event(step, score))

    def end(self, number: int, step: int, score: float) -> None:
        """Tell that a trial has ended; ``score`` is that of its last probe."""
        self._ask("say", number, Event(step, score, ended=True))

    def stop(self, number: int) -> None:
        """Have a trial's training stopped at its next probe, or at the one that waits."""
        self._ask("stop", number)

    def release(self, number: int) -> None:
        """Nobody decides on a trial any more: its training goes on to the end."""
        self._ask("go_on", number, sys.maxsize)

    def follow(self, number: int) -> None:
        """The body of a trial in Ray Tune: report what happens until it ends, or until Tune ends this."""
        place = 0
        while True:
            event: Event = self._ask("event", number, place)
            tune.report(
                event.for_tune()
            )  # returns when Tune has decided to go on; where it stops the trial, it does not
            if event.ended:
                return
            self._ask("go_on", number, place)
            place += 1

    def _ask(self, method: str, *arguments: Any) -> Any:
        if not ray.is_initialized():  # or Ray would start anew, for an actor that is gone
            raise OutsideError("Ray was stopped: the sweep cannot go on; the same command continues it")
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments))
        except ray.exceptions.RayError as error:
            raise OutsideError(f"the sweep's exchange of probes does not answer ({type(error).__name__})") from error


@dataclass(frozen=True)
class TrialJudge:
    """What the workers of one trial ask after each probe."""

    exchange: ProbeExchange | None  # None: nobody but the two below has a say
    number: int
    floor: float  # a probe that is not above it has collapsed
    until: int | None  # the step at which the trial stops in any case

    def __call__(self, step: int, score: float) -> bool:
        """Whether the training goes on."""
        if score <= self.floor:
            return False
        return (self.exchange is None or self.exchange.judge(self.number, step, score)) and step != self.until
