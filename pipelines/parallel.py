"""Many Ray tasks, few at a time."""

from collections.abc import Iterable, Iterator
from typing import Any

import ray


def in_parallel(task: Any, work: Iterable[tuple[Any, ...]], flying: int) -> Iterator[Any]:
    """Results of a Ray task for each tuple of arguments, as they come; at most ``flying`` are under way.

    ``work`` is asked for no more than that: it may be longer than fits into memory.
    """
    waiting = iter(work)
    running: list[Any] = []
    while True:
        while len(running) < flying and (arguments := next(waiting, None)) is not None:
            running.append(task.remote(*arguments))
        if not running:
            return
        done, running = ray.wait(running)
        yield from ray.get(done)
