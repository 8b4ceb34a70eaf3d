"""Locks that go with the process that holds them, however it ends.

A file lock keeps processes apart that share a home folder. On a cluster that others use too, a named actor keeps jobs
apart that share Ray: it belongs to its job, and dies with it.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from infra import ending

POLL_S = 0.5


class Holder:
    """The body of the named actor that stands for a lock: it exists, and says for whom."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def owner(self) -> str:
        """Who holds the lock, and since when."""
        return self._owner


class Lock:
    """A lock by name. A context manager that waits: ``waiting(who)`` is called once if it has to."""

    def __init__(
        self, folder: Path, name: str, shared: bool = False, waiting: Callable[[str], None] | None = None
    ) -> None:
        """``shared``: also among the jobs of the Ray cluster that this process is connected to."""
        self.path = folder / f"{name}.lock"
        self.actor_name = f"lock-{name}" if shared else None
        self.waiting = waiting
        self._file: IO[str] | None = None
        self._actor: Any = None

    def __enter__(self) -> Self:
        said = False
        while not self.try_acquire():
            # Said at the second try: a look at whether a run is alive holds its lock for a moment.
            ending.check()
            time.sleep(POLL_S)
            if self.try_acquire():
                break
            if not said and self.waiting:
                said = True
                self.waiting(self.holder())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it; returns whether it is held now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        owner = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
        if self.actor_name and not self._create_actor(owner):
            file.close()
            return False
        file.seek(0)
        file.truncate()
        file.write(owner)
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back. Its file stays: removing it would let two processes lock two files of one name."""
        if self._actor is not None:
            import ray

            if ray.is_initialized():
                ray.kill(self._actor)
            self._actor = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> str:
        """Who holds the lock, and since when, as far as is known."""
        if self.actor_name:
            import ray

            try:
                actor: Any = ray.get_actor(self.actor_name)
                return str(ray.get(actor.owner.remote(), timeout=10))
            except (ValueError, ray.exceptions.RayError):
                pass  # given back meanwhile, or held by file alone
        try:
            return self.path.read_text() or "another process"
        except OSError:
            return "another process"

    def _create_actor(self, owner: str) -> bool:
        import ray

        try:
            # The name is taken in the cluster's one list of names: of two jobs, one gets it.
            remote: Any = ray.remote(Holder)
            self._actor = remote.options(name=self.actor_name, num_cpus=0).remote(owner)
        except ValueError:
            return False
        return True
