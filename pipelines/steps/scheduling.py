"""Runs steps: independent ones side by side, each within the share of the machine that it asks for."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from components.errors import Diverged
from infra import ending
from infra.errors import Interrupted
from infra.tracking import open_tracker
from pipelines import terminal
from pipelines.session import Session
from pipelines.steps.results import Finished, Results, StepResult, V
from pipelines.steps.room import check_room
from pipelines.steps.step import Planned, Step, in_order
from pipelines.steps.worker_log import Progress
from pipelines.steps.workflow import Workflow
from pipelines.workers.shape import Need

POLL_S = 0.2
SLACK = 1e-6  # of shares of a GPU, which are added and taken away

Report = Callable[[Workflow, list[StepResult[V] | Diverged]], None]


def plan(steps: Sequence[Step[Any]], session: Session) -> list[Planned]:
    """What `run` would do. Nothing is written, not even a database."""
    session.check_home()
    finished = Finished(open_tracker(session.home, session.tracking_uri))
    check_room(steps, session, finished)
    return [
        Planned(step.name, step.label, step.fingerprint, finished.find(step) is not None) for step in in_order(steps)
    ]


def run(step: Step[V], session: Session, name: str) -> StepResult[V]:
    """Run what is not finished of a step and all that it consumes, side by side where the cores allow it.

    When a step fails, those that do not need it are finished first; then its error is raised.
    """
    with _workflow([step], name, session) as (workflow, watch):
        futures = _submit(in_order([step]), workflow, watch)
        return futures[step.fingerprint].result()


def run_and_report(steps: Sequence[Step[V]], session: Session, name: str, report: Report[V]) -> None:
    """As `run`, of several steps; a training that diverged, and what needs it, is a result among the others.

    ``report`` is called with the workflow and the results, in the order of ``steps``, before the workflow ends, to add
    to its run.
    """
    with _workflow(steps, name, session) as (workflow, watch):
        futures = _submit(in_order(steps), workflow, watch)
        report(workflow, [_result_or_divergence(futures[step.fingerprint]) for step in steps])


@contextmanager
def _workflow(steps: Sequence[Step[Any]], name: str, session: Session) -> Iterator[tuple[Workflow, terminal.Watch]]:
    session.check_home()
    finished = Finished(open_tracker(session.home, session.tracking_uri))
    check_room(steps, session, finished)
    with (
        terminal.Watch(session.quiet) as watch,
        Workflow(name, session, finished, watch.say, _shown_by(watch)) as workflow,
    ):
        yield workflow, watch


def _result_or_divergence(future: Future[StepResult[Any]]) -> StepResult[Any] | Diverged:
    try:
        return future.result()
    except Diverged as error:
        return error


def _submit(
    ordered: Sequence[Step[Any]], workflow: Workflow, watch: terminal.Watch
) -> dict[str, Future[StepResult[Any]]]:
    """Run the steps, inputs first in ``ordered``; returns when all have ended, well or not."""
    capacity = Capacity(workflow.session, max(step.need.cores for step in ordered))
    futures: dict[str, Future[StepResult[Any]]] = {}

    def execute(place: int, step: Step[Any]) -> StepResult[Any]:
        inputs = Results(futures[other.fingerprint].result() for other in step.inputs)
        before = Results(futures[other.fingerprint].result() for other in step.after)
        if step.ready:
            step.ready(before)
        result = workflow.perform(step, inputs, lambda: capacity.lend(step.need, place))
        watch.finish(result.run_id, step.label, "reused" if result.reused else "done")
        return result

    pool = ThreadPoolExecutor(len(ordered), thread_name_prefix="step")
    try:
        for place, step in enumerate(ordered):
            futures[step.fingerprint] = pool.submit(execute, place, step)
        while wait(futures.values(), timeout=POLL_S).not_done:
            ending.check()
        ending.check()
    except KeyboardInterrupt:
        unhandled = not ending.begun()  # of somebody's own program, which may go on after it
        if unhandled:
            ending.begin()
        watch.ending()
        pool.shutdown(wait=False, cancel_futures=True)
        workflow.interrupt()
        capacity.wake()
        pool.shutdown()
        ending.tell("; ".join(_kept(futures.values())))
        if unhandled:
            ending.reset()
        raise
    finally:
        pool.shutdown()
    return futures


def _kept(futures: Iterable[Future[StepResult[Any]]]) -> list[str]:
    """What the steps that were interrupted say of what they keep."""
    errors = [future.exception() for future in futures if not future.cancelled()]
    return list(dict.fromkeys(str(error) for error in errors if isinstance(error, Interrupted) and str(error)))


def _shown_by(watch: terminal.Watch) -> Callable[[str, str, Progress], None]:
    return lambda run_id, label, progress: watch.update(run_id, label, progress.done, progress.total, progress.text)


class Capacity:
    """The cores, or GPUs, of the cluster, lent to steps: none waits inside Ray while others hold parts of its share."""

    def __init__(self, session: Session, most: int) -> None:
        """``most``: cores that one step may ask for; a private Ray instance is started with at least so many."""
        self._session, self._most = session, most
        self._all = self._free = 0.0
        self._gpus = False
        self._waiting: list[int] = []
        self._changed = threading.Condition()

    @contextmanager
    def lend(self, need: Need, place: int) -> Iterator[None]:
        """Wait for what a step needs, or for all there are; of those who wait, the lowest ``place`` is served first, so
        that what was begun is finished and nobody starves. Connects to Ray, which the first step to get here needs."""
        with self._changed:
            if not self._all:
                from infra.cluster import connect

                resources = connect(self._session.address, self._most)
                self._gpus = bool(resources.get("GPU"))
                self._all = self._free = resources["GPU" if self._gpus else "CPU"]
            taken = min(need.share(self._gpus), self._all)
            self._waiting.append(place)
            self._changed.wait_for(
                lambda: ending.begun() or (min(self._waiting) == place and self._free > taken - SLACK)
            )
            self._waiting.remove(place)
            self._changed.notify_all()
            ending.check()
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()

    def wake(self) -> None:
        """Have those who wait see that the end has begun."""
        with self._changed:
            self._changed.notify_all()
