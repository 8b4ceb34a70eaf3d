"""Ctrl-C and SIGTERM: one line, a checkpoint, exit 130 or 143, nothing left behind, and the same command goes on."""

import os
import re
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.jobs import TINY, Done, Home, Running, sets

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]

SETTINGS = {**TINY, "training.epochs": 40, "training.log_every": 1, "training.record_ids": True}
MakeHome = Callable[..., Home]


def interrupt(running: Running, how: signal.Signals) -> Done:
    """As a terminal does it, or `timeout`: a signal to the whole process group. Nothing is left of what was started."""
    started = running.processes()
    os.killpg(running.process.pid, how)
    done = running.wait()
    assert done.code == 128 + how, done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("genoise: interrupted; ") and "same command goes on" in last
    for bad in ("Traceback", "discovered a bug", "***", "at once"):
        assert bad not in done.err, done.err
    assert [pid for pid in started if is_there(pid)] == []
    return done


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def statuses(home: Home) -> dict[str, str]:
    """Of the steps and the newest workflow."""
    return {run.info.run_name: run.info.status for run in home.runs()}


def test_a_training_of_two_workers_is_kept_and_goes_on(new_home: MakeHome) -> None:
    home = new_home()
    command = ["pretrain", "rotation", "--json", "--quiet", *sets({**SETTINGS, "training.workers": 2})]
    running = home.start(*command)
    running.wait_until(lambda: home.steps_done() > 2)
    done = interrupt(running, signal.SIGINT)
    found = re.fullmatch(
        r"genoise: interrupted; pretrain rotation, seed 0 is kept at step (\d+) of 640, and .*\n", done.err
    )
    assert found, done.err
    step = int(found[1])
    assert step > 2 and home.last_state()["engine"]["step"] == step
    assert statuses(home)["pretrain rotation, seed 0"] == statuses(home)["pretrain rotation"] == "KILLED"
    again = home.start(*command)
    again.wait_until(lambda: home.steps_done() > step + 1)
    interrupt(again, signal.SIGTERM)
    for rank in home.lines():  # no step twice, none left out
        steps = [line["step"] for line in rank]
        assert all(after == before + 1 for before, after in pairwise(steps)) and steps[-1] > step


def test_a_table_is_interrupted_while_ray_starts_and_while_it_scores(new_home: MakeHome) -> None:
    home = new_home()
    command = ["table", "rotation", *sets(SETTINGS)]
    for process, how in (("gcs_server", signal.SIGTERM), ("ray::_call", signal.SIGINT)):
        running = home.start(*command)
        running.wait_until(lambda: running.processes(process))  # noqa: B023  # called before the loop goes on
        interrupt(running, how)
        assert "RUNNING" not in statuses(home).values()
    assert statuses(home)["pretrain random, seed 0"] == "FINISHED"
