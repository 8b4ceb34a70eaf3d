"""What waits gives up once the end of a command has begun, and trainings end at one step on all ranks."""

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from components.errors import Stopped
from components.parallel import World
from infra import ending
from infra.errors import Interrupted
from pipelines.session import Session
from pipelines.steps.locks import Lock
from pipelines.steps.scheduling import Capacity
from pipelines.training import worker
from pipelines.training.worker import until_told
from pipelines.workers.shape import Need

STEPS, TOLD_AT = 400, 57


@pytest.fixture
def told() -> Iterator[None]:
    ending.begin()
    yield
    ending.reset()


class Ranks:
    """Ranks that are threads: a sum is there when all have asked for it."""

    def __init__(self, size: int) -> None:
        self.size, self.words = size, list[Tensor]()
        self.barrier = threading.Barrier(size, timeout=20)

    def world(self, rank: int) -> World:
        world: Any = SimpleNamespace(rank=rank, size=self.size, sum=self.sum)
        return world  # type: ignore[no-any-return]  # as far as it is asked for

    def sum(self, tensor: Tensor) -> Tensor:
        self.words.append(tensor)
        self.barrier.wait()
        total = torch.stack(self.words[-self.size :]).sum(0)
        self.barrier.wait()
        return total


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("pace", [0.0, 1e9])  # seconds between two questions: at every step, and ever more rarely
def test_all_ranks_end_before_the_same_step(size: int, pace: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ASK_S", pace)
    ranks = Ranks(size)
    step_of_main, ended = [0], dict[int, tuple[int, str]]()
    closed: list[int] = []

    def batches(rank: int) -> Generator[Any, None, None]:
        try:
            for step in range(STEPS):
                if rank == 0:
                    step_of_main[0] = step
                yield SimpleNamespace(step=step)
        finally:
            closed.append(rank)

    def train(rank: int) -> None:
        done = 0
        try:
            asks = until_told(batches(rank), lambda: step_of_main[0] >= TOLD_AT, ranks.world(rank), torch.device("cpu"))
            for loaded in asks:
                assert loaded.step == done
                done += 1
            ended[rank] = done, "finished"
        except Stopped as error:
            ended[rank] = done, str(error)

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done, _ = ended[0]
    assert ended == dict.fromkeys(range(size), (done, f"step {done}"))
    assert sorted(closed) == list(range(size))
    if pace == 0.0:
        assert done == TOLD_AT
    else:
        assert TOLD_AT <= done <= 2 * TOLD_AT and len(ranks.words) / size < 12  # asked after 1, 2, 4, ... steps


def test_a_training_that_nobody_tells_runs_to_its_end() -> None:
    batches: Any = (SimpleNamespace(step=step) for step in range(STEPS))
    passed = until_told(batches, lambda: False, World(), torch.device("cpu"))
    assert [loaded.step for loaded in passed] == list(range(STEPS))


def test_who_waits_for_a_lock_gives_up(tmp_path: Path, told: None) -> None:
    with Lock(tmp_path, "x"), pytest.raises(Interrupted), Lock(tmp_path, "x"):
        pass


def test_who_waits_for_cores_gives_up(tmp_path: Path) -> None:
    capacity = Capacity(Session(tmp_path), 1)
    capacity._all = capacity._free = 1.0
    found: list[BaseException] = []

    def wait() -> None:
        try:
            with capacity.lend(Need(), place=1):
                pass
        except Interrupted as error:
            found.append(error)

    with capacity.lend(Need(), place=0):
        waiting = threading.Thread(target=wait)
        waiting.start()
        ending.begin()
        try:
            capacity.wake()
            waiting.join(20)
        finally:
            ending.reset()
    assert len(found) == 1 and capacity._free == 1.0
