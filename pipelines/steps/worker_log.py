"""One actor per workflow writes what all workers have to say, so that a sqlite store has few writers.

Workers hold a `Recorder`, a small handle that can be sent anywhere; its calls return at once.
"""

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from infra.errors import OutsideError
from infra.tracking import Tracker
from pipelines.workers.actors import start_here

FLUSH_S = 2.0
KEPT_LINES = 100_000  # log lines of a run, kept while the tracking server is away; then the oldest go
KEPT_PICTURES = 200
ANSWER_S = 60.0
ASIDE = "aside"

Line = tuple[Mapping[str, float], int, float]


@dataclass
class Progress:
    """How far a run is, for whoever watches."""

    done: int = 0
    total: int = 0
    text: str = ""
    warnings: list[str] = field(default_factory=list)


class Writer:
    """Collects what is to be written and writes it in few requests, from a thread of its own."""

    def __init__(self, tracker: Tracker, period: float = FLUSH_S) -> None:
        self.tracker = tracker
        self._lines: dict[str, deque[Line]] = {}
        self._jobs: deque[Callable[[], None]] = deque(maxlen=KEPT_PICTURES)
        self._progress: dict[str, Progress] = {}
        self._told = False
        self._collecting, self._writing = threading.Lock(), threading.Lock()
        threading.Thread(target=self._run, args=(period,), daemon=True).start()

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int, seconds: float) -> None:
        """Numbers at one step."""
        with self._collecting:
            self._lines.setdefault(run_id, deque(maxlen=KEPT_LINES)).append((values, step, seconds))

    def log_image(self, run_id: str, image: "np.ndarray[Any, Any] | bytes", key: str, step: int) -> None:
        """A picture: (H, W, 3) uint8, or the bytes of a PNG."""
        if isinstance(image, bytes):
            from PIL import Image

            image = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
        picture = image
        with self._collecting:
            self._jobs.append(lambda: self.tracker.log_image(run_id, picture, key, step))

    def progress(self, run_id: str, done: int, total: int, text: str) -> None:
        """How far a run is."""
        with self._collecting:
            now = self._progress.setdefault(run_id, Progress())
            now.done, now.total, now.text = done, total, text

    def warn(self, run_id: str, message: str) -> None:
        """Something that looks wrong; kept as a tag of the run."""
        with self._collecting:
            known = self._progress.setdefault(run_id, Progress()).warnings
            known.append(message)
            text = "\n".join(known)
            self._jobs.append(lambda: self.tracker.set_tags(run_id, {"genoise.warnings": text}))

    def latest(self) -> dict[str, Progress]:
        """How far every run is."""
        with self._collecting:
            return {run: Progress(p.done, p.total, p.text, list(p.warnings)) for run, p in self._progress.items()}

    def tell(self) -> None:
        """Have all trainings end, each with a checkpoint."""
        self._told = True

    def told(self) -> bool:
        """Whether trainings are to end."""
        return self._told

    def flush(self) -> str | None:
        """Write all there is; returns what went wrong. What could not be written stays for the next time."""
        with self._writing:
            try:
                self._write()
            except OutsideError as error:
                return str(error)
        return None

    def _write(self) -> None:
        with self._collecting:
            lines, self._lines = self._lines, {}
            jobs, self._jobs = self._jobs, deque(maxlen=KEPT_PICTURES)
        try:
            for run_id in list(lines):
                self.tracker.log_metric_batch(run_id, lines[run_id])
                del lines[run_id]
            while jobs:
                jobs[0]()
                jobs.popleft()
        finally:
            if lines or jobs:
                self._put_back(lines, jobs)

    def _put_back(self, lines: dict[str, deque[Line]], jobs: deque[Callable[[], None]]) -> None:
        """Before what came in meanwhile. MLflow keeps a value once, however often it is written."""
        with self._collecting:
            for run_id, newer in self._lines.items():
                lines.setdefault(run_id, deque(maxlen=KEPT_LINES)).extend(newer)
            jobs.extend(self._jobs)
            self._lines, self._jobs = lines, jobs

    def _run(self, period: float) -> None:
        while True:
            time.sleep(period)
            self.flush()


class Recorder:
    """The handle that workers and the driver hold. All but `latest`, `flush` and `close` return at once."""

    def __init__(self, tracker: Tracker) -> None:
        """Start the actor on this node, beside the driver and its store. Ray must be connected."""
        remote: Any = ray.remote
        # Whether to end is asked, and told, beside what is being written: that may wait for the tracking server.
        actor = remote(concurrency_groups={ASIDE: 1})(Writer)
        # Restarted where it dies (memory, a fault in the store): what was not written yet is lost, the run is not.
        self._actor = start_here(actor, {"max_restarts": -1, "max_task_retries": 2}, tracker)

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Numbers of a run at one step."""
        self._actor.log_metrics.remote(run_id, dict(values), step, time.time())

    def log_image(self, run_id: str, image: "np.ndarray[Any, Any] | bytes", key: str, step: int) -> None:
        """A picture of a run: (H, W, 3) uint8, or the bytes of a PNG; the UI has a slider over the steps of a key."""
        self._actor.log_image.remote(run_id, image, key, step)

    def progress(self, run_id: str, done: int, total: int, text: str = "") -> None:
        """How far a run is, for the driver's progress bars."""
        self._actor.progress.remote(run_id, done, total, text)

    def warn(self, run_id: str, message: str) -> None:
        """Say that something looks wrong: shown by the driver, kept in the run's tag ``genoise.warnings``."""
        self._actor.warn.remote(run_id, message)

    def latest(self) -> dict[str, Progress]:
        """{run id: how far it is}, of all runs that ever said so."""
        found: dict[str, Progress] = self._ask("latest")
        return found

    def tell(self) -> None:
        """Have all trainings end, each with a checkpoint."""
        self._ask("tell", ASIDE)

    def told(self) -> bool:
        """Whether a training is to end; not where the actor is away."""
        try:
            return bool(self._ask("told", ASIDE))
        except OutsideError:
            return False

    def flush(self) -> None:
        """Wait until everything said so far is written; OutsideError where the tracking server does not take it."""
        trouble: str | None = self._ask("flush")
        if trouble:
            raise OutsideError(trouble)

    def close(self) -> None:
        """Write what is left and end the actor."""
        try:
            self.flush()
        finally:
            if ray.is_initialized():
                ray.kill(self._actor)

    def _ask(self, method: str, group: str | None = None) -> Any:
        if not ray.is_initialized():  # or Ray would start anew, for an actor that is gone
            raise OutsideError("Ray was stopped: what workers said last is not written")
        try:
            asked = (
                getattr(self._actor, method).options(concurrency_group=group) if group else getattr(self._actor, method)
            )
            return ray.get(asked.remote(), timeout=ANSWER_S)
        except ray.exceptions.RayError as error:
            raise OutsideError(f"the recorder does not answer ({type(error).__name__}): see `ray logs`") from error
