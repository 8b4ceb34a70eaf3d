"""Steps as data: what is to be run, from what.

prepare, pretrain and transfer each turn a piece of configuration into a `Step`; the steps that a step consumes hang on
it. So a dry run and a run look at the same thing, and equal steps are one step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipelines.steps.workflow import StepResult, StepRun, fingerprint_of

Value = dict[str, Any]
Body = Callable[[StepRun, tuple[StepResult, ...]], Value]


@dataclass(frozen=True, eq=False)
class Step:
    """One unit of work. ``config`` and the fingerprints of ``inputs`` are all that its result depends on."""

    name: str
    label: str  # for people
    version: int
    config: Value
    body: Body
    inputs: tuple["Step", ...] = ()
    after: tuple["Step", ...] = ()  # what must have ended well before it starts, and is not consumed
    ready: Callable[[tuple[StepResult, ...]], None] | None = None  # looks at those results; raises where it is no use
    cores: int = 1  # CPUs, or GPUs where there are any, that it keeps busy
    cpus: int = 1  # those of them that each of its workers needs
    params: Value = field(default_factory=dict)  # what the tracker shows of it; ``config`` where empty

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


def in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps and all that they consume or wait for, each once, inputs first."""
    found: dict[str, Step] = {}

    def add(step: Step) -> None:
        for other in (*step.inputs, *step.after):
            add(other)
        found.setdefault(step.fingerprint, step)

    for step in steps:
        add(step)
    return list(found.values())
