"""Ray: the cluster of a submitted job, or a private instance on this machine."""

import functools
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from infra import ending, machine
from infra.errors import OutsideError

NAMESPACE = "genoise"
# Images travel by shards on disk and weights by checkpoints; objects are small messages. Ray's own choice, 30 % of the
# memory, is taken from what caches decoded images, and /dev/shm of a container is often smaller than that.
OBJECT_STORE_BYTES = 256 << 20
CONNECT_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 0.5  # for processes of Ray to end by themselves, which have nothing left to do
POLL_S = 0.2
PROJECT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or every worker warns about a default that will change
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # so soon Ray Train sees that workers have ended; its own is 2
}
# Each of these costs a process, or a part of one, at every start of a training; a private instance has no use for them.
PRIVATE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away
    "RAY_TRAIN_METRICS_ENABLED": "0",  # there is no dashboard to collect them
}


_starting = threading.Event()  # while a private instance starts
_used = threading.Event()  # since this process first asked for Ray


def shared_address(address: str | None = None) -> str | None:
    """The address of the cluster that others use too; None where Ray will run privately on this machine."""
    address = address or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def connect(address: str | None = None, min_cpus: int = 0, log_to_driver: bool = False) -> dict[str, float]:
    """Connect to Ray, once per process, and return the resources of the cluster.

    ``address``, or RAY_ADDRESS (which `ray job submit` sets): that cluster. Otherwise a private instance starts on
    this machine, without a dashboard, with at least ``min_cpus`` logical CPUs. ``log_to_driver`` shows what workers
    print. Raises Interrupted once the end of the command has begun: Ray does not start again.
    """
    ending.check()
    _used.set()
    if not ray.is_initialized():
        for key, value in SETTINGS.items():
            os.environ.setdefault(key, value)
        shared = shared_address(address)
        options: dict[str, Any] = {
            "namespace": NAMESPACE,
            "log_to_driver": log_to_driver,
            "logging_level": logging.ERROR,
        }
        try:
            with _importable():
                if shared is None:
                    _start_private(options, min_cpus)
                else:
                    _join(shared, options)
        except OutsideError:
            raise
        except Exception as error:  # Ray raises no less when a machine is too busy to start it in time
            raise OutsideError(_explain(error, shared, "--address" if address else "RAY_ADDRESS")) from error
        ending.check()
    return resources()


def _explain(error: Exception, shared: str | None, told_by: str) -> str:
    """Why Ray is not there: a cluster that was named by ``told_by``, or, where none was, this machine's own."""
    said = (" ".join(str(error).split()) or type(error).__name__)[:200]
    if shared:
        return f"cannot reach the Ray cluster at {shared}: {said}; correct {told_by}, and see `ray status` there"
    return (
        f"Ray did not start on this machine: {said}; it may be too busy, or short of memory or of room in "
        f"{os.environ.get('RAY_TMPDIR', '/tmp/ray')}: see to it, and give the same command again"
    )


def leave() -> None:
    """Leave Ray, where it was used; a private instance ends, with all of its processes. No other thread may be using
    Ray any more."""
    if not _used.is_set():
        return  # processes of this one are somebody else's
    started = ending.descendants()
    if not _starting.is_set():  # or this would wait until it has started
        ray.shutdown()
    else:
        ending.end_processes(started)
    until = time.monotonic() + LEAVE_TIMEOUT_S
    while ending.alive(started) and time.monotonic() < until:  # workers end a moment after the servers
        time.sleep(0.05)
    ending.end_processes(started)


def cpus() -> int:
    """Logical CPUs of the cluster that this process is connected to; at least 1."""
    return max(1, int(resources().get("CPU", 1)))


def resources() -> dict[str, float]:
    """Everything the cluster has now: CPU, GPU, memory, ..."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's own
    return dict(found)


def nodes() -> list[dict[str, float]]:
    """The resources of every living machine of the cluster that this process is connected to."""
    found = ray.nodes()  # type: ignore[no-untyped-call]  # Ray gives it no types
    return [node["Resources"] for node in found if node["Alive"]]


def free_resources() -> dict[str, float]:
    """What of `resources` nobody holds, as far as is known here: Ray tells it a moment later."""
    found: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray gives it no types
    return dict(found)


def _start_private(options: dict[str, Any], min_cpus: int) -> None:
    for key, value in PRIVATE.items():
        os.environ.setdefault(key, value)
    start = functools.partial(
        ray.init,
        address="local",
        num_cpus=max(machine.cores(), min_cpus),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        **options,
    )
    _in_lasting_thread(start)


def _in_lasting_thread(start: Callable[[], Any]) -> None:
    """Call ``start`` in a thread that never ends: the kernel ends Ray's servers together with the thread that started
    them (PR_SET_PDEATHSIG), and whoever connects first may be a thread that is soon over."""
    outcome: Future[None] = Future()
    _starting.set()

    def run() -> None:
        try:
            with _own_session():
                start()
            _starting.clear()
            outcome.set_result(None)
        except BaseException as error:
            _starting.clear()
            outcome.set_exception(error)
            return
        threading.Event().wait()

    threading.Thread(target=run, name="ray", daemon=True).start()
    while not wait([outcome], POLL_S).done:
        ending.check()
    outcome.result()


@contextmanager
def _own_session() -> Iterator[None]:
    """Inside, Ray's servers start in sessions of their own: a signal to the whole process group (Ctrl-C in a terminal,
    `timeout`, a batch system) reaches the command alone, which lets its trainings write a checkpoint first."""
    services: Any = ray._private.services
    before = services.ConsolePopen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        ending.check()
        with ending.unblocked():
            started: subprocess.Popen[bytes] = before(*arguments, **options, start_new_session=True)
        return started

    services.ConsolePopen = start
    try:
        yield
    finally:
        services.ConsolePopen = before


def _join(address: str, options: dict[str, Any]) -> None:
    if address.startswith("ray://"):
        raise OutsideError(
            f"{address}: Ray's client is not used: submit a job, `ray job submit --working-dir . -- genoise ...`, "
            "or give --address HOST:6379 (or auto) on a machine of the cluster"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        # Asked first: where nobody answers, Ray ends the whole process, after minutes, without an exception.
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if not inside_job and (PROJECT / "pyproject.toml").is_file():  # run from a checkout: the workers need the code too
        options["runtime_env"] = {
            "working_dir": str(PROJECT),
            "excludes": [".venv", ".git", ".genoise", "tests", "docs"],
        }
    ray.init(address=address, **options)


@contextmanager
def _importable() -> Iterator[None]:
    """While Ray starts, PYTHONPATH leads to this project, for its workers to inherit."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
