"""Ray tasks, waited for: many of them, few at a time, or one."""

from collections.abc import Iterable, Iterator
from typing import Any

import ray

from infra import ending

POLL_S = 0.5
CANCEL_S = 5.0  # for a task to end as it would on Ctrl-C; then its process is killed


def in_parallel(task: Any, work: Iterable[tuple[Any, ...]], flying: int) -> Iterator[Any]:
    """Results of a Ray task for each tuple of arguments, as they come; at most ``flying`` are under way.

    ``work`` is asked for no more than that: it may be longer than fits into memory. Raises Interrupted, after what is
    under way has ended, once the end of the command has begun.
    """
    waiting = iter(work)
    running: list[Any] = []
    while True:
        while len(running) < flying and (arguments := next(waiting, None)) is not None:
            running.append(task.remote(*arguments))
        if not running:
            return
        done, running = _wait(running)
        yield from ray.get(done)


def result_of(reference: Any) -> Any:
    """The result of one Ray task. Raises Interrupted, after it has ended, once the end of the command has begun."""
    done, _ = _wait([reference])
    return ray.get(done[0])


def _wait(running: list[Any]) -> tuple[list[Any], list[Any]]:
    """Wait until one is done; all of them are cancelled once the end of the command has begun."""
    try:
        while not ending.begun():
            done, others = ray.wait(running, timeout=POLL_S)
            if done:
                return done, others
        ending.check()
        raise AssertionError("the end has begun")
    except KeyboardInterrupt:
        _cancel(running)
        raise


def _cancel(running: list[Any]) -> None:
    """End Ray tasks: they may tidy up, for a while."""
    for reference in running:
        ray.cancel(reference)
    _, left = ray.wait(running, num_returns=len(running), timeout=CANCEL_S)
    for reference in left:
        ray.cancel(reference, force=True)
