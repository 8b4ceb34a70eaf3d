"""What finished steps left: typed values, kept as JSON at their runs, and files that are looked for before reuse."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from infra.errors import OutsideError
from infra.storage import is_remote, open_storage, sha256_of
from infra.tracking import FINGERPRINT, RunInfo, Tracker

Json = dict[str, Any]  # plain JSON, as it is written and read

VALUE, OUTPUTS = "genoise.value", "genoise.outputs"  # tags of a run
VALUE_FILE, OUTPUTS_FILE = "step.json", "outputs.json"  # where they are longer than a tag may be
NEWEST = 5  # finished runs of one fingerprint that are looked at, the newest first


class StepValue(BaseModel):
    """Base of what steps of one kind leave. What is not said when a value is made is not written either."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """The value that `to_json` wrote, perhaps by an earlier version."""
        return cls.model_validate(values)

    def to_json(self) -> Json:
        """Plain JSON; numbers may still be NaN."""
        return self.model_dump(mode="json", exclude_unset=True)


V = TypeVar("V", bound=StepValue)
V_co = TypeVar("V_co", bound=StepValue, covariant=True)


@dataclass(frozen=True)
class StepResult(Generic[V_co]):
    """What a finished step left. ``value`` is the same whether the step ran now or is reused."""

    name: str
    label: str
    fingerprint: str
    run_id: str
    value: V_co
    reused: bool


class Asked(Protocol[V_co]):
    """What a result is asked for by: a step."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def value(self) -> type[V_co]: ...


class Results:
    """The results of steps, asked for by the step: ``results[prepared].value.samples``."""

    def __init__(self, found: Iterable[StepResult[Any]] = ()) -> None:
        self._found = {result.fingerprint: result for result in found}

    def __getitem__(self, step: Asked[V]) -> StepResult[V]:
        return self._found[step.fingerprint]

    def __iter__(self) -> Iterator[StepResult[Any]]:
        return iter(self._found.values())


@dataclass(frozen=True)
class Output:
    """A file (with its size) or a folder (without) that a step left."""

    url: str
    bytes: int | None = None

    @property
    def is_there(self) -> bool:
        """Whether it can be found from here, a file in its full size."""
        if self.bytes is None:
            return Path(self.url).is_dir()
        place, _, name = self.url.rpartition("/")
        return open_storage(place).size(name) == self.bytes

    def measured(self, label: str, sha256: str | None) -> "Output":
        """The output of step ``label`` with its size; OutsideError where it is not what the step said."""
        if not is_remote(self.url) and Path(self.url).is_dir():
            return self
        place, _, name = self.url.rpartition("/")
        storage = open_storage(place)
        size = storage.size(name)
        if size is None:
            raise OutsideError(f"{label}: {self.url} was not written; run it again")
        if sha256 is not None:
            with tempfile.TemporaryDirectory() as into:
                found = sha256_of(storage.fetch(name, Path(into)))
            if found != sha256:
                raise OutsideError(
                    f"{label}: {self.url} is damaged (sha256 {found[:12]}, not {sha256[:12]}); run it again"
                )
        return Output(self.url, size)


class Finished:
    """What the tracker knows of finished steps. One that is known is asked for once."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._exists = False
        self._known: dict[str, StepResult[Any]] = {}

    def find(self, step: Asked[V]) -> StepResult[V] | None:
        """The newest finished run of the step whose outputs can be found from here; writes nothing."""
        known = self._known.get(step.fingerprint) or self._ask(step)
        return known and replace(known, label=step.label)  # equal steps may have other words for people

    def add(self, result: StepResult[Any]) -> None:
        """Remember what has just been finished."""
        self._known[result.fingerprint] = result

    def _ask(self, step: Asked[V]) -> StepResult[V] | None:
        self._exists = self._exists or self.tracker.exists()
        if not self._exists:
            return None
        for run in self.tracker.search({FINGERPRINT: step.fingerprint}, "FINISHED", NEWEST):
            if all(Output(**output).is_there for output in _load(self.tracker, run, OUTPUTS, OUTPUTS_FILE)):
                value = step.value.from_json(_load(self.tracker, run, VALUE, VALUE_FILE))
                found = StepResult(step.name, step.label, step.fingerprint, run.run_id, value, True)
                self.add(found)
                return found
        return None


def _load(tracker: Tracker, run: RunInfo, tag: str, file: str) -> Any:
    return json.loads(run.tags.get(tag) or tracker.read_text(run.run_id, file))


def fingerprint_of(name: str, version: int, config: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """sha256 over the one JSON text of a step's name, version, configuration and consumed fingerprints."""
    content = {"name": name, "version": version, "config": config, "inputs": list(inputs)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
