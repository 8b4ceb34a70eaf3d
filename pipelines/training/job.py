"""What a training is: the job that its workers get, and what it leaves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field

from components.config import Recipe
from pipelines.data.prepared import DataPlace
from pipelines.steps.results import StepValue
from pipelines.steps.worker_log import Recorder
from pipelines.training.named_encoders import Named

PROBES_FILE = "probes.json"  # in a checkpoint


class Judge(Protocol):
    """Says after each probe but the last, on rank 0, whether the training goes on."""

    def __call__(self, step: int, score: float) -> bool: ...


@dataclass(frozen=True)
class TrainingJob:
    """All that the workers of a training are told."""

    recipe: Recipe
    data: DataPlace
    encoders: Named  # the files of those that the recipe's options name
    run_id: str
    run_folder: str
    checkpoints: str  # URL of the place below which they lie
    recorder: Recorder | None  # None where nothing is trained
    judge: Judge | None = None  # None: nobody ends the training before its end

    @property
    def label_classes(self) -> int:
        """Classes that samples are labelled with; 0 without labels."""
        return self.data.label_classes


class ProbeScore(StepValue):
    """What the encoder was worth after an optimizer step of its training."""

    step: int
    score: float | None = Field(description="validation top-1 in [0, 1]; None where nothing could be measured")


class Pretrained(StepValue):
    """What a training leaves."""

    encoder: str = Field(description="URI of the best encoder")
    model_id: str = Field(description="of that encoder, at the tracker")
    probes: tuple[ProbeScore, ...]
    step: int = Field(description="optimizer step of the weights that are kept")
    steps: int = Field(description="optimizer steps in all")
    seconds: float


def best_step(probes: Sequence[ProbeScore], last: int) -> int:
    """The step of the weights that are kept: of the highest score, the first; the ``last`` where none was measured."""
    scored = {probe.step: probe.score for probe in probes if probe.score is not None}
    return max(scored, key=scored.__getitem__, default=last)  # of equal ones max takes the first


def write_probes(probes: Sequence[ProbeScore], folder: Path) -> None:
    """Write probes into the folder of a checkpoint."""
    (folder / PROBES_FILE).write_text(json.dumps([probe.to_json() for probe in probes]))


def read_probes(folder: Path, labelled: bool = True) -> list[ProbeScore]:
    """The probes of a checkpoint; without labels none has a score, though an earlier version wrote zeros."""
    return parse_probes((folder / PROBES_FILE).read_bytes(), labelled)


def parse_probes(content: bytes, labelled: bool = True) -> list[ProbeScore]:
    """As `read_probes`, of the file's content."""
    listed = json.loads(content)
    return [ProbeScore(step=probe["step"], score=probe["score"] if labelled else None) for probe in listed]
