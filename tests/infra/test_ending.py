"""How a command ends that is told to: what a signal does to the main thread, its exit code, and what it had started."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra import ending
from infra.cluster import connect
from infra.errors import Interrupted

ROOT = Path(__file__).resolve().parents[2]
# Says what happens to it, line by line; a "block" is not cut in two, and does not hear of its end where it is deaf.
COMMAND = """
import signal, subprocess, sys, threading, time
from infra import ending

if sys.argv[1] == "late":  # the thread that gets SIGTERM is slow
    wake = signal.pthread_kill
    signal.pthread_kill = lambda *to: (time.sleep(0.3), wake(*to))
ending.install()
child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL)  # or nobody would see that this one is gone
try:
    print(child.pid, flush=True)
    if sys.argv[1] == "plain":
        threading.Event().wait()
    with ending.deferred():
        print("whole", flush=True)
        while not ending.begun() or sys.argv[1] == "deaf":
            threading.Event().wait(0.01)
            if ending.begun() and sys.argv[1] == "deaf":
                print("begun", flush=True)
                threading.Event().wait()
        print("ended", flush=True)
    if sys.argv[1] == "late":
        time.sleep(0.6)
        print("left alone", flush=True)
except KeyboardInterrupt:
    print("raised", flush=True)
    ending.leave_process()
ending.leave_process()
"""


@pytest.fixture
def untold() -> Iterator[None]:
    """Whatever a test begins, it does not end the other tests."""
    yield
    ending.reset()


Started = tuple[subprocess.Popen[str], list[int]]
Start = Callable[[str], Started]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command; returns it with the processes that it has started. It does not outlive the test."""
    running = []

    def begin(how: str) -> Started:
        process = subprocess.Popen([sys.executable, "-c", COMMAND, how], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        running.append(process)
        return process, [int(line(process))]

    yield begin
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def check_ended(process: subprocess.Popen[str], code: int, children: list[int]) -> None:
    process.communicate()
    assert process.returncode == code
    for pid in children:
        path = Path(f"/proc/{pid}/stat")
        assert not path.exists() or path.read_text().rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_interrupt_wherever_the_main_thread_waits(start: Start, how: signal.Signals, code: int) -> None:
    process, children = start("plain")
    process.send_signal(how)
    assert line(process) == "raised"
    check_ended(process, code, children)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_block_that_is_deferred_is_not_cut_in_two(start: Start, how: signal.Signals, code: int) -> None:
    process, children = start("deferred")
    assert line(process) == "whole"
    process.send_signal(how)
    assert line(process) == "ended"
    check_ended(process, code, children)


def test_what_the_main_thread_knows_already_does_not_interrupt_it_later(start: Start) -> None:
    process, children = start("late")
    assert line(process) == "whole"
    process.send_signal(signal.SIGTERM)
    assert [line(process), line(process)] == ["ended", "left alone"]
    check_ended(process, 143, children)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(start: Start, second: signal.Signals) -> None:
    process, children = start("deaf")
    assert line(process) == "whole"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "begun"
    process.send_signal(second)
    check_ended(process, 143, children)  # what it was told first


def test_a_command_that_does_not_end_is_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ending.PATIENCE, "0.2")
    process, children = start("deaf")
    assert line(process) == "whole"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "begun"
    check_ended(process, 143, children)


@pytest.mark.parametrize("said", ["a minute", "-1", "nan", "inf"])
def test_a_patience_that_is_no_number_is_refused(said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "recipes"],
        cwd=ROOT,
        env={**os.environ, ending.PATIENCE: said},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"genoise: error: {ending.PATIENCE}={said} is no number of seconds: say {ending.PATIENCE}=60\n"
    )


def test_nobody_connects_once_the_end_has_begun(untold: None) -> None:
    ending.begin()
    for address in (None, "10.0.0.1:6379"):
        with pytest.raises(Interrupted):
            connect(address)


def test_ray_is_asked_nothing_before_it_is_connected() -> None:
    """It would join whatever cluster runs on this machine, or start one."""
    code = """
import json, pipelines.steps.worker_log, ray

def refused(ask):
    try:
        ask()
    except ray.exceptions.RaySystemError as error:
        return str(error)

asked = [lambda: ray.put(1), ray.remote(lambda: 1).remote, lambda: ray.get_actor("x")]
print(json.dumps([[refused(ask) for ask in asked], ray.is_initialized()]))
"""
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    said, connected = json.loads(done.stdout)
    assert all("not been started" in text for text in said) and not connected


def test_at_the_end_only_the_program_itself_speaks() -> None:
    """Ray's C++ threads write to the descriptor; what they said came after the last line, on a busy machine."""
    command = """
import os, sys
from infra import ending

ending.install()
os.write(2, b"before\\n")
ending.hush()
os.write(2, b"of a thread of Ray's\\n")
print("the last line", file=sys.stderr)
os.write(2, b"of another one\\n")
ending.end_at_once()
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == f"before\nthe last line\ngenoise: {ending.AT_ONCE}\n"
    assert done.returncode == 130
