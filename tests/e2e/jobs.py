"""What the whole-job tests share: the command line as a process of its own, and ways to look at what it left.

Nothing waits for seconds: a test waits until something is the case, and pytest's time limit is the only clock.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from infra.ending import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
# Small enough for seconds of training, two classes of shards, and a network with every part.
TINY = {
    "data.samples": 512,
    "data.size": 32,
    "encoder.width": 8,
    "training.batch": 32,
    "training.epochs": 1,
}
DATA = {key: value for key, value in TINY.items() if key.startswith("data.")}


def sets(values: dict[str, Any]) -> list[str]:
    """``--set key=value`` for each."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


# Shards, two workers, four rows.
MAIN_JOB = [
    *("table", "context_encoder", "--json"),
    *sets({**TINY, "training.workers": 2, "training.log_every": 4, "training.sample_every": 0.5}),
]

# A training that can be killed anywhere: two players, averaged weights, batch statistics over two ranks.
SAMPLES, BATCH, EPOCHS = 512, 32, 4
STEPS = SAMPLES * EPOCHS // BATCH
EVERY = 4  # steps between checkpoints
TRAINING = {
    **TINY,
    "training.epochs": EPOCHS,
    "training.workers": 2,
    "training.precision": "fp32",
    "training.ema": 0.9,
    "training.log_every": 1,
    "training.checkpoint_every": EVERY,
    "training.record_ids": True,
}
PRETRAIN = ["pretrain", "context_encoder", "--json", "--quiet"]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> Any:
        """Its last line, as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out.splitlines()[-1])


class Running:
    """A command that is under way; the leader of a session of its own."""

    def __init__(self, arguments: list[str], root: Path, environment: dict[str, str]) -> None:
        clean = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONPATH")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *arguments],
            cwd=root,
            env={**clean, "OMP_NUM_THREADS": "1", PATIENCE: "200", **environment},  # however slow the machine is
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> Done:
        """Wait for its end."""
        out, err = self.process.communicate()
        return Done(self.process.returncode, out, err)

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        """Wait until ``condition`` is true, and return what it gave; fail where the command ends before."""
        while True:
            if found := condition():
                return found
            if self.process.poll() is not None:
                done = self.wait()
                pytest.fail(f"ended with {done.code} before it was so far:\n{done.out}\n{done.err}")
            time.sleep(0.1)

    def processes(self, *names: str) -> list[int]:
        """The ids of all that it started, and what that started in turn; of these names where any are given."""
        titles: dict[int, str] = {}
        children: dict[int, list[int]] = {}
        for line in subprocess.run(
            ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            pid, parent, title = line.split(None, 2)
            titles[int(pid)] = title
            children.setdefault(int(parent), []).append(int(pid))
        found, waiting = [], [self.process.pid]
        while waiting:
            started = children.get(waiting.pop(), [])
            found += started
            waiting += started
        return [pid for pid in found if not names or any(name in titles[pid] for name in names)]

    def kill(self) -> None:
        """kill -9 of the driver and of Ray's servers; its workers are left alone, without them."""
        for pid in (*self.processes("raylet", "gcs_server"), self.process.pid):
            kill(pid)
        self.process.communicate()


def kill(pid: int) -> None:
    """kill -9"""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def check_every_sample_once(home: "Home") -> None:
    """Every epoch is a permutation of all samples, and all are different."""
    ids = home.ids()
    assert sorted(ids) == list(range(STEPS))
    stream = [sample for step in range(STEPS) for sample in ids[step]]
    epochs = [stream[start : start + SAMPLES] for start in range(0, len(stream), SAMPLES)]
    assert len(epochs) == EPOCHS
    assert all(sorted(epoch) == list(range(SAMPLES)) for epoch in epochs)
    assert all(before != after for before, after in pairwise(epochs))


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """The places in two states at which they are not the same, bit for bit."""
    import torch

    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        return [line for key in expected for line in differences(found[key], expected[key], f"{where}.{key}")]
    if isinstance(expected, list):
        assert len(found) == len(expected), where
        return [line for k in range(len(expected)) for line in differences(found[k], expected[k], f"{where}.{k}")]
    same = torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
    return [] if same else [where]


class Home:
    """A home folder, the commands that run in it, and what they leave there."""

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder, self.root = folder, root
        self.started: list[Running] = []

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> Running:
        """Start a command."""
        running = Running([*arguments, "--home", str(self.folder)], self.root, environment or {})
        self.started.append(running)
        return running

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Done:
        """Run a command to its end."""
        return self.start(*arguments, environment=environment).wait()

    def end(self) -> None:
        """Leave nothing running."""
        for running in self.started:
            for pid in (*running.processes(), running.process.pid):
                kill(pid)
            running.process.communicate()

    @property
    def job(self) -> Path:
        """The folder of the one training in this home."""
        (folder,) = (self.folder / "runs").iterdir()
        return folder

    def lines(self) -> list[list[dict[str, Any]]]:
        """Per rank, the lines that say which samples a step held."""
        files = sorted((self.folder / "runs").glob("*/ids/rank-*.jsonl"))
        return [[json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] for file in files]

    def ids(self) -> dict[int, list[int]]:
        """The samples of every step, in order: what the last to run it says counts."""
        ranks = [{line["step"]: line for line in lines} for lines in self.lines()]
        found = {}
        for step, first in ranks[0].items():
            parts = [rank[step] for rank in ranks[: first["workers"]]]
            found[step] = [sample for part in parts for sample in part["ids"]]
        return found

    def steps_done(self) -> int:
        """The number of steps that rank 0 has begun in its life so far."""
        lines = self.lines()
        return lines[0][-1]["step"] + 1 if lines and lines[0] else 0

    def last_state(self) -> dict[str, Any]:
        """All that the last checkpoint holds: networks, averages, optimizers, step, best encoder."""
        import torch

        states = [torch.load(path, weights_only=True) for path in self.job.glob("checkpoint_*/state.pt")]
        best: dict[str, Any] = max(states, key=lambda state: state["engine"]["step"])
        return best

    def encoder_file(self, run_id: str) -> bytes:
        """The weights of a run's encoder, as the tracker hands it out."""
        from infra.tracking import open_tracker

        folder = open_tracker(self.folder).models.fetch_encoder(f"runs:/{run_id}/encoder", self.folder / "cache")
        return (folder / "encoder.safetensors").read_bytes()

    def client(self) -> Any:
        """MLflow's own client on the home's store."""
        from infra.tracking import open_tracker

        return open_tracker(self.folder).client

    def runs(self) -> list[Any]:
        """All MLflow runs, oldest first."""
        client = self.client()
        experiments = [each.experiment_id for each in client.search_experiments()]
        found: list[Any] = client.search_runs(experiments, order_by=["attributes.start_time ASC"])
        return found

    def step_run(self, label: str) -> Any:
        """The one MLflow run of a step whose label begins so."""
        (found,) = [
            run for run in self.runs() if run.info.run_name.startswith(label) and "genoise.step" in run.data.tags
        ]
        return found
