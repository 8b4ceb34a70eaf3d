"""The recorder: what workers say reaches MLflow, in few requests, also when the server was away for a while."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.errors import OutsideError
from infra.tracking import Tracker, open_tracker
from pipelines.steps.worker_log import Progress, Writer

ROOT = Path(__file__).resolve().parents[3]
NEVER = 3600.0  # seconds until the writer's own thread writes: the tests say when


@pytest.fixture
def tracker(home: Path, empty_store: Path) -> Tracker:
    home.mkdir()
    shutil.copy(empty_store / "mlflow.db", home / "mlflow.db")
    return open_tracker(home)


def history(tracker: Tracker, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracker.client.get_metric_history(run_id, key)]


def test_lines_are_written_together(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [tracker.start_run("a"), tracker.start_run("b")]
    writer = Writer(tracker, period=NEVER)
    for step in range(10):
        for run in runs:
            writer.log_metrics(run, {"loss": step / 2, "lr": 0.1}, step, 1.0)
    requests: list[str] = []
    write = tracker.log_metric_batch

    def counted(run_id: str, lines: Any) -> None:
        requests.append(run_id)
        write(run_id, lines)

    monkeypatch.setattr(tracker, "log_metric_batch", counted)
    assert writer.flush() is None
    assert requests == runs
    for run in runs:
        assert history(tracker, run, "loss") == [(step, step / 2) for step in range(10)]
    assert writer.flush() is None and requests == runs  # nothing is left


def test_what_could_not_be_written_is_kept(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracker.start_run("a")
    writer = Writer(tracker, period=NEVER)
    picture = np.full((8, 8, 3), 200, np.uint8)
    writer.log_metrics(run, {"loss": 1.0}, 1, 1.0)
    writer.log_image(run, picture, "samples/x", 1)
    writer.warn(run, "looks wrong")

    def away(*_: object) -> None:
        raise OutsideError("the server does not answer")

    with monkeypatch.context() as fault:
        fault.setattr(tracker, "log_metric_batch", away)
        assert writer.flush() == "the server does not answer"
        writer.log_metrics(run, {"loss": 2.0}, 2, 2.0)
        assert writer.flush() == "the server does not answer"
    with monkeypatch.context() as fault:
        fault.setattr(tracker, "log_image", away)
        assert writer.flush() == "the server does not answer"
    assert history(tracker, run, "loss") == [(1, 1.0), (2, 2.0)]
    assert writer.flush() is None
    assert tracker.get_run(run).tags["genoise.warnings"] == "looks wrong"
    assert len(tracker.client.list_artifacts(run, "images")) == 2  # the picture, and the UI's small copy


def test_png_bytes_are_pictures_too(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.start_run("a")
    writer = Writer(tracker, period=NEVER)
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    writer.log_image(run, file.getvalue(), "samples/x", 1)
    assert writer.flush() is None
    (stored,) = tracker.download_artifacts(run, "images", tmp_path).glob("*.png")
    with Image.open(stored) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_progress_is_the_latest(tracker: Tracker) -> None:
    writer = Writer(tracker, period=NEVER)
    writer.progress("a", 1, 10, "loss 2")
    writer.progress("a", 2, 10, "loss 1")
    writer.warn("b", "one")
    writer.warn("b", "two")
    assert writer.latest() == {"a": Progress(2, 10, "loss 1"), "b": Progress(warnings=["one", "two"])}


JOB = """
import sys, time
from pathlib import Path
import numpy as np
import ray
from pipelines.session import Session
from pipelines.steps.results import Results, StepValue
from pipelines.steps.step import Step
from pipelines.steps.workflow import Workflow

@ray.remote
def train(recorder, run_id):
    for step in range(5):
        recorder.log_metrics(run_id, {"loss": 1.0 / (step + 1)}, step)
        recorder.progress(run_id, step + 1, 5, "training")
    recorder.log_image(run_id, np.zeros((8, 8, 3), np.uint8), "samples/x", 4)
    recorder.warn(run_id, "the discriminator wins")
    recorder.flush()

def body(run, _):
    ray.get(train.remote(run.recorder, run.run_id))
    deadline = time.monotonic() + 60
    while not (seen and said) and time.monotonic() < deadline:
        time.sleep(0.1)
    return StepValue()

seen, said = [], []
watch = lambda run_id, label, progress: seen.append((label, progress.done, progress.total, progress.text))
with Workflow("job", Session(Path(sys.argv[1])), say=said.append, watch=watch) as workflow:
    result = workflow.perform(Step("train", "train x", 1, {}, StepValue, body), Results())
print(result.run_id)
print(seen[-1])
print(said)
"""


@pytest.mark.distributed
def test_workers_are_heard(tracker: Tracker, home: Path) -> None:
    """A worker process writes metrics and a picture to its step's run, and the driver sees how far it is."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", JOB, str(home)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    run, seen, said = done.stdout.splitlines()
    assert seen == "('train x', 5, 5, 'training')"
    assert said == "['train x: the discriminator wins']"
    assert done.stderr == ""
    assert history(tracker, run, "loss") == [(step, 1.0 / (step + 1)) for step in range(5)]
    assert len(tracker.client.list_artifacts(run, "images")) == 2
    assert tracker.get_run(run).status == "FINISHED"
