"""What a group of workers is to do, one piece of work after another: an actor between a command and its workers.

The actor handles bytes: it needs neither torch nor the code of the work, and so it is there in a moment.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle

from components.errors import UserError
from infra.errors import OutsideError
from pipelines.workers.actors import start_here


@dataclass(frozen=True)
class Work:
    """``function(argument)``, for the worker of one rank; or for all of them: then the first one's result counts."""

    function: Callable[[Any], Any]
    argument: Any
    rank: int | None  # None: for all of them
    retries: int  # so many times it is begun again after an error, or after the loss of a worker


@dataclass(frozen=True)
class Outcome:
    """How a piece of work ended: with a result, or with what ended it."""

    value: Any = None
    errors: tuple[Exception, ...] = ()  # of the last try, of some workers or of all; empty where it ended well
    withdrawn: bool = False  # before anybody had begun


@dataclass
class Failure:
    """Why workers failed, as a message, and what follows from it."""

    outcome: bytes
    final: bool  # it would fail again
    counts: bool  # as one of the tries


@dataclass
class _Item:
    work: bytes
    rank: int | None
    retries: int
    begun: bool = False
    failures: int = 0
    outcome: bytes | None = None


class _Queue:
    """The actor. Its methods wait without keeping each other from running."""

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._closed = False
        self._changed = asyncio.Condition()

    # For the command

    async def put(self, work: bytes, rank: int | None, retries: int) -> int:
        """Add a piece of work; returns its place."""
        self._items.append(_Item(work, rank, retries))
        await self._tell()
        return len(self._items) - 1

    async def outcome(self, place: int, seconds: float) -> bytes | None:
        """How the work at a place ended; waits for it, so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._items[place].outcome is not None)
        return self._items[place].outcome

    async def withdraw(self, place: int) -> None:
        """Nobody begins the work at a place any more; nothing happens where somebody has."""
        if not self._items[place].begun:
            await self._end(place, pickled(Outcome(withdrawn=True)))

    async def close(self) -> None:
        """There will be no more work: the workers end when they have done what is there."""
        self._closed = True
        await self._tell()

    # For the workers

    async def first(self) -> int:
        """The place of the first work that has not ended, with which a group begins that has just started."""
        return next((k for k, item in enumerate(self._items) if item.outcome is None), len(self._items))

    async def wait(self, place: int) -> bool:
        """Wait for work at a place; returns whether there will be any. Who asks may die before the answer."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or len(self._items) > place)
        return len(self._items) > place

    async def begin(self, place: int, rank: int) -> bytes:
        """The work at a place, which is under way from now on; empty where there is none, or none for that rank."""
        item = self._items[place]
        if item.rank not in (None, rank):
            return b""
        item.begun = True
        return item.work

    async def done(self, place: int, outcome: bytes) -> None:
        """The work at a place has ended well."""
        await self._end(place, outcome)

    # For Ray Train, when it has found that workers failed, and is about to start others

    async def failed(self, together: Failure, by_rank: dict[int, Failure]) -> None:
        """What workers did failed: each its own work, or all the one that they do ``together``.

        All work that was under way is begun again, by the workers that come after. What others did is no try of theirs;
        but where nobody's work failed, as those had none, all count it: a loss does not come for ever.
        """
        under_way = {k: item for k, item in enumerate(self._items) if item.begun and item.outcome is None}
        hit = {k: item for k, item in under_way.items() if item.rank is None or item.rank in by_rank}
        for place, item in (hit or under_way).items():
            failure = together if item.rank is None else by_rank.get(item.rank, together)
            item.failures += failure.counts
            if failure.final or item.failures > item.retries:
                await self._end(place, failure.outcome)

    async def _end(self, place: int, outcome: bytes) -> None:
        item = self._items[place]
        if item.outcome is None:
            item.outcome, item.work = outcome, b""
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@dataclass(frozen=True)
class WorkQueue:
    """The handle of the actor; may be sent anywhere."""

    actor: Any

    @classmethod
    def open(cls) -> "WorkQueue":
        """Start the actor beside this process. Ray must be connected."""
        return cls(start_here(ray.remote(_Queue), {"max_concurrency": 1000}))

    def put(self, work: Work) -> int:
        """Add a piece of work; returns its place."""
        place: int = ray.get(self.actor.put.remote(pickled(work), work.rank, work.retries))
        return place

    def outcome(self, place: int, seconds: float) -> Outcome | None:
        """How the work at a place ended; None where it has not ended after so many seconds.

        Raises OutsideError where the actor is gone.
        """
        try:
            found: bytes | None = ray.get(self.actor.outcome.remote(place, seconds))
        except ray.exceptions.RayActorError as error:
            raise OutsideError(f"the queue of the workers is gone ({error}): the same command goes on") from error
        return unpickled(found) if found else None

    def withdraw(self, place: int) -> None:
        """Take work back that nobody has begun; its outcome says whether that was so."""
        self.actor.withdraw.remote(place)

    def close(self) -> None:
        """Let the workers end."""
        self.actor.close.remote()

    def first(self) -> int:
        """For the first worker of a group that has just started: the place of the work to begin with."""
        place: int = ray.get(self.actor.first.remote())
        return place

    def wait(self, place: int) -> bool:
        """For every worker: wait for work at a place; returns whether there will be any."""
        there: bool = ray.get(self.actor.wait.remote(place))
        return there

    def begin(self, place: int, rank: int) -> bytes:
        """For every worker: the bytes of the work at a place. Empty where it is another one's, was withdrawn before
        anybody had begun, or has ended."""
        work: bytes = ray.get(self.actor.begin.remote(place, rank))
        return work

    def done(self, place: int, value: Any) -> None:
        """For the worker whose result counts: the work at a place has ended with it."""
        ray.get(self.actor.done.remote(place, pickled(Outcome(value))))

    def failed(self, errors: dict[int, Exception]) -> None:
        """For Ray Train: the errors of workers, by rank.

        What a user has to mend is not tried again; what ended because a machine was reclaimed counts as no try.
        """

        def told(*causes: Exception) -> Failure:
            final = any(isinstance(cause, UserError) for cause in causes)
            counts = not any(getattr(loss_in(cause), "preempted", False) for cause in causes)
            return Failure(failure(causes), final, counts)

        together = told(*(errors[rank] for rank in sorted(errors)))
        self.actor.failed.remote(together, {rank: told(error) for rank, error in errors.items()})


def loss_in(error: Exception) -> Exception:
    """What Ray has to say of a worker that does not answer; any other error as it is."""
    found: Exception = getattr(error, "health_check_failure", error)
    return found


def pickled(message: Work | Outcome) -> bytes:
    """A message, as Ray would send it."""
    content: bytes = cloudpickle.dumps(message)  # type: ignore[no-untyped-call]  # Ray gives it no types
    return content


def unpickled(content: bytes) -> Any:
    """What `pickled` was given."""
    return cloudpickle.loads(content)


def failure(causes: tuple[Exception, ...]) -> bytes:
    """The outcome of work that errors ended, as a message."""
    try:
        return pickled(Outcome(errors=causes))
    except Exception:  # whatever an error holds that cannot be sent says so in its own way; its words are enough
        return pickled(Outcome(errors=tuple(RuntimeError(repr(cause)) for cause in causes)))
