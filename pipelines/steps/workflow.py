"""Workflows made of steps. A step is one MLflow run: finished once, reused ever after by its fingerprint.

The fingerprint is the sha256 of the step's name, version, configuration and the fingerprints of what it consumes. A
step is marked finished only after its outputs were found to be there. A run that was cut off by the death of its
process is continued, as the same run, by the next workflow that needs the step.
"""

import hashlib
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from components.errors import Stopped
from infra import ending
from infra.errors import OutsideError
from infra.storage import Storage, absolute, is_remote, sha256_of
from infra.tracking import FINGERPRINT, TAG_LIMIT, RunInfo, Tracker, open_tracker
from pipelines.session import Session
from pipelines.steps.locks import Lock

if TYPE_CHECKING:
    from pipelines.steps.worker_log import Progress, Recorder

Value = dict[str, Any]
Watcher = Callable[[str, str, "Progress"], None]  # run id, the step's label, how far it is

# Tags of a run
KIND = "genoise.kind"  # workflow or step
STEP, STEP_VERSION = "genoise.step", "genoise.step_version"
VALUE, OUTPUTS, INPUTS = "genoise.value", "genoise.outputs", "genoise.inputs"
OWNER, LOCK, ERROR = "genoise.owner", "genoise.lock", "genoise.error"
VALUE_FILE, OUTPUTS_FILE = "step.json", "outputs.json"  # where they are longer than a tag may be

PACKAGES = ("torch", "ray", "mlflow", "numpy")
WATCH_S = 1.0
JOIN_S = 10.0


@dataclass(frozen=True)
class StepResult:
    """What a finished step left. ``value`` is plain JSON, the same whether the step ran now or is reused."""

    name: str
    label: str
    fingerprint: str
    run_id: str
    value: Value
    reused: bool


@dataclass(frozen=True)
class Output:
    """A file (with its size) or a folder (without) that a step left."""

    url: str
    bytes: int | None = None


class StepRun:
    """What the body of a step gets: its MLflow run, a folder of its own, and ways to say what it does and wrote."""

    def __init__(self, workflow: "Workflow", run_id: str, label: str, fingerprint: str, resumed: bool) -> None:
        self.workflow, self.tracker = workflow, workflow.tracker
        self.run_id, self.label, self.fingerprint, self.resumed = run_id, label, fingerprint, resumed
        self.outputs: list[tuple[Output, str | None]] = []
        self.checks: list[Callable[[], bool]] = []

    @property
    def folder(self) -> Path:
        """A folder of the step's own, which is there: see `Session.run_folder`."""
        folder = self.workflow.session.run_folder(self.fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def recorder(self) -> "Recorder":
        """The workflow's recorder, to be handed to workers; connects to Ray."""
        return self.workflow.recorder

    def progress(self, progress: "Progress") -> None:
        """Show how far the step is (workers say it to the recorder instead)."""
        if self.workflow.watch:
            self.workflow.watch(self.run_id, self.label, progress)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers to the step's run."""
        self.tracker.log_metrics(self.run_id, values, step)

    def output(self, url: str | Path, sha256: str | None = None) -> None:
        """Name a file or folder that the body wrote: looked for before the step is finished, and before it is reused.

        ``sha256`` of a file is compared at the end of the step; the size is compared at every reuse.
        """
        self.outputs.append((Output(absolute(str(url))), sha256))

    def verify(self, check: Callable[[], bool]) -> None:
        """Have ``check`` called after the body; the step fails unless it returns True."""
        self.checks.append(check)


class Workflow:
    """A parent run and its steps; a context manager. Ray starts when a step first needs it, not before."""

    def __init__(
        self,
        name: str,
        session: Session,
        tracker: Tracker | None = None,
        say: Callable[[str], None] | None = None,
        watch: Watcher | None = None,
    ) -> None:
        """``say`` gets lines for the user; ``watch`` gets the progress of steps, from other threads."""
        self.name, self.session = name, session
        self.tracker = tracker or open_tracker(session.home, session.tracking_uri)
        self.say = say or _say
        self.watch = watch
        self.run_id = ""
        self.results: list[StepResult] = []  # of all steps so far, in the order in which they ended
        self._lock: Lock | None = None
        self._mutex = threading.RLock()
        self._recorder: Recorder | None = None
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
        tags = {KIND: "workflow", OWNER: self._owner, "mlflow.source.name": _command_line(), **_origin()}
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

    # Steps

    def step(
        self,
        name: str,
        version: int,
        config: Mapping[str, Any],
        run: Callable[[StepRun], Value],
        inputs: Sequence[StepResult] = (),
        label: str = "",
        params: Mapping[str, Any] | None = None,
        parent: str | None = None,
    ) -> StepResult:
        """Reuse the step's result, or wait for whoever is at it, or continue where it was cut off, or run it.

        ``config``: JSON, everything that decides the result, and nothing else. ``run`` gets a `StepRun` and returns the
        value, JSON with finite numbers. ``params``: what the run shows as parameters (default: ``config``). ``parent``:
        the run below which it is shown (default: the workflow's). Raises what ``run`` raises, after the run was marked
        FAILED, or KILLED where it can be continued: on Ctrl-C, and on Stopped. May be called from several threads.
        """
        label = label or name
        fingerprint = fingerprint_of(name, version, config, [i.fingerprint for i in inputs])
        reused = find_step(self.tracker, name, label, fingerprint)
        if reused is None:
            waiting = f"waiting for {label}: {{}} is running it"
            with Lock(self._locks, fingerprint, self._shared, lambda who: self.say(waiting.format(who))):
                reused = find_step(self.tracker, name, label, fingerprint)  # somebody may have finished it meanwhile
                if reused is None:
                    tags = {KIND: "step", STEP: name, STEP_VERSION: str(version), FINGERPRINT: fingerprint}
                    tags |= {LOCK: fingerprint, OWNER: self._owner}
                    tags |= {INPUTS: json.dumps({i.label: i.run_id for i in inputs})}
                    shown = config if params is None else params
                    result = self._run(label, tags, shown, run, parent or self.run_id)
                    return self._ended(StepResult(name, label, fingerprint, *result, False))
        self.tracker.set_tags(self.run_id, {f"genoise.reused.{fingerprint[:12]}": f"{label}: {reused.run_id}"})
        return self._ended(reused)

    def _ended(self, result: StepResult) -> StepResult:
        with self._mutex:
            self.results.append(result)
        return result

    def _run(
        self, label: str, tags: dict[str, str], params: Mapping[str, Any], body: Callable[[StepRun], Value], parent: str
    ) -> tuple[str, Value]:
        """Run the body within its MLflow run; returns the run's id and the value."""
        fingerprint = tags[FINGERPRINT]
        dead = next((run for run in self.tracker.unfinished(fingerprint) if run.tags.get(OWNER) == self._owner), None)
        if dead:
            run_id = dead.run_id
            self.tracker.resume_run(run_id, parent)
        else:
            run_id = self.tracker.start_run(label, parent, tags, params)
        self._labels[run_id] = label
        step = StepRun(self, run_id, label, fingerprint, resumed=dead is not None)
        try:
            value: Value = json.loads(json.dumps(body(step), allow_nan=False))
            if self._recorder:
                self._recorder.flush()
            outputs = [_checked(label, output, sha256) for output, sha256 in step.outputs]
            if not all(check() for check in step.checks):
                raise OutsideError(f"{label}: what was written is not complete; run it again")
            self._save(run_id, OUTPUTS, OUTPUTS_FILE, [asdict(output) for output in outputs])
            self._save(run_id, VALUE, VALUE_FILE, value)
            self.tracker.finish(run_id)
        except BaseException as error:
            self._failed(run_id, error)
            raise
        return run_id, value

    def _failed(self, run_id: str, error: BaseException) -> None:
        try:
            self.tracker.set_tags(run_id, {ERROR: _one_line(error)})
            self.tracker.log_text(run_id, "".join(traceback.format_exception(error)), "error.txt")
            self.tracker.finish(run_id, self._status(error))
        except OutsideError as trouble:  # the run stays RUNNING, and is continued like one whose process died
            self.say(f"could not mark the run {run_id} as failed: {trouble}")

    def _save(self, run_id: str, tag: str, file: str, content: Any) -> None:
        text = json.dumps(content)
        if len(text) > TAG_LIMIT:
            self.tracker.log_text(run_id, text, file)
            text = ""
        self.tracker.set_tags(run_id, {tag: text})

    # Inside

    @property
    def _locks(self) -> Path:
        return self.session.folder("locks")

    @property
    def _address(self) -> str | None:
        """Of the cluster that others use too; as infra.cluster has it, which cannot be asked without importing Ray."""
        address = self.session.address or os.environ.get("RAY_ADDRESS")
        return None if address in (None, "", "local") else address

    @property
    def _shared(self) -> bool:
        return self._address is not None

    @property
    def _owner(self) -> str:
        """Those who can see each other's locks: one home folder, or one cluster."""
        if self._shared:
            return f"cluster {self._address}"
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


def find_step(tracker: Tracker, name: str, label: str, fingerprint: str) -> StepResult | None:
    """The newest finished step of this fingerprint whose outputs can be found from here."""
    for run in tracker.search({FINGERPRINT: fingerprint}, "FINISHED", 5):
        if all(_is_there(Output(**output)) for output in _load(tracker, run, OUTPUTS, OUTPUTS_FILE)):
            return StepResult(name, label, fingerprint, run.run_id, _load(tracker, run, VALUE, VALUE_FILE), True)
    return None


def _load(tracker: Tracker, run: RunInfo, tag: str, file: str) -> Any:
    return json.loads(run.tags.get(tag) or tracker.read_text(run.run_id, file))


def fingerprint_of(name: str, version: int, config: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """sha256 over the one JSON text of a step's name, version, configuration and consumed fingerprints."""
    content = {"name": name, "version": version, "config": config, "inputs": list(inputs)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(label: str, output: Output, sha256: str | None) -> Output:
    """``output`` with its size; OutsideError where it is not what the step said."""
    if not is_remote(output.url) and Path(output.url).is_dir():
        return output
    place, _, name = output.url.rpartition("/")
    size = Storage(place).size(name)
    if size is None:
        raise OutsideError(f"{label}: {output.url} was not written; run it again")
    if sha256 is not None:
        found = (
            hashlib.sha256(Storage(place).read_bytes(name)).hexdigest()
            if is_remote(place)
            else sha256_of(Path(output.url))
        )
        if found != sha256:
            raise OutsideError(
                f"{label}: {output.url} is damaged (sha256 {found[:12]}, not {sha256[:12]}); run it again"
            )
    return Output(output.url, size)


def _is_there(output: Output) -> bool:
    if output.bytes is None:
        return Path(output.url).is_dir()
    place, _, name = output.url.rpartition("/")
    return Storage(place).size(name) == output.bytes


def _one_line(error: BaseException) -> str:
    error = getattr(error, "cause", error)  # Ray puts an error of a remote task inside its own, with its traceback
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]


def _command_line() -> str:
    return shlex.join(["genoise", *sys.argv[1:]])[:1000]


def _origin() -> dict[str, str]:
    """What ran: versions, and the git revision where the code lies in a repository."""
    found = {"genoise.python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[f"genoise.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        found["mlflow.source.git.commit"] = revision
    except (OSError, subprocess.SubprocessError):
        pass  # installed from a package, or no git on this machine
    return found
