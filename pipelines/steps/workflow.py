"""Workflows made of steps. A step is one MLflow run: finished once, reused ever after by its fingerprint.

The fingerprint is the sha256 of the step's name, version, configuration and the fingerprints of what it consumes. A
step is marked finished only after its outputs were found to be there. A run that was cut off by the death of its
process is continued, as the same run, by the next workflow that needs the step.
"""

import hashlib
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from components.errors import Stopped
from infra import ending
from infra.errors import OutsideError
from infra.tracking import FINGERPRINT, TAG_LIMIT, open_tracker
from pipelines.session import Session
from pipelines.steps.locks import Lock
from pipelines.steps.origin import command_line, origin
from pipelines.steps.results import OUTPUTS, OUTPUTS_FILE, VALUE, VALUE_FILE, Finished, Results, StepResult, V
from pipelines.steps.step import Step, StepRun, Watcher

if TYPE_CHECKING:
    from pipelines.steps.worker_log import Recorder
    from pipelines.workers.groups import Groups


# Tags of a run
KIND = "genoise.kind"  # workflow or step
STEP, STEP_VERSION = "genoise.step", "genoise.step_version"
INPUTS = "genoise.inputs"
OWNER, LOCK, ERROR = "genoise.owner", "genoise.lock", "genoise.error"

WATCH_S = 1.0
JOIN_S = 10.0


class Workflow:
    """A parent run and its steps; a context manager. Ray starts when a step first needs it, not before."""

    def __init__(
        self,
        name: str,
        session: Session,
        finished: Finished | None = None,
        say: Callable[[str], None] | None = None,
        watch: Watcher | None = None,
    ) -> None:
        """``say`` gets lines for the user; ``watch`` gets the progress of steps, from other threads."""
        self.name, self.session = name, session
        self.finished = finished or Finished(open_tracker(session.home, session.tracking_uri))
        self.tracker = self.finished.tracker
        self.say = say or _say
        self.watch = watch
        self.run_id = ""
        self.results: list[StepResult[Any]] = []  # of all steps so far, in the order in which they ended
        self._lock: Lock | None = None
        self._mutex = threading.RLock()
        self._recorder: Recorder | None = None
        self._groups: Groups | None = None
        self._labels: dict[str, str] = {}
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None
        self._interrupted = False
        self._stoppers: list[Callable[[], None]] = []
        self._whole = ExitStack()  # open while signals wait: see `ending.deferred`

    # The parent run

    def __enter__(self) -> Self:
        self.session.make_home()
        self.tracker.check()
        if self._shared:
            self._connect()
        self._reap()
        tags = {KIND: "workflow", OWNER: self._owner, "mlflow.source.name": command_line(), **origin()}
        name = hashlib.sha256(os.urandom(16)).hexdigest()[:16]
        self._lock = Lock(self._locks, f"workflow-{name}", self._shared)
        self._whole.enter_context(ending.deferred())
        try:
            self._lock.try_acquire()
            self.run_id = self.tracker.start_run(self.name, tags={**tags, LOCK: f"workflow-{name}"})
        except BaseException:
            self._whole.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._groups:
                self._groups.close()
            self._close_recorder()
            tags = {"mlflow.note.content": self._story()}
            if error is not None:
                tags[ERROR] = _one_line(error)
            self.tracker.set_tags(self.run_id, tags)
            self.tracker.finish(self.run_id, self._status(error))
        except OutsideError:
            if error is None:  # what went wrong first is what the user has to hear
                raise
        finally:
            if self._lock:
                self._lock.release()
            self._whole.close()
        if error is None:
            ending.check()

    def interrupt(self) -> None:
        """From now on, what fails does so because the user wants to stop: KILLED, to be continued, and not FAILED.
        Trainings end with a checkpoint; nothing new is begun."""
        with self._mutex:
            self._interrupted = True
            recorder, stoppers = self._recorder, list(self._stoppers)
        if recorder:
            with suppress(OutsideError):
                recorder.tell()
        for stop in stoppers:
            stop()

    def on_interrupt(self, stop: Callable[[], None]) -> None:
        """Have ``stop`` called when the user wants to stop; at once where that is so already."""
        with self._mutex:
            self._stoppers.append(stop)
            late = self._interrupted
        if late:
            stop()

    @property
    def recorder(self) -> "Recorder":
        """The one actor through which workers log; started, with Ray, at the first use."""
        with self._mutex:
            if self._recorder is None:
                self._connect()
                from pipelines.steps.worker_log import Recorder

                self._recorder = Recorder(self.tracker)
                self._follower = threading.Thread(target=self._follow, args=(self._recorder,), daemon=True)
                self._follower.start()
            return self._recorder

    @property
    def groups(self) -> "Groups":
        """The workers that stay from step to step; they start, with Ray, when there is work for them."""
        with self._mutex:
            if self._groups is None:
                self._connect()
                from pipelines.workers.groups import Groups

                self._groups = Groups(self.session.folder("cache"), self.session.private)
            return self._groups

    # Steps

    def perform(
        self,
        step: Step[V],
        inputs: Results,
        share: Callable[[], AbstractContextManager[None]] = nullcontext,
        parent: str | None = None,
    ) -> StepResult[V]:
        """The way of a step: reused, waited for, continued, or run; finished, killed or failed.

        ``inputs``: the results of what it consumes. ``share``: held while it runs, such as its share of the cores.
        ``parent``: the run below which it is shown (default: the workflow's). Raises what the step's body raises, after
        the run was marked FAILED, or KILLED where it can be continued: on Ctrl-C, and on Stopped. May be called from
        several threads.
        """
        if known := self.finished.find(step):
            return self._reused(known)
        waiting = f"waiting for {step.label}: {{}} is running it"
        with share(), Lock(self._locks, step.fingerprint, self._shared, lambda who: self.say(waiting.format(who))):
            if known := self.finished.find(step):  # somebody has finished it meanwhile
                return self._reused(known)
            run = self._begin(step, inputs, parent or self.run_id)
            try:
                result = self._finish(step, run, step.body(run, inputs))
            except BaseException as error:
                self._failed(run.run_id, error)
                raise
        return self._ended(result)

    def _reused(self, known: StepResult[V]) -> StepResult[V]:
        self.tracker.set_tags(
            self.run_id, {f"genoise.reused.{known.fingerprint[:12]}": f"{known.label}: {known.run_id}"}
        )
        return self._ended(known)

    def _ended(self, result: StepResult[V]) -> StepResult[V]:
        with self._mutex:
            self.results.append(result)
        return result

    def _begin(self, step: Step[Any], inputs: Results, parent: str) -> StepRun:
        """The step's run: a new one, or the one that was cut off."""
        unfinished = self.tracker.unfinished(step.fingerprint)
        dead = next((run for run in unfinished if run.tags.get(OWNER) == self._owner), None)
        if dead:
            run_id = dead.run_id
            self.tracker.resume_run(run_id, parent)
        else:
            tags = {KIND: "step", STEP: step.name, STEP_VERSION: str(step.version), FINGERPRINT: step.fingerprint}
            tags |= {LOCK: step.fingerprint, OWNER: self._owner}
            tags |= {INPUTS: json.dumps({each.label: each.run_id for each in inputs})}
            run_id = self.tracker.start_run(step.label, parent, tags, step.params or step.config)
        self._labels[run_id] = step.label
        return StepRun(self, run_id, step.label, step.fingerprint, resumed=dead is not None)

    def _finish(self, step: Step[V], run: StepRun, value: V) -> StepResult[V]:
        """Look for what the body wrote, keep its value, and mark the run as finished."""
        text = json.dumps(value.to_json(), allow_nan=False)
        if self._recorder:
            self._recorder.flush()
        outputs = [output.measured(run.label, sha256) for output, sha256 in run.outputs]
        if not all(check() for check in run.checks):
            raise OutsideError(f"{run.label}: what was written is not complete; run it again")
        self._save(run.run_id, OUTPUTS, OUTPUTS_FILE, json.dumps([asdict(output) for output in outputs]))
        self._save(run.run_id, VALUE, VALUE_FILE, text)
        self.tracker.finish(run.run_id)
        as_read = step.value.from_json(json.loads(text))  # the same as whoever reuses it gets
        result = StepResult(step.name, step.label, step.fingerprint, run.run_id, as_read, False)
        self.finished.add(replace(result, reused=True))
        return result

    def _failed(self, run_id: str, error: BaseException) -> None:
        try:
            self.tracker.set_tags(run_id, {ERROR: _one_line(error)})
            self.tracker.log_text(run_id, "".join(traceback.format_exception(error)), "error.txt")
            self.tracker.finish(run_id, self._status(error))
        except OutsideError as trouble:  # the run stays RUNNING, and is continued like one whose process died
            self.say(f"could not mark the run {run_id} as failed: {trouble}")

    def _save(self, run_id: str, tag: str, file: str, text: str) -> None:
        if len(text) > TAG_LIMIT:
            self.tracker.log_text(run_id, text, file)
            text = ""
        self.tracker.set_tags(run_id, {tag: text})

    # Inside

    @property
    def _locks(self) -> Path:
        return self.session.folder("locks")

    @property
    def _shared(self) -> bool:
        return not self.session.private

    @property
    def _owner(self) -> str:
        """Those who can see each other's locks: one home folder, or one cluster."""
        if self._shared:
            return f"cluster {self.session.cluster}"
        return f"{socket.gethostname()}:{self.session.home.absolute()}"

    def _connect(self) -> None:
        from infra.cluster import connect

        connect(self.session.address)

    def _reap(self) -> None:
        """Mark as KILLED what a dead process left as RUNNING."""
        for run in self.tracker.search({OWNER: self._owner}, "RUNNING"):
            lock = Lock(self._locks, run.tags[LOCK], self._shared)
            if lock.try_acquire():
                try:
                    if self.tracker.get_run(run.run_id).status == "RUNNING":  # not finished since it was found
                        self.tracker.finish(run.run_id, "KILLED")
                finally:
                    lock.release()

    def _status(self, error: BaseException | None) -> str:
        if error is None:
            return "FINISHED"
        continues = isinstance(error, Stopped) or not isinstance(error, Exception) or self._interrupted
        return "KILLED" if continues else "FAILED"

    def _follow(self, recorder: "Recorder") -> None:
        """Pass on what workers tell the recorder, until the workflow ends."""
        warned: dict[str, int] = {}
        while not self._closing.wait(WATCH_S):
            try:
                latest = recorder.latest()
            except OutsideError:
                continue  # said by whoever has to write something
            for run_id, progress in latest.items():
                label = self._labels.get(run_id, run_id)
                if self.watch and progress.total:
                    self.watch(run_id, label, progress)
                for message in progress.warnings[warned.get(run_id, 0) :]:
                    self.say(f"{label}: {message}")
                warned[run_id] = len(progress.warnings)

    def _close_recorder(self) -> None:
        self._closing.set()
        with self._mutex:
            recorder, self._recorder = self._recorder, None
        try:
            if recorder:
                recorder.close()
        finally:
            if self._follower:  # it asks Ray, which nobody may do any more when this process leaves Ray
                self._follower.join(JOIN_S)

    def _story(self) -> str:
        """The steps in Markdown, for the run's page in the user interface."""
        experiment = self.tracker.experiment_id
        lines = [
            f"- [{r.label}](#/experiments/{experiment}/runs/{r.run_id}){' (reused)' if r.reused else ''}"
            for r in self.results
        ]
        return "\n".join(lines)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _one_line(error: BaseException) -> str:
    error = getattr(error, "cause", error)  # Ray puts an error of a remote task inside its own, with its traceback
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]
