"""Groups of workers, under a real Ray: one process after the other does not need to start, and none spoils the next."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.exceptions import ActorDiedError

from components.errors import UserError
from infra.errors import OutsideError
from pipelines.workers.groups import Group, Groups, Lost
from pipelines.workers.shape import Shape
from pipelines.workers.work_queue import Outcome, Work, WorkQueue, failure, unpickled
from tests.pipelines.apart import printed_by


def with_ray(test: Callable[..., None]) -> Callable[..., None]:
    """For a test of what a command saw under a real Ray, which takes a while."""
    for mark in (pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a command saw that gave work to groups."""
    return printed_by("tests.pipelines.workers.job", tmp_path_factory.mktemp("job"))


class Queue:
    """A queue of which the first work ends with a given outcome, once so many groups were started."""

    def __init__(self, outcome: Outcome, starts: int = 1) -> None:
        self.ended, self.starts, self.begun = outcome, starts, 0

    def put(self, work: Work) -> int:
        """As the real one."""
        return 0

    def outcome(self, place: int, seconds: float) -> Outcome | None:
        """As the real one."""
        time.sleep(0.01)
        return self.ended if self.begun >= self.starts else None

    def close(self) -> None:
        """As the real one."""


@pytest.fixture
def perform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Have a group do work that is tried twice again; Ray Train raises ``faults``, one at each start."""

    def call(queue: Queue, faults: Sequence[Exception] = ()) -> Any:
        left = list(faults)

        class Trainer:
            def fit(self) -> None:
                queue.begun += 1
                if left:
                    raise left.pop(0)

            def end(self) -> None:
                """As the real one."""

        monkeypatch.setattr(WorkQueue, "open", lambda: queue)
        monkeypatch.setattr(Group, "_trainer", lambda *_: Trainer())
        return Group(Shape(2, 1, 0), tmp_path, private=True).perform(Work(print, None, None, 2))

    return call


def test_a_full_disk_of_a_worker_is_one_line(perform: Callable[..., Any]) -> None:
    lost = ConnectionError("the other worker is gone")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/ids.jsonl")
    with pytest.raises(OutsideError, match=r"^cannot use /runs/ids.jsonl \(No space left on device\): make room"):
        perform(Queue(Outcome(errors=(lost, full))))


def test_of_several_errors_the_one_that_helps_is_raised(perform: Callable[..., Any]) -> None:
    said, lost, fault = UserError("use less"), ActorDiedError(), ValueError("a fault of the program")
    for errors, kind in (((fault, lost, said), UserError), ((fault, lost), Lost), ((fault,), ValueError)):
        with pytest.raises(kind):
            perform(Queue(Outcome(errors=errors)))


def test_a_worker_that_is_lost_while_its_group_starts_is_replaced(perform: Callable[..., Any]) -> None:
    """Ray Train replaces a worker that was at work already, and gives up over one that was not."""
    lost = ray.train.ControllerError(ActorDiedError())
    queue = Queue(Outcome("done"), starts=3)
    assert perform(queue, [lost, lost]) == "done" and queue.begun == 3
    with pytest.raises(Lost):
        perform(Queue(Outcome("done"), starts=4), [lost, lost, lost])
    fault = ray.train.ControllerError(ValueError("a fault of the program"))
    with pytest.raises(ray.train.ControllerError):
        perform(Queue(Outcome("done"), starts=3), [lost, fault])


def test_a_torch_that_cannot_use_the_gpus_is_one_line(perform: Callable[..., Any]) -> None:
    fault = ray.train.ControllerError(RuntimeError("Distributed package doesn't have NCCL built in"))
    with pytest.raises(UserError, match="torch on its workers cannot use them"):
        perform(Queue(Outcome("done"), starts=2), [fault])


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Exception | None], Group]]:
    """Make a group of two; Ray Train raises an error at its first start, if there is one, and else goes on."""
    over = threading.Event()

    def make(error: Exception | None) -> Group:
        queue = Queue(Outcome("done"), starts=2)

        class Trainer:
            def fit(self) -> None:
                queue.begun += 1
                if queue.begun == 1 and error:
                    raise error
                over.wait()

            def end(self) -> None:
                """As the real one."""

        monkeypatch.setattr(WorkQueue, "open", lambda: queue)
        monkeypatch.setattr(Group, "_trainer", lambda *_: Trainer())
        return Group(Shape(2, 1, 0), tmp_path, private=True)

    yield make
    over.set()


def performed(group: Group) -> list[Any]:
    """What two threads get that have the two workers of a group do work, or the errors that are raised."""

    def perform(rank: int) -> Any:
        try:
            return group.perform(Work(print, None, rank, 1))
        except Exception as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return [*pool.map(perform, range(2))]


def test_a_group_with_two_works_is_started_anew_once(
    group: Callable[[Exception | None], Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Group._error_of_start

    def slowly(*what: Any) -> None:
        time.sleep(0.5)
        look(*what)

    monkeypatch.setattr(Group, "_error_of_start", slowly)
    found = group(ray.train.ControllerError(ActorDiedError()))
    queue: Any = found.queue
    assert performed(found) == ["done", "done"] and queue.begun == 2


def test_why_a_group_is_over_is_told_to_all_who_wait_for_it(group: Callable[[Exception | None], Group]) -> None:
    fault = ray.train.ControllerError(ValueError("a fault of the program"))
    assert performed(group(fault)) == [fault, fault]


def test_workers_are_taken_one_by_one_and_all_of_them_when_none_is_at_work(
    group: Callable[[Exception | None], Group], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shape, groups = Shape(2, 1, 0), Groups(tmp_path, private=True)
    monkeypatch.setattr("pipelines.workers.groups._is_free", lambda _: True)
    monkeypatch.setattr("pipelines.workers.groups.Group", lambda *_: group(None))
    first, second = groups._make(shape), groups._make(shape)
    assert groups._take_one() is None and groups._take(shape) is None  # all are at work
    for each in (first, second):
        with groups._using(each, {0, 1}):
            pass
    assert groups._take_one() == (first, 0)
    assert groups._take(Shape(1, 1, 0)) is None
    assert groups._take(shape) is second and groups._take(shape) is None
    assert groups._take_one() == (first, 1) and groups._take_one() is None
    with groups._using(first, {1}):
        pass
    groups._dismiss()
    assert groups._there == [first, second]  # somebody is at work in both
    with groups._using(first, {0}):
        pass
    groups._dismiss(60)
    assert groups._there == [first, second]
    groups._dismiss()
    assert groups._there == [second]
    groups._closed.set()


def test_what_cannot_be_sent_is_told_in_words() -> None:
    errors = unpickled(failure((UserError("use less"), ValueError(threading.Lock())))).errors
    assert [type(error) for error in errors] == [RuntimeError, RuntimeError] and "use less" in str(errors[0])


@with_ray
def test_the_second_work_is_done_by_the_processes_of_the_first(found: Any) -> None:
    assert [rank for rank, _ in found["first"]] == [0, 1]
    assert found["second"] == found["first"]
    assert found["alone"] == found["first"][0][1]  # work for one is done by the first of them


@with_ray
def test_each_worker_of_a_group_does_work_of_its_own_beside_the_others(found: Any) -> None:
    assert sorted(found["side by side"]) == sorted(process for _, process in found["first"])


@with_ray
def test_whose_neighbour_failed_begins_anew_and_counts_no_try(found: Any) -> None:
    assert found["broken beside"].startswith("ValueError: broken")
    assert found["patient"] == 2  # and there were no tries left


@with_ray
def test_workers_that_cannot_start_leave_their_places(found: Any) -> None:
    assert found["not started"].startswith("ControllerError: ") and "none that is there" in found["not started"]
    assert len(found["first"]) == 2  # on the same two cores


@with_ray
def test_nothing_of_one_work_is_left_for_the_next(found: Any) -> None:
    before, spoiled, after = found["state"]
    assert after == before
    assert all(spoiled[key] != before[key] for key in before)


@with_ray
def test_what_the_user_has_to_mend_is_said_at_once_and_a_fault_is_tried_again(found: Any) -> None:
    assert found["advice"].startswith("UserError: use less")
    assert found["fault"].startswith("ValueError: broken") and "raise told[1]" in found["fault"]
    assert found["tries"] == {"advice": 1, "fault": 2}


@with_ray
def test_nobody_goes_on_in_a_group_in_which_something_went_wrong(found: Any) -> None:
    processes = [{process for _, process in found[name]} for name in ("first", "after")]
    assert len(processes[1]) == 2 and not processes[0] & processes[1]


@with_ray
def test_a_lost_worker_is_replaced_as_often_as_allowed(found: Any) -> None:
    ranks = [rank for rank, _ in found["lost"]]
    assert ranks == [0, 0, 1, 1] and len({process for _, process in found["lost"]}) == 4
    assert found["lost for good"].startswith("Lost")


@with_ray
def test_workers_that_were_killed_while_they_waited_are_replaced(found: Any) -> None:
    before, after = found["killed idle"]
    assert len(after) == 2 and not {process for _, process in before} & {process for _, process in after}


@with_ray
def test_workers_without_work_make_room(found: Any) -> None:
    assert found["sizes"] == [1, 2]
    assert found["given back"] == 2.0


@with_ray
def test_the_end_of_the_command_ends_work_that_can_be_broken_off(found: Any) -> None:
    assert [each.split(":")[0] for each in found["end"]] == ["Interrupted", "Interrupted"]
    assert len(found["left"]) <= 1  # of the group that was at work
