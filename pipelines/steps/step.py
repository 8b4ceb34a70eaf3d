"""Steps as data: what is to be run, from what.

prepare, pretrain and transfer each turn a piece of configuration into a `Step`; the steps that a step consumes hang on
it. So a dry run and a run look at the same thing, and equal steps are one step.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol

from infra.storage import absolute
from infra.tracking import Tracker
from pipelines.session import Session
from pipelines.steps.results import Json, Output, Results, StepResult, V, fingerprint_of
from pipelines.workers.shape import Need

if TYPE_CHECKING:
    from pipelines.steps.worker_log import Progress, Recorder
    from pipelines.workers.groups import Groups

Watcher = Callable[[str, str, "Progress"], None]  # run id, the step's label, how far it is


class Within(Protocol):
    """What a step needs of the workflow that runs it: see `pipelines.steps.workflow.Workflow`."""

    session: Session
    tracker: Tracker
    say: Callable[[str], None]
    watch: Watcher | None

    @property
    def recorder(self) -> "Recorder": ...
    @property
    def groups(self) -> "Groups": ...
    def interrupt(self) -> None: ...
    def on_interrupt(self, stop: Callable[[], None]) -> None: ...
    def perform(
        self,
        step: "Step[V]",
        inputs: Results,
        share: Callable[[], AbstractContextManager[None]] = nullcontext,
        parent: str | None = None,
    ) -> StepResult[V]: ...


class StepRun:
    """What the body of a step gets: its MLflow run, a folder of its own, and ways to say what it does and wrote."""

    def __init__(self, workflow: Within, run_id: str, label: str, fingerprint: str, resumed: bool) -> None:
        self.workflow = workflow
        self.run_id, self.label, self.fingerprint, self.resumed = run_id, label, fingerprint, resumed
        self.outputs: list[tuple[Output, str | None]] = []
        self.checks: list[Callable[[], bool]] = []

    @property
    def session(self) -> Session:
        """Where the command works."""
        return self.workflow.session

    @property
    def tracker(self) -> Tracker:
        """Where the step's run is."""
        return self.workflow.tracker

    @property
    def folder(self) -> Path:
        """A folder of the step's own, which is there: see `Session.run_folder`."""
        folder = self.session.run_folder(self.fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def recorder(self) -> "Recorder":
        """The workflow's recorder, to be handed to workers; connects to Ray."""
        return self.workflow.recorder

    @property
    def groups(self) -> "Groups":
        """The workers that stay from step to step; connects to Ray."""
        return self.workflow.groups

    def say(self, line: str) -> None:
        """Tell the user something."""
        self.workflow.say(line)

    def progress(self, progress: "Progress") -> None:
        """Show how far the step is (workers say it to the recorder instead)."""
        if self.workflow.watch:
            self.workflow.watch(self.run_id, self.label, progress)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers to the step's run; ``step``: of the optimizer."""
        self.tracker.log_metrics(self.run_id, values, step)

    def output(self, url: str | Path, sha256: str | None = None) -> None:
        """Name a file or folder that the body wrote: looked for before the step is finished, and before it is reused.

        ``sha256`` of a file is compared at the end of the step; the size is compared at every reuse.
        """
        self.outputs.append((Output(absolute(str(url))), sha256))

    def verify(self, check: Callable[[], bool]) -> None:
        """Have ``check`` called after the body; the step fails unless it returns True."""
        self.checks.append(check)


@dataclass(frozen=True, eq=False)
class Step(Generic[V]):
    """One unit of work. ``config`` and the fingerprints of ``inputs`` are all that its result depends on."""

    name: str
    label: str  # for people
    version: int
    config: Json  # everything that decides the result, and nothing else
    value: type[V]
    body: Callable[[StepRun, Results], V]
    inputs: tuple["Step[Any]", ...] = ()
    after: tuple["Step[Any]", ...] = ()  # what must have ended well before it starts, and is not consumed
    ready: Callable[[Results], None] | None = None  # looks at the results of ``after``; raises where it is no use
    need: Need = Need()  # of cores, or of GPUs where there are any
    params: Json = field(default_factory=dict)  # what the tracker shows of it; ``config`` where empty

    @cached_property
    def fingerprint(self) -> str:
        """The same for every step that must have the same result."""
        return fingerprint_of(self.name, self.version, self.config, [step.fingerprint for step in self.inputs])


@dataclass(frozen=True)
class Planned:
    """A step as a dry run shows it."""

    name: str
    label: str
    fingerprint: str
    reused: bool


def in_order(steps: Sequence[Step[Any]]) -> list[Step[Any]]:
    """The steps and all that they consume or wait for, each once, inputs first."""
    found: dict[str, Step[Any]] = {}

    def add(step: Step[Any]) -> None:
        for other in (*step.inputs, *step.after):
            add(other)
        found.setdefault(step.fingerprint, step)

    for step in steps:
        add(step)
    return list(found.values())
