"""A server process: started, waited for, stopped."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from infra import ending
from infra.errors import OutsideError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 3.0


@dataclass
class Server:
    """A running server: its address, what clients set in their environment, and its process. A context manager."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str] = field(default_factory=dict, repr=False)  # holds keys

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and its children."""
        if self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def wait(self) -> int:
        """Wait until the process ends by itself; returns its exit code."""
        return self.process.wait()


def free_port() -> int:
    """A TCP port of this machine that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    name: str,
    command: Sequence[str],
    url: str,
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start ``command`` in a process group of its own and wait until ``ready()``; OutsideError if it ends or hangs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, ending.unblocked():
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    server = Server(url, process, log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            server.stop()
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise OutsideError(f"{name} did not start at {url}: {last} (all of it: {log})")
        time.sleep(0.1)
    return server


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
