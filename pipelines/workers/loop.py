"""What every worker of a group runs: one piece of work after another, together or alone, until there is none left."""

import traceback
from typing import Any

from ray.train.collective import broadcast_from_rank_zero

from components.parallel import World
from pipelines.workers.process_state import ProcessState
from pipelines.workers.work_queue import Work, WorkQueue, unpickled


def work_through(config: dict[str, WorkQueue]) -> None:
    """Do what the queue holds, config["queue"]: each time in a process like a fresh one.

    What the work raises ends the worker, and Ray Train starts the whole group anew: nobody goes on in a process in
    which something went wrong, and nobody waits for one that is gone.
    """
    queue, state, rank = config["queue"], ProcessState(), World.current().rank
    place: int = broadcast_from_rank_zero(queue.first() if rank == 0 else None)
    while queue.wait(place):
        if content := queue.begin(place, rank):
            work: Work = unpickled(content)
            value = _perform(work)
            if rank == (work.rank or 0):
                queue.done(place, value)
            del work, value
            state.restore()
        place += 1


def _perform(work: Work) -> Any:
    try:
        return work.function(work.argument)
    except Exception as error:  # raised again: it only gets its story
        error.add_note("".join(traceback.format_exception(error)))  # the traceback itself stays in this process
        raise
