"""Under a real Ray Tune, with trials that take no time: who is stopped, what that saves, and what is not run again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("sweep")]
ROOT = Path(__file__).resolve().parents[3]
WHOLE = 192  # images of a training that nobody stops


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a sweep found, the first time and when it was continued."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "tests.pipelines.sweeps.tuned", str(tmp_path_factory.mktemp("tuned"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_asha_stops_what_falls_behind(found: Any) -> None:
    own = [record for number, record in found["first"]["records"].items() if int(number) >= 2]
    stopped = [record for record in own if record["state"] == "stopped"]
    finished = [record for record in own if record["state"] == "finished"]
    assert len(own) == 6 and stopped and finished
    assert all(0 < record["images"] < WHOLE for record in stopped)
    assert all(record["images"] == WHOLE for record in finished)


def test_what_has_ended_is_told_to_tune_and_not_run_again(found: Any) -> None:
    first, again = found["first"], found["again"]
    assert first["ran"] == list(range(8)) and again["ran"] == []
    assert again["records"] == first["records"]
    assert first["left"] == again["left"] == ["trials.jsonl"]
