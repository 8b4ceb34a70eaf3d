"""How a command ends that is told to, by Ctrl-C (SIGINT) or SIGTERM: see docs/decisions/0014.

The first signal begins the end: from then on nothing new is begun (`check`), and whoever waits for long gives up. The
second one, or the end of `PATIENCE_S`, ends the process at once, with all that it has started.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from infra.errors import Interrupted

PATIENCE_S = 25.0  # Kubernetes and others kill after 30; another number by the environment, where more is granted
PATIENCE = "GENOISE_PATIENCE_S"
AT_ONCE = "interrupted at once; the same command goes on from the last checkpoint"
WAKE = signal.SIGUSR1  # from the thread that got SIGTERM to the main one, whatever it waits for

_begun = False  # no threading.Event: a handler of signals may not wait for a lock
_code = 128 + signal.SIGINT
_story = ""  # what was kept of the work that was cut off, for the last line
_deferred = 0  # blocks under way of the main thread that no signal may cut in two
_patience_s = PATIENCE_S
_own_stderr = 2  # the descriptor of what this program itself says
_owed = False  # whether the main thread is still to be interrupted; it may get `WAKE` when it knows it already


def install() -> None:
    """Have both signals handled so; to be called by the main thread of a command, before it has others.

    SIGTERM is blocked, and waited for by a thread: Ray's C++ part has a handler for it that aborts. Ctrl-C stays
    ignored where it is, as in a command that a shell runs in the background.
    """
    global _patience_s
    _patience_s = _read_patience()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _handle)
    signal.signal(WAKE, _handle)
    signal.signal(signal.SIGTERM, _handle)  # for the moments in which a thread has it `unblocked`
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_sigterm, name="sigterm", daemon=True).start()
    _speak_apart()


def begin(number: int = signal.SIGINT) -> None:
    """The end begins."""
    global _begun, _code
    _begun, _code = True, 128 + number


def begun() -> bool:
    """Whether the end has begun."""
    return _begun


def check() -> None:
    """Raise Interrupted where the end has begun."""
    global _owed
    if _begun:
        _owed &= threading.current_thread() is not threading.main_thread()
        raise Interrupted


def code() -> int:
    """The exit code of an interrupted command: 130 for Ctrl-C, 143 for SIGTERM."""
    return _code


def hush() -> None:
    """Silence Ray's C++ threads, which would report each task that the end cut off.

    Does nothing before `install`. Ray's own files keep what it says.
    """
    if _own_stderr != 2:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def tell(story: str) -> None:
    """Have the last line of the command say what was kept."""
    global _story
    _story = story


def story() -> str:
    """What was kept of the work that was cut off; empty where nobody said so."""
    return _story


def reset() -> None:
    """Forget that an end has begun: another command begins in this process."""
    global _begun, _code, _story, _owed
    _begun, _code, _story, _owed = False, 128 + signal.SIGINT, "", False


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, the first signal raises nothing in the main thread: the block asks `begun` when it suits it."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


@contextmanager
def unblocked() -> Iterator[None]:
    """Inside, processes start that SIGTERM ends; they would inherit that it is blocked here."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_process() -> NoReturn:
    """End this process and all that it has started. Nothing is asked any more: what is to be kept has been written, and
    a thread that still starts Ray would be waited for."""
    global _deferred
    _deferred += 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the terminal may be gone
            stream.flush()
    end_processes(descendants())
    os._exit(_code)


def end_at_once() -> NoReturn:
    """End without waiting for anything; from any thread, and from a handler of signals."""
    with suppress(OSError):
        hush()
        os.write(_own_stderr, f"genoise: {AT_ONCE}\n".encode())
    end_processes(descendants())
    os._exit(_code)


def _speak_apart() -> None:
    """Give Python's stderr a descriptor of its own, so that `hush` can close the other one."""
    global _own_stderr
    sys.stderr.flush()
    _own_stderr = os.dup(2)
    sys.stderr = open(_own_stderr, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _handle(number: int, frame: FrameType | None) -> None:
    """The main thread's part."""
    global _owed
    if number != WAKE:
        _signalled(number)
    if _owed and not _deferred:
        _owed = False
        raise Interrupted


def _wait_for_sigterm() -> None:
    while True:
        _signalled(signal.sigwait({signal.SIGTERM}))
        signal.pthread_kill(threading.main_thread().ident or 0, WAKE)


def _signalled(number: int) -> None:
    global _owed
    if _begun:
        end_at_once()
    _owed = not _deferred
    begin(number)
    watch = threading.Timer(_patience_s, end_at_once)
    watch.daemon = True
    watch.start()


def _read_patience() -> float:
    """Seconds from the first signal to the end at once."""
    said = os.environ.get(PATIENCE, PATIENCE_S)
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= threading.TIMEOUT_MAX:  # nor is it "nan"
        sys.stderr.write(f"genoise: error: {PATIENCE}={said} is no number of seconds: say {PATIENCE}=60\n")
        sys.exit(2)
    return seconds


# Processes


def descendants() -> dict[int, str]:
    """{process: when it started} of all that this process has started, and what those have in turn."""
    children: dict[int, dict[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if found := _stat(int(folder.name)):
            parent, started = found
            children.setdefault(parent, {})[int(folder.name)] = started
    below: dict[int, str] = {}
    waiting = [os.getpid()]
    while waiting:
        found_here = children.get(waiting.pop(), {})
        below |= found_here
        waiting += found_here
    return below


def alive(processes: dict[int, str]) -> list[int]:
    """Which of the processes are still there, and are the same."""
    return [pid for pid, started in processes.items() if (found := _stat(pid)) and found[1] == started]


def end_processes(processes: dict[int, str]) -> None:
    """Kill -9 of those that are still there; returns when they are gone, or after a second."""
    for pid in alive(processes):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 1.0
    while alive(processes) and time.monotonic() < until:
        time.sleep(0.005)


def _stat(pid: int) -> tuple[int, str] | None:
    """Parent and time of start of a process; None where there is none, or a dead one that nobody has looked for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if len(fields) < 20:  # it ended while this was read
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), fields[19])
