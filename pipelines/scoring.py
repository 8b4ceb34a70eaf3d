"""How a worker scores an encoder: what it is told, where it keeps unfinished work, and what it says."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.config import BenchmarkConfig
from components.data.dataset import BATCHED
from components.networks.encoder import load_encoder
from components.transfer.protocol import BenchmarkRun, get_benchmark, run_benchmark
from infra.storage import open_storage
from pipelines.data.opening import open_split
from pipelines.data.prepared import DataPlace
from pipelines.steps.results import Json
from pipelines.steps.worker_log import Recorder
from pipelines.workers.payload import Files, own_device, unpacked

SAY_S = 0.5  # as often a benchmark says how far it is
KEPT = "kept"  # below the step's folder: what a benchmark has saved


@dataclass(frozen=True)
class Scoring:
    """What a worker is told that scores an encoder."""

    encoder: Files
    data: DataPlace
    splits: Sequence[str]
    benchmark: BenchmarkConfig
    run_id: str
    folder: str  # URL of the step's folder
    recorder: Recorder


class RecordedRun(BenchmarkRun):
    """A run that says how far it is, and shows pictures, at its MLflow run; what it saves is kept in files."""

    def __init__(self, told: Scoring) -> None:
        super().__init__(own_device())
        self.told = told
        self.storage = open_storage(told.folder)
        self._said = -SAY_S

    def load(self, name: str) -> dict[str, Any] | None:
        if not self.storage.exists(file := _file(name)):
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(self.storage.read_bytes(file)), weights_only=True)
        return found

    def save(self, name: str, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.storage.write_bytes(_file(name), buffer.getvalue())

    def progress(self, done: int, total: int, what: str = "") -> None:
        if done < total and time.monotonic() - self._said < SAY_S:
            return  # it is said at every step
        self._said = time.monotonic()
        self.told.recorder.progress(self.told.run_id, done, total, what)

    def picture(self, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        self.told.recorder.log_image(self.told.run_id, rgb_HW3, name, 0)


def score(told: Scoring) -> Json:
    """Load the encoder, run the benchmark, return the score as JSON; what was kept meanwhile is removed."""
    run = RecordedRun(told)
    with unpacked(told.encoder) as folder:
        encoder = load_encoder(folder)
    fields = ("image", *(field for field in get_benchmark(told.benchmark).needs if field in BATCHED))
    splits = {name: open_split(told.data, name, fields) for name in told.splits}
    found = run_benchmark(told.benchmark, encoder, splits, run)
    for file in run.storage.list(f"{KEPT}/"):
        run.storage.delete(file)
    return found.model_dump(mode="json")


def _file(name: str) -> str:
    return f"{KEPT}/{name}.pt"
