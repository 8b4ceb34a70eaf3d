"""What is known of the trials of a sweep, and the file that remembers it: a line is appended when a trial is proposed,
and another when it has ended, so whoever is killed loses nothing that was finished."""

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.sweeps.space import Point

State = Literal["finished", "stopped", "diverged", "collapsed", "failed"]
PUBLISHED, RESCALED = "published", "rescaled"  # the trials that every sweep has beside those that it thinks of
Probe = tuple[int, float]  # step, score


@dataclass(frozen=True)
class Proposal:
    """A trial to be run. Of one name: the recipe as it was published (with no point), or the rescaled network."""

    number: int
    name: str
    point: Point
    until: int | None = None  # the step at which it stops, to be continued by a later one; None: at its end
    after: int | None = None  # the trial from whose last checkpoint it starts
    since: int = 0  # the step of that checkpoint

    @property
    def searched(self) -> bool:
        """Whether it is one of the sweep's own."""
        return self.name not in (PUBLISHED, RESCALED)


@dataclass(frozen=True)
class Record:
    """A trial that has ended, however it did."""

    proposal: Proposal
    state: State
    values: dict[str, float]  # objective: value, of finished trials
    scores: dict[str, float] = field(default_factory=dict)  # recipe: validation score
    probes: list[Probe] = field(default_factory=list)
    core_seconds: float = 0.0
    images: int = 0
    run_id: str = ""
    why: str = ""  # it did not finish

    @property
    def number(self) -> int:
        """The number of its proposal."""
        return self.proposal.number

    def to_json(self) -> dict[str, Any]:
        """Plain data; `record_of` reads it back."""
        return asdict(self)


def record_of(values: dict[str, Any]) -> Record:
    """The record that `Record.to_json` wrote."""
    probes = [(int(step), float(score)) for step, score in values["probes"]]
    return Record(**{**values, "proposal": Proposal(**values["proposal"]), "probes": probes})


class Ledger:
    """The trials of one sweep, in a file of JSON lines. May be used from several threads."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier command left; a last line that it did not finish does not count."""
        self._path, self._mutex = path, threading.Lock()
        self.proposals: dict[int, Proposal] = {}
        self.records: dict[int, Record] = {}
        self.runs: dict[int, str] = {}  # number: id of the trial's run
        for line in _whole_lines(path):
            entry = json.loads(line)
            if "proposal" in entry:
                proposal = Proposal(**entry["proposal"])
                self.proposals[proposal.number], self.runs[proposal.number] = proposal, entry["run_id"]
            else:
                record = record_of(entry["record"])
                self.records[record.number] = record

    def propose(self, proposal: Proposal, run_id: str) -> None:
        """Remember a trial that is about to start."""
        with self._mutex:
            self.proposals[proposal.number], self.runs[proposal.number] = proposal, run_id
            self._append({"proposal": asdict(proposal), "run_id": run_id})

    def end(self, record: Record) -> None:
        """Remember a trial that has ended. One that failed is tried again by the next command."""
        with self._mutex:
            self.records[record.number] = record
            if record.state != "failed":
                self._append({"record": record.to_json()})

    def ended(self) -> list[Record]:
        """All that have ended, by number."""
        with self._mutex:
            return [self.records[number] for number in sorted(self.records)]

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("ab", buffering=0) as file:
            if file.tell() and not self._path.read_bytes().endswith(b"\n"):
                file.write(b"\n")  # ends the half of a line that somebody left
            file.write(json.dumps(entry).encode() + b"\n")


def _whole_lines(path: Path) -> Iterable[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text().split("\n") if _is_json(line)]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def best(records: Iterable[Record], objective: str, sign: float) -> Record | None:
    """The finished trial that is best in one objective (``sign`` 1: the higher, -1: the lower); of equals the first."""
    finished = [record for record in records if record.state == "finished" and objective in record.values]
    return max(finished, key=lambda record: (sign * record.values[objective], -record.number), default=None)


def pareto_front(records: Iterable[Record], signs: dict[str, float]) -> list[Record]:
    """The finished trials that no other beats in one objective without losing in another; best in the first first."""
    finished = [record for record in records if record.state == "finished" and signs.keys() <= record.values.keys()]

    def beats(a: Record, b: Record) -> bool:
        gains = [sign * (a.values[name] - b.values[name]) for name, sign in signs.items()]
        return min(gains) >= 0 and max(gains) > 0

    front = [record for record in finished if not any(beats(other, record) for other in finished)]
    first, sign = next(iter(signs.items()))
    return sorted(front, key=lambda record: -sign * record.values[first])
