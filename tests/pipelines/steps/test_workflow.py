"""Steps over a real MLflow store: run once, reused, waited for, continued after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra.errors import OutsideError
from infra.tracking import Tracker, open_tracker
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.locks import Lock
from pipelines.steps.results import Finished, Results, StepResult, StepValue, fingerprint_of
from pipelines.steps.step import Step, StepRun
from pipelines.steps.workflow import Workflow
from pipelines.workers.shape import Need

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def session(home: Path, empty_store: Path) -> Session:
    home.mkdir()
    shutil.copy(empty_store / "mlflow.db", home / "mlflow.db")
    return Session(home)


@pytest.fixture
def tracker(session: Session) -> Tracker:
    return open_tracker(session.home)


class Counted:
    """A body that counts its calls."""

    def __init__(self, value: dict[str, Any] | None = None) -> None:
        self.value, self.calls = value or {"top1": 0.5}, 0

    def __call__(self, run: StepRun) -> dict[str, Any]:
        self.calls += 1
        return self.value


class Free(StepValue, extra="allow"):
    """A value of any keys."""


Body = Callable[[StepRun], dict[str, Any]]


def step_of(name: str, config: dict[str, Any], body: Body, label: str = "", **more: Any) -> Step[Free]:
    more = {"version": 1, **more}
    return Step(
        name=name, label=label or name, config=config, value=Free, body=lambda run, _: Free.from_json(body(run)), **more
    )


def perform(workflow: Workflow, step: Step[Free], *inputs: StepResult[Any]) -> StepResult[Free]:
    return workflow.perform(step, Results(inputs))


def once(session: Session, body: Body, **changes: Any) -> StepResult[Free]:
    """One workflow of one step."""
    with Workflow("test", session) as workflow:
        arguments: dict[str, Any] = {"name": "score", "config": {"a": 1}, "body": body}
        return perform(workflow, step_of(**arguments | changes))


# Reuse


def test_a_finished_step_is_reused(session: Session, tracker: Tracker) -> None:
    body = Counted({"top1": 0.5, "layers": ("conv1", "conv2"), "none": None})
    first, second = once(session, body, label="score x"), once(session, body, label="score x")
    assert body.calls == 1
    assert first.value.to_json() == second.value.to_json() == {"top1": 0.5, "layers": ["conv1", "conv2"], "none": None}
    assert (first.reused, second.reused, first.run_id) == (False, True, second.run_id)
    run = tracker.get_run(first.run_id)
    assert (run.name, run.status, run.params) == ("score x", "FINISHED", {"a": "1"})


def test_a_finished_step_is_asked_for_once_in_a_command(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    more_than_there_are = Need(workers=10_000)  # which the check asks about, too
    many_cores = step_of("score", {"a": 1}, Counted(), need=more_than_there_are)
    with Workflow("test", session) as workflow:
        perform(workflow, many_cores)
    asked: list[dict[str, str]] = []
    search = Tracker.search

    def counted(self: Tracker, tags: dict[str, str], *more: Any) -> Any:
        asked.append(tags)
        return search(self, tags, *more)

    monkeypatch.setattr(Tracker, "search", counted)
    assert scheduling.run(many_cores, session, "again").reused
    assert [tags for tags in asked if "genoise.fingerprint" in tags] == [
        {"genoise.fingerprint": many_cores.fingerprint}
    ]


def test_the_parent_tells_the_story(session: Session, tracker: Tracker) -> None:
    once(session, Counted())
    with Workflow("table", session) as workflow:
        consumed = step_of("score", {"a": 1}, Counted())
        old = perform(workflow, consumed)
        new = perform(workflow, step_of("score", {"a": 2}, Counted(), "score y", inputs=(consumed,)), old)
    parent = tracker.get_run(workflow.run_id)
    assert (parent.name, parent.status) == ("table", "FINISHED")
    assert parent.tags[f"genoise.reused.{old.fingerprint[:12]}"] == f"score: {old.run_id}"
    assert old.run_id in parent.tags["mlflow.note.content"] and "(reused)" in parent.tags["mlflow.note.content"]
    assert parent.tags["genoise.torch"] and parent.tags["mlflow.source.name"].startswith("genoise")
    child = tracker.get_run(new.run_id)
    assert child.tags["mlflow.parentRunId"] == workflow.run_id
    assert json.loads(child.tags["genoise.inputs"]) == {"score": old.run_id}


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"version": 2}, {"config": {"a": 2}}, {"inputs": (step_of("x", {}, lambda run: {}),)}],
)
def test_what_changes_a_fingerprint(session: Session, change: dict[str, Any]) -> None:
    body = Counted()
    once(session, body)
    once(session, body, **change)
    assert body.calls == 2


def test_what_does_not_change_a_fingerprint(session: Session) -> None:
    body = Counted()
    once(session, body, config={"a": 1, "b": {"c": [1, 2], "d": None}})
    once(session, body, config={"b": {"d": None, "c": (1, 2)}, "a": 1}, label="other words", params={"shown": 1})
    assert body.calls == 1
    assert fingerprint_of("s", 1, {"a": 1, "b": 2}, []) == fingerprint_of("s", 1, {"b": 2, "a": 1}, [])
    assert fingerprint_of("s", 1, {}, ["f", "g"]) != fingerprint_of("s", 1, {}, ["g", "f"])


def test_a_long_value_is_kept(session: Session) -> None:
    value = {"rows": [{"task": "rotation", "text": "x" * 100}] * 200}
    assert once(session, Counted(value)).value.to_json() == value
    reused = once(session, Counted())
    assert reused.reused and reused.value.to_json() == value


# Outputs


def writes(file: str, text: str = "content", **check: Any) -> Callable[[StepRun], dict[str, Any]]:
    def body(run: StepRun) -> dict[str, Any]:
        (run.folder / file).write_text(text)
        run.output(run.folder / file, **check)
        run.output(run.folder)
        return {"file": str(run.folder / file)}

    return body


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("cut")])
def test_a_step_whose_output_was_lost_runs_again(
    session: Session, tracker: Tracker, damage: Callable[[Path], None]
) -> None:
    first = once(session, writes("index.json"))
    assert once(session, writes("index.json")).reused
    damage(Path(first.value.to_json()["file"]))
    assert Finished(tracker).find(step_of("score", {"a": 1}, Counted())) is None
    again = once(session, writes("index.json"))
    assert not again.reused and again.run_id != first.run_id
    assert once(session, writes("index.json")).run_id == again.run_id


def failing(run: StepRun) -> dict[str, Any]:
    run.output(run.folder / "missing")
    return {}


def incomplete(run: StepRun) -> dict[str, Any]:
    run.verify(lambda: False)
    return {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (failing, "was not written"),
        (incomplete, "not complete"),
        (writes("x", sha256="0" * 64), "is damaged"),
        (lambda run: {"loss": float("nan")}, "Out of range float"),
    ],
)
def test_a_step_is_finished_only_when_its_outputs_are_there(
    session: Session, tracker: Tracker, body: Callable[[StepRun], dict[str, Any]], said: str
) -> None:
    with pytest.raises((OutsideError, ValueError), match=said):
        once(session, body)
    (run,) = tracker.search({"genoise.step": "score"})
    assert run.status == "FAILED" and said in run.tags["genoise.error"]
    assert not once(session, Counted()).reused


# Failure


def test_finished_steps_survive_a_failure(session: Session, tracker: Tracker) -> None:
    first = Counted()

    def broken(run: StepRun) -> dict[str, Any]:
        raise ValueError("a reason\nin two lines")

    with pytest.raises(ValueError, match="a reason"), Workflow("table", session) as workflow:
        scored = step_of("score", {"a": 1}, first)
        done = perform(workflow, scored)
        perform(workflow, step_of("train", {}, broken, inputs=(scored,)), done)
    (run,) = tracker.search({"genoise.step": "train"})
    assert run.status == "FAILED" and run.tags["genoise.error"] == "ValueError: a reason in two lines"
    assert "Traceback" in tracker.read_text(run.run_id, "error.txt")
    assert tracker.get_run(workflow.run_id).status == "FAILED"
    assert once(session, first).reused and first.calls == 1


def test_ctrl_c_leaves_a_run_that_is_continued(session: Session, tracker: Tracker) -> None:
    def interrupted(run: StepRun) -> dict[str, Any]:
        (run.folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workflow("test", session) as workflow:
        perform(workflow, step_of("train", {}, interrupted))
    assert tracker.get_run(workflow.run_id).status == "KILLED"
    (cut,) = tracker.search({"genoise.step": "train"})
    assert cut.status == "KILLED"

    def goes_on(run: StepRun) -> dict[str, Any]:
        assert run.resumed
        return {"found": (run.folder / "checkpoint").read_text()}

    with Workflow("test", session) as workflow:
        result = perform(workflow, step_of("train", {}, goes_on))
    assert (result.run_id, result.value.to_json(), result.reused) == (cut.run_id, {"found": "half"}, False)
    assert tracker.get_run(cut.run_id).tags["mlflow.parentRunId"] == workflow.run_id


def test_a_stopped_step_is_killed_and_not_failed(session: Session, tracker: Tracker) -> None:
    """Steps in threads get no Ctrl-C: they fail because Ray was stopped, and are told apart by `interrupt`."""

    def stopped(run: StepRun) -> dict[str, Any]:
        run.workflow.interrupt()
        raise RuntimeError("a worker is gone")

    with pytest.raises(RuntimeError):
        once(session, stopped)
    assert [run.status for run in tracker.search({})] == ["KILLED", "KILLED"]


def test_a_tracking_server_that_is_gone_is_said_at_once(home: Path) -> None:
    session = Session(home, tracking_uri="http://127.0.0.1:9")
    with pytest.raises(OutsideError, match="does not answer"):
        once(session, Counted())


# Several processes

DRIVER = """
import sys, time
from pathlib import Path
from pipelines.session import Session
from pipelines.steps.results import Results, StepValue
from pipelines.steps.step import Step
from pipelines.steps.workflow import Workflow

class Slept(StepValue):
    slept: float

home, seconds = Path(sys.argv[1]), float(sys.argv[2])

def body(run, _):
    with (home / "calls").open("a") as file:
        file.write(f"{run.resumed}\\n")
    (run.folder / "checkpoint").write_text("half")
    print("started", flush=True)
    time.sleep(seconds)
    return Slept(slept=seconds)

with Workflow("driver", Session(home)) as workflow:
    result = workflow.perform(Step("train", "train", 1, {}, Slept, body), Results())
print(result.run_id, result.reused, "ray" in sys.modules, flush=True)
"""


def driver(session: Session, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER, str(session.home), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_two_at_once_run_a_step_once(session: Session) -> None:
    first = driver(session, 4.0)
    assert line_of(first) == "started"
    said: list[str] = []
    with Workflow("second", session, say=said.append) as workflow:
        result = perform(workflow, step_of("train", {}, Counted(), "train x"))
    out, error = first.communicate(timeout=60)
    assert first.returncode == 0, error
    assert out.split() == [result.run_id, "False", "False"]  # and without Ray
    assert result.reused and result.value.to_json() == {"slept": 4.0}
    assert len(said) == 1
    assert said[0].startswith(f"waiting for train x: process {first.pid} on ") and " since " in said[0]


def test_a_killed_driver_is_continued_in_the_same_run(session: Session, tracker: Tracker) -> None:
    killed = driver(session, 600.0)
    assert line_of(killed) == "started"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    (left,) = tracker.search({"genoise.step": "train"}, "RUNNING")
    (parent,) = tracker.search({"genoise.kind": "workflow"}, "RUNNING")

    again = driver(session, 0.0)
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert out.splitlines()[-1].split()[:2] == [left.run_id, "False"]
    assert (session.home / "calls").read_text().split() == ["False", "True"]  # resumed, the second time
    assert tracker.get_run(left.run_id).status == "FINISHED"
    assert tracker.get_run(parent.run_id).status == "KILLED"
    assert len(tracker.search({"genoise.step": "train"})) == 1


def test_a_living_workflow_is_not_reaped(session: Session, tracker: Tracker) -> None:
    with Workflow("first", session) as first:
        with Workflow("second", session):
            pass
        assert tracker.get_run(first.run_id).status == "RUNNING"


def test_threads_of_one_workflow_run_a_step_once(session: Session) -> None:
    body, started = Counted(), threading.Barrier(2)

    def slow(run: StepRun) -> dict[str, Any]:
        time.sleep(0.2)
        return body(run)

    with Workflow("test", session, say=lambda line: None) as workflow:

        def job() -> StepResult[Free]:
            started.wait()
            return perform(workflow, step_of("train", {}, slow))

        with ThreadPoolExecutor(2) as pool:
            results = [future.result() for future in [pool.submit(job), pool.submit(job)]]
    assert body.calls == 1
    assert sorted(r.reused for r in results) == [False, True]
    assert results[0].run_id == results[1].run_id


# The lock


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    first, second = Lock(tmp_path, "x"), Lock(tmp_path, "x")
    assert first.try_acquire() and not second.try_acquire()
    assert f"process {os.getpid()}" in second.holder()
    with Lock(tmp_path, "y") as other:
        assert not Lock(tmp_path, "y").try_acquire()
    assert other.try_acquire()
    other.release()
    first.release()
    assert second.try_acquire()
    second.release()


SHARED = """
import sys, time
from pathlib import Path
from infra.cluster import connect
from pipelines.steps import scheduling
from pipelines.steps.locks import Lock
connect()
lock = Lock(Path(sys.argv[1]), "x", shared=True)
print(lock.try_acquire(), lock.holder(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_a_lock_among_the_jobs_of_a_cluster(tmp_path: Path) -> None:
    """Three drivers with folders of their own, so that only the actor keeps them apart; the first is killed."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.address}

    def other(folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SHARED, str(tmp_path / folder)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    try:
        first = other("a")
        assert line_of(first).startswith("True")
        second = other("b")
        assert line_of(second).startswith(f"False process {first.pid} on ")
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=30)
        deadline = time.monotonic() + 60
        while not line_of(third := other("c")).startswith("True"):
            assert time.monotonic() < deadline
            third.communicate("\n", timeout=30)
        for process in (second, third):
            process.communicate("\n", timeout=30)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray's own
