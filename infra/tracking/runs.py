"""Runs: their states, their values, their files. They are spoken to by explicit ids; there is no global active run."""

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import OutsideError
from infra.tracking.store import Store, readable, shown
from infra.tracking.values import flatten, text, written

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

FINGERPRINT = "genoise.fingerprint"
TAG_LIMIT = 8000  # characters of a tag's value; MLflow cuts or refuses longer ones
PARAM_LIMIT = 6000
NOTE = "mlflow.note.content"  # the description that the user interface shows


@dataclass(frozen=True)
class RunInfo:
    """What is known of one run: ``status`` is RUNNING, FINISHED, FAILED or KILLED."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    started: float  # seconds since the epoch


class Runs(Store):
    """The runs of the experiment."""

    @readable
    def start_run(
        self,
        name: str,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Create a run, nested under the run ``parent``, and return its id. ``params`` may be nested."""
        tags = {**(tags or {}), "mlflow.source.type": "LOCAL"}
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = self.client.create_run(self.experiment_id, run_name=name, tags=_clip(tags))
        run_id = str(run.info.run_id)
        if params:
            self.log_params(run_id, params)
        return run_id

    @readable
    def resume_run(self, run_id: str, parent: str | None = None) -> None:
        """Set an unfinished run to RUNNING again, now nested under ``parent``."""
        self.client.update_run(run_id, status="RUNNING")
        if parent:
            self.client.set_tag(run_id, "mlflow.parentRunId", parent)

    @readable
    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    @readable
    def get_run(self, run_id: str) -> RunInfo:
        """What is known of a run."""
        return _run_info(self.client.get_run(run_id))

    @readable
    def search(self, tags: Mapping[str, str], status: str | None = None, limit: int = 100) -> list[RunInfo]:
        """Runs whose tags have these values, newest first."""
        terms = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if status:
            terms.append(f"attributes.status = '{status}'")
        order = ["attributes.start_time DESC"]
        found = self.client.search_runs([self.experiment_id], " and ".join(terms), max_results=limit, order_by=order)
        return [_run_info(run) for run in found]

    def unfinished(self, fingerprint: str) -> list[RunInfo]:
        """Runs of a step's fingerprint that were cut off, still RUNNING or KILLED, newest first."""
        found = [run for s in ("RUNNING", "KILLED") for run in self.search({FINGERPRINT: fingerprint}, s, 10)]
        return sorted(found, key=lambda run: run.started, reverse=True)

    # Values

    @readable
    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; a value that is too long for the server is cut."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _clip(tags).items()])

    @readable
    def describe(self, run_id: str, markdown: str) -> None:
        """Set the description on the run's page."""
        self.set_tags(run_id, {NOTE: markdown})

    @readable
    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; nested ones get dotted names. A parameter of a run never changes its value."""
        from mlflow.entities import Param

        entries = [Param(key, text(value)[:PARAM_LIMIT]) for key, value in flatten(params).items()]
        for start in range(0, len(entries), 100):  # the server's limit for one request
            self.client.log_batch(run_id, params=entries[start : start + 100])

    @readable
    def log_metrics(
        self,
        run_id: str,
        values: Mapping[str, float],
        step: int = 0,
        model_id: str | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Log numbers at one step; with ``model_id`` they are that model's scores too."""
        self.log_metric_batch(run_id, [(values, step, timestamp or time.time())], model_id)

    @readable
    def log_metric_batch(
        self, run_id: str, lines: Sequence[tuple[Mapping[str, float], int, float]], model_id: str | None = None
    ) -> None:
        """Log many (values, step, seconds since the epoch) in as few requests as the server allows."""
        from mlflow.entities import Metric

        entries = [
            Metric(_key(key), float(value), int(seconds * 1000), step, model_id)
            for values, step, seconds in lines
            for key, value in values.items()
        ]
        for start in range(0, len(entries), 1000):
            self.client.log_batch(run_id, metrics=entries[start : start + 1000])

    # Files

    @readable
    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Store a text as the artifact ``file``."""
        self.client.log_text(run_id, written(text), file)

    @readable
    def log_dict(self, run_id: str, values: Mapping[str, Any], file: str) -> None:
        """Store a dict as the artifact ``file``, JSON or YAML by its name."""
        self.client.log_dict(run_id, dict(values), file)

    @readable
    def log_figure(self, run_id: str, figure: "Figure", file: str) -> None:
        """Store a matplotlib figure as the artifact ``file``."""
        self.client.log_figure(run_id, figure, file)

    @readable
    def log_image(self, run_id: str, image_HWC: "np.ndarray[Any, Any]", key: str, step: int = 0) -> None:
        """Store an (H, W, 3) uint8 picture under ``key``; the UI has a slider over the steps of a key."""
        self.client.log_image(run_id, image_HWC, key=_key(key), step=step)

    @readable
    def log_table(self, run_id: str, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Store rows as the artifact ``file`` (.json), which the UI shows as a table."""
        # The form of MLflow's own log_table, without pandas: it would be imported for this alone.
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        self.client.log_text(run_id, json.dumps(table), file)
        known = json.loads(self.client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in known:
            self.client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*known, entry]))

    @readable
    def log_artifacts(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file, or all files of a folder, under the artifact folder ``folder``."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    @readable
    def download_artifacts(self, run_id: str, path: str, to: Path) -> Path:
        """Fetch an artifact file or folder into the folder ``to``; returns where it lies."""
        to.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, path, str(to)))

    @readable
    def read_text(self, run_id: str, file: str) -> str:
        """The text of the artifact ``file``."""
        with tempfile.TemporaryDirectory() as folder:
            return self.download_artifacts(run_id, file, Path(folder)).read_text()

    @readable
    def fetch_files(self, run_id: str, names: Sequence[str], cache: Path) -> Path:
        """A local folder with these artifact files of a run, downloaded once; OutsideError where one is not there."""
        target = cache / "runs" / run_id
        if all((target / name).is_file() for name in names):
            return target
        found = {file.path for file in self.client.list_artifacts(run_id)}
        missing = [name for name in names if name not in found]
        if missing:
            raise OutsideError(f"run {run_id} at {shown(self.uri)} has no {missing[0]}: a finished pretraining has one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            files = Path(folder) / "files"
            files.mkdir()
            for name in names:
                self.client.download_artifacts(run_id, name, str(files))
            move_into_place(files, target)
        return target


def _clip(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: written(value)[:TAG_LIMIT] for key, value in tags.items()}


def _run_info(run: Any) -> RunInfo:
    info, data = run.info, run.data
    return RunInfo(
        info.run_id,
        info.run_name,
        info.status,
        dict(data.tags),
        dict(data.params),
        dict(data.metrics),
        info.start_time / 1000,
    )


def _key(name: str) -> str:
    """``name`` with the characters that MLflow allows in a key."""
    return re.sub(r"[^\w\-. /]+", "-", name, flags=re.ASCII)


def move_into_place(folder: Path, target: Path) -> None:
    """Give a folder its name; where somebody else was first, theirs stays, which is as good."""
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():  # somebody else fetched the same encoder first: theirs is as good
            raise
