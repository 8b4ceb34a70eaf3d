"""What the workers of `test_groups` are given to do, and the command that gives it: prints one JSON object."""

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.errors import UserError
from components.parallel import World
from infra import ending
from infra.cluster import connect, free_resources, leave
from infra.errors import Interrupted
from pipelines.workers import groups as module
from pipelines.workers.groups import Groups
from pipelines.workers.shape import Shape

ONE, TWO = Shape(1, 1, 0), Shape(2, 1, 0)


def mark(folder: Path) -> int:
    """Leave a mark of this process; returns how many this rank has left before."""
    rank = World.current().rank
    before = len(list(folder.glob(f"{rank}-*")))
    (folder / f"{rank}-{before}-{os.getpid()}").touch()
    return before


def marks(folder: Path) -> list[tuple[int, int]]:
    """(rank, process) of all marks, in the order of the tries."""
    names = sorted(path.name.split("-") for path in folder.iterdir())
    return [(int(rank), int(process)) for rank, _, process in names]


def meet(folder: Path) -> None:
    """Work that needs every worker."""
    mark(folder)
    assert World.current().sum(torch.ones(1)).item() == World.current().size


def state(_: Any) -> dict[str, str]:
    """What decides how work runs."""
    numbers = [torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()]
    flags = [torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), os.getcwd()]
    more = [torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled(), os.environ.get("LEFT")]
    return {"numbers": str(numbers), "flags": str(flags), "more": str(more)}


def spoil(_: Any) -> dict[str, str]:
    """Change all of it; returns what is there then."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(7)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    os.environ["LEFT"] = "behind"
    os.chdir("/")
    return state(None)


def fail(told: tuple[Path, Exception]) -> None:
    """Rank 1 raises; the others wait for it."""
    mark(told[0])
    if World.current().rank == 1:
        raise told[1]
    meet(told[0].parent)


def die_once(folder: Path) -> None:
    """The last rank is killed at the first try."""
    if mark(folder) == 0 and World.current().rank == World.current().size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    assert World.current().sum(torch.ones(1)).item() == World.current().size


def side_by_side(folder: Path) -> int:
    """Wait until two processes do this; returns this one's."""
    mark(folder)
    _until(lambda: len(marks(folder)) > 1)
    return os.getpid()


def patient(folder: Path) -> int:
    """Wait until somebody says go; returns how often this was begun."""
    mark(folder)
    _until((folder.parent / "go").exists)
    return len(marks(folder))


def fail_alone(folder: Path) -> None:
    """Raise while another one is at work."""
    mark(folder)
    raise ValueError("broken")


def _until(met: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not met():
        assert time.monotonic() < until, "nobody came"
        time.sleep(0.1)


def slow(_: Any) -> None:
    """Work that nobody waits for to its end."""
    time.sleep(600)


def raised(call: Any, *arguments: Any) -> str:
    """What a call raises."""
    try:
        call(*arguments)
    except (Exception, Interrupted) as error:
        return f"{type(error).__name__}: {error} {''.join(getattr(error, '__notes__', []))}"
    return "nothing"


def main(folder: Path) -> dict[str, Any]:
    """Give work to groups, one case after another."""
    found: dict[str, Any] = {}

    def case(name: str) -> Path:
        sys.stderr.write(f"{time.strftime('%T')} {name}\n")
        (folder / name).mkdir()
        return folder / name

    connect(min_cpus=2)
    groups = Groups(folder, private=True)
    # Workers that cannot start, and leave their places to the next ones
    backend, module.BACKEND = module.BACKEND, "none that is there"
    found["not started"] = raised(groups.everywhere, TWO, meet, case("not started"), 0)
    module.BACKEND = backend
    # One after the other, in the same processes
    for name in ("first", "second"):
        groups.everywhere(TWO, meet, case(name), 0)
        found[name] = marks(folder / name)
    found["state"] = [groups.once(state, None), groups.once(spoil, None), groups.once(state, None)]
    found["alone"] = groups.once(own_process, None)
    # By themselves, side by side
    with ThreadPoolExecutor(2) as pool:
        found["side by side"] = [*pool.map(lambda name: groups.once(side_by_side, name), [case("both")] * 2)]
        retries, module.CALL_RETRIES = module.CALL_RETRIES, 0
        waiting = pool.submit(groups.once, patient, case("patient"))
        _until(lambda: len(marks(folder / "patient")) == 1)
        found["broken beside"] = raised(groups.once, fail_alone, case("fail alone"))
        _until(lambda: len(marks(folder / "patient")) == 2)
        (folder / "go").touch()
        found["patient"] = waiting.result()
        module.CALL_RETRIES = retries
    # Errors
    found["advice"] = raised(groups.everywhere, TWO, fail, (case("advice"), UserError("use less")), 3)
    found["fault"] = raised(groups.everywhere, TWO, fail, (case("fault"), ValueError("broken")), 1)
    found["tries"] = {name: len([r for r, _ in marks(folder / name) if r == 1]) for name in ("advice", "fault")}
    groups.everywhere(TWO, meet, case("after"), 0)
    found["after"] = marks(folder / "after")
    # Losses
    groups.everywhere(TWO, die_once, case("lost"), 1)
    found["lost"] = marks(folder / "lost")
    found["lost for good"] = raised(groups.everywhere, TWO, die_once, case("lost for good"), 0)
    groups.everywhere(TWO, meet, case("whole"), 0)
    for _, process in marks(folder / "whole"):
        os.kill(process, signal.SIGKILL)  # while they have nothing to do
    groups.everywhere(TWO, meet, case("killed idle"), 0)
    found["killed idle"] = [marks(folder / "whole"), marks(folder / "killed idle")]
    # Places
    groups.everywhere(ONE, meet, case("smaller"), 0)
    groups.everywhere(TWO, meet, case("larger"), 0)
    found["sizes"] = [len(marks(folder / name)) for name in ("smaller", "larger")]
    module.IDLE_S = 1.0
    until = time.monotonic() + 60
    while (groups._there or free_resources().get("CPU", 0.0) < 2) and time.monotonic() < until:
        time.sleep(0.1)
    found["given back"] = free_resources().get("CPU", 0.0)
    # The end
    threading.Timer(0.5, ending.begin).start()  # while the workers start
    found["end"] = [raised(groups.everywhere, TWO, slow, None, 0)]
    ending.reset()
    groups.everywhere(TWO, meet, case("again"), 0)
    threading.Timer(0.5, ending.begin).start()  # while they work
    found["end"].append(raised(groups.once, slow, None))
    groups.close()  # and does not wait for it
    ending.reset()
    found["left"] = [path.name for path in folder.glob("workers-*")]
    leave()
    return found


def own_process(_: Any) -> int:
    """The process that does the work."""
    return os.getpid()


if __name__ == "__main__":
    from tests.pipelines.workers import job  # so that the functions are sent by name

    print(json.dumps(job.main(Path(sys.argv[1]))))
