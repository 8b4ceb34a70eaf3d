"""MLflow, spoken to by explicit run ids: the one module that imports it.

There is no global active run, and no global tracking address is changed, so a `Tracker` works in any thread and any
process; it may be pickled and sent to another one. MLflow is imported at the first call, since that takes a second.
"""

import fcntl
import functools
import json
import logging
import os
import re
import sqlite3
import tempfile
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from infra.errors import OutsideError, disk_fault
from infra.storage import is_remote, local_path, open_storage

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

FINGERPRINT = "genoise.fingerprint"
TAG_LIMIT = 8000  # characters of a tag's value; MLflow cuts or refuses longer ones
PARAM_LIMIT = 6000
ALIAS = "best"
NOTE = "mlflow.note.content"  # the description that the user interface shows
HEALTH_TIMEOUT_S = 5.0
DATABASE_TIMEOUT_S = 60.0  # another process may be creating its tables
SQLITE = "sqlite:///"
# A server that is gone must be said in seconds. MLflow's own defaults retry for four minutes.
HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

P = ParamSpec("P")
R = TypeVar("R")


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


def open_tracker(home: Path, uri: str | None = None, experiment: str = "genoise") -> "Tracker":
    """The tracker at ``uri``, at MLFLOW_TRACKING_URI, or else in ``<home>/mlflow.db`` with ``<home>/mlartifacts``."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return Tracker(uri, experiment=experiment)
    home = home.resolve()
    return Tracker(database_uri(home / "mlflow.db"), home / "mlartifacts", experiment)


def database_uri(file: Path) -> str:
    """The URL under which SQLAlchemy finds the sqlite database ``file``, whatever characters are in its path."""
    path = str(file)
    # Escaped whole: MLflow makes the folder that the URL seems to name, and one without a slash names none.
    return f"{SQLITE}{urllib.parse.quote(path, safe='') if re.search('[%?#]', path) else path}"


def _database_of(uri: str) -> Path:
    """The file of a sqlite URL: the reverse of `database_uri`."""
    return Path(urllib.parse.unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def _is_server(uri: str) -> bool:
    return urllib.parse.urlsplit(uri).scheme in ("http", "https")


def shown(uri: str) -> str:
    """``uri`` without a password, a database file by its path: for messages."""
    if uri.startswith(SQLITE):
        return f"{SQLITE}{_database_of(uri)}"
    parts = urllib.parse.urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))


def _readable(method: Callable[P, R]) -> Callable[P, R]:
    """Turn whatever MLflow, its HTTP client or its database raise into one line."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        tracker = args[0]
        assert isinstance(tracker, Tracker)
        try:
            with tracker.gate:
                return method(*args, **kwargs)
        except OutsideError:
            raise
        except Exception as error:
            if fault := disk_fault(error):
                raise OutsideError(fault) from error
            module = type(error).__module__.partition(".")[0]
            if module not in ("mlflow", "requests", "sqlalchemy", "sqlite3", "urllib3", "botocore", "boto3"):
                raise
            raise OutsideError(_explain(tracker.uri, error)) from error

    return wrapper


def _explain(uri: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    where = shown(uri)
    written = re.search(r"\(sqlite3\.\w+\) ([^\[(]*(?:is full|read-?only|unable to open|disk I/O)[^\[(]*)", text)
    if uri.startswith(SQLITE) and written:
        return f"cannot use the tracking database {_database_of(uri)}: {written[1].strip()}; choose another --home"
    refused = r"\b40[13]\b|UNAUTHENTICATED|PERMISSION_DENIED|not authenticated|Permission denied"
    if not uri.startswith(SQLITE) and re.search(refused, text):
        return f"tracking server {where} refuses access: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if _is_server(uri) and re.search(r"Max retries|Connection|timed out|Failed to resolve", text):
        return f"tracking server {where} does not answer: start it, or correct MLFLOW_TRACKING_URI"
    return f"tracking at {where} failed: {text[:300]}"


class Tracker:
    """Runs, their values, their files and the encoders they leave, in one MLflow experiment.

    Every method raises OutsideError, with one line, where the server, database or bucket does not do its part.
    """

    def __init__(self, uri: str, artifacts: Path | None = None, experiment: str = "genoise") -> None:
        """``artifacts``: folder for files when the experiment is created; None leaves the choice to the server."""
        self.uri, self.artifacts, self.experiment = uri, artifacts, experiment
        # A database file has one writer at a time and few connections; a server queues by itself.
        self.gate: AbstractContextManager[Any] = nullcontext() if _is_server(uri) else threading.RLock()
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "artifacts": self.artifacts, "experiment": self.experiment}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # made anew from what made it

    # Opening

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client, opened at the first use."""
        if self._client is None:
            self._client = _open_client(self.uri)
        return self._client

    @property
    def experiment_id(self) -> str:
        """The experiment's id; the experiment is created where it does not exist."""
        if self._experiment_id is None:
            self._experiment_id = self._find_or_create_experiment()
        return self._experiment_id

    @_readable
    def check(self) -> None:
        """Fail now, within seconds, if the tracking server cannot be used."""
        _ = self.experiment_id

    def page(self, server: str) -> str:
        """The address of the runs at the user interface of ``server``, in its mode for training."""
        return f"{server}/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"

    def exists(self) -> bool:
        """False where the store is a database file that nobody has created yet."""
        return not self.uri.startswith(SQLITE) or _database_of(self.uri).is_file()

    def _find_or_create_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            location = self.artifacts.resolve().as_uri() if self.artifacts else None
            try:
                return str(self.client.create_experiment(self.experiment, location))
            except MlflowException:  # somebody else was quicker
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise OutsideError(
                f"experiment {self.experiment!r} at {shown(self.uri)} is deleted: "
                f"restore it with `mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        return str(found.experiment_id)

    # Runs

    @_readable
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

    @_readable
    def resume_run(self, run_id: str, parent: str | None = None) -> None:
        """Set an unfinished run to RUNNING again, now nested under ``parent``."""
        self.client.update_run(run_id, status="RUNNING")
        if parent:
            self.client.set_tag(run_id, "mlflow.parentRunId", parent)

    @_readable
    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    @_readable
    def get_run(self, run_id: str) -> RunInfo:
        """What is known of a run."""
        return _run_info(self.client.get_run(run_id))

    @_readable
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

    @_readable
    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; a value that is too long for the server is cut."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _clip(tags).items()])

    @_readable
    def describe(self, run_id: str, markdown: str) -> None:
        """Set the description on the run's page."""
        self.set_tags(run_id, {NOTE: markdown})

    @_readable
    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; nested ones get dotted names. A parameter of a run never changes its value."""
        from mlflow.entities import Param

        entries = [Param(key, _text(value)[:PARAM_LIMIT]) for key, value in flatten(params).items()]
        for start in range(0, len(entries), 100):  # the server's limit for one request
            self.client.log_batch(run_id, params=entries[start : start + 100])

    @_readable
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

    @_readable
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

    @_readable
    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Store a text as the artifact ``file``."""
        self.client.log_text(run_id, _written(text), file)

    @_readable
    def log_dict(self, run_id: str, values: Mapping[str, Any], file: str) -> None:
        """Store a dict as the artifact ``file``, JSON or YAML by its name."""
        self.client.log_dict(run_id, dict(values), file)

    @_readable
    def log_figure(self, run_id: str, figure: "Figure", file: str) -> None:
        """Store a matplotlib figure as the artifact ``file``."""
        self.client.log_figure(run_id, figure, file)

    @_readable
    def log_image(self, run_id: str, image_HWC: "np.ndarray[Any, Any]", key: str, step: int = 0) -> None:
        """Store an (H, W, 3) uint8 picture under ``key``; the UI has a slider over the steps of a key."""
        self.client.log_image(run_id, image_HWC, key=_key(key), step=step)

    @_readable
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

    @_readable
    def log_artifacts(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Store a file, or all files of a folder, under the artifact folder ``folder``."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    @_readable
    def download_artifacts(self, run_id: str, path: str, to: Path) -> Path:
        """Fetch an artifact file or folder into the folder ``to``; returns where it lies."""
        to.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run_id, path, str(to)))

    @_readable
    def read_text(self, run_id: str, file: str) -> str:
        """The text of the artifact ``file``."""
        with tempfile.TemporaryDirectory() as folder:
            return self.download_artifacts(run_id, file, Path(folder)).read_text()

    @_readable
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
            _move_into_place(files, target)
        return target

    # Encoders

    @_readable
    def log_encoder(
        self,
        run_id: str,
        folder: Path,
        name: str = "encoder",
        scores: Mapping[str, float] | None = None,
        step: int = 0,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Store an encoder's own files as a model of the run, with its scores; returns the model's id."""
        from mlflow.entities import LoggedModelOutput

        model = self.client.create_logged_model(
            self.experiment_id,
            name=name,
            source_run_id=run_id,
            model_type="encoder",
            params={key: _text(value)[:500] for key, value in flatten(params or {}).items()},
            tags=dict(tags or {}),
        )
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
        if scores:
            self.log_metrics(run_id, scores, step, model_id=model.model_id)
        return str(model.model_id)

    @_readable
    def register_encoder(
        self,
        name: str,
        model_id: str,
        metric: str,
        score: float,
        description: str = "",
        about: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> tuple[int, bool]:
        """Make a model a version of the registered model ``name``; the alias `best` moves to it if ``score`` is higher.

        Scores are compared only under the same ``metric``. Registering a model again returns the version it has,
        with the new description and tags. ``description`` is the version's, ``about`` that of the registered model,
        both Markdown; ``tags`` are the version's.
        Returns (version, whether it is now the best).
        """
        model = self.client.get_logged_model(model_id)
        known = json.loads(model.tags.get("mlflow.modelVersions", "[]"))
        version = next((int(entry["version"]) for entry in known if entry["name"] == name), None)
        if version is None:
            version = self._create_version(name, model, {"metric": metric, "score": repr(score)}, known, description)
        elif description and self.client.get_model_version(name, str(version)).description != description:
            self.client.update_model_version(name, str(version), description)
        for key, value in (tags or {}).items():
            self.client.set_model_version_tag(name, str(version), key, value)
        if about and self.client.get_registered_model(name).description != about:
            self.client.update_registered_model(name, about)
        best = self._best(name)
        if best is None or best[1] != metric or score > best[2]:
            self.client.set_registered_model_alias(name, ALIAS, str(version))
            return version, True
        return version, best[0] == version

    @_readable
    def tag_version(self, uri: str, tags: Mapping[str, str]) -> None:
        """Tag the version of a registered model, ``models:/NAME/VERSION``; nothing, where somebody has deleted it."""
        from mlflow.exceptions import MlflowException

        name, version = uri.removeprefix("models:/").rsplit("/", 1)
        try:
            for key, value in tags.items():
                self.client.set_model_version_tag(name, version, key, value)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise

    def _create_version(
        self, name: str, model: "LoggedModel", tags: dict[str, str], known: list[dict[str, Any]], description: str
    ) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self.client.create_model_version(
            name,
            model.artifact_location,
            model.source_run_id,
            tags={key: value for key, value in model.tags.items() if not key.startswith("mlflow.")} | tags,
            description=description,
            model_id=model.model_id,
        )
        # A server ties the version to the model by this tag; a database opened directly leaves that to the client.
        entry = {"name": name, "version": int(made.version)}
        self.client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps([*known, entry])})
        return int(made.version)

    def _best(self, name: str) -> tuple[int, str, float] | None:
        """(version, metric, score) of the version that has the alias."""
        versions = self.client.get_registered_model(name).aliases
        if ALIAS not in versions:
            return None
        tags = self.client.get_model_version(name, versions[ALIAS]).tags
        return int(versions[ALIAS]), tags.get("metric", ""), float(tags.get("score", "-inf"))

    @_readable
    def fetch_encoder(self, uri: str, cache: Path) -> Path:
        """A local folder with the encoder's files.

        ``uri``: a folder; s3://bucket/prefix; models:/NAME@best; models:/NAME/VERSION; models:/m-ID; runs:/ID/NAME.
        """
        if uri.startswith(("models:/", "runs:/")):
            return self._fetch_location(self._encoder_location(uri), cache)
        if is_remote(uri):
            return _fetch_remote(uri, cache)
        folder = Path(uri)
        if not (folder / "config.json").is_file():
            raise OutsideError(
                f"no encoder at {uri}: a folder with config.json and encoder.safetensors, models:/NAME@best, "
                "models:/NAME/VERSION or runs:/RUN_ID/encoder would be right"
            )
        return folder

    def _encoder_location(self, uri: str) -> str:
        from mlflow.exceptions import MlflowException

        scheme, _, rest = uri.partition(":/")
        rest = rest.lstrip("/")
        try:
            if scheme == "runs":
                run_id, _, name = rest.partition("/")
                experiment = self.client.get_run(run_id).info.experiment_id
                models = self.client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
                ready = [m for m in models if m.status == "READY" and m.name == (name or "encoder")]
                if not ready:
                    raise OutsideError(f"run {run_id} at {shown(self.uri)} has no encoder called {name or 'encoder'!r}")
                return str(max(ready, key=lambda m: m.creation_timestamp).artifact_location)
            if "@" in rest:
                name, _, alias = rest.partition("@")
                return str(self.client.get_model_version_by_alias(name, alias).source)
            if "/" in rest:
                name, _, version = rest.partition("/")
                return str(self.client.get_model_version(name, version).source)
            return str(self.client.get_logged_model(rest).artifact_location)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise OutsideError(f"no encoder {uri} at {shown(self.uri)}: {error.message}") from error
            raise

    def _fetch_location(self, location: str, cache: Path) -> Path:
        if not is_remote(location) and (local := local_path(location)).is_dir():
            return local
        from mlflow.artifacts import download_artifacts

        target = cache / "encoders" / re.sub(r"\W+", "-", location)
        if not target.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            (cache / "encoders").mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                got = download_artifacts(artifact_uri=location, dst_path=folder, tracking_uri=self.uri)
                _move_into_place(Path(got), target)
        return target


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists and empty dicts stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    return _written(value) if isinstance(value, str) else json.dumps(value, default=str)


def _key(name: str) -> str:
    """``name`` with the characters that MLflow allows in a key."""
    return re.sub(r"[^\w\-. /]+", "-", name, flags=re.ASCII)


def _clip(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: _written(value)[:TAG_LIMIT] for key, value in tags.items()}


def _written(text: str) -> str:
    r"""``text`` as every store can hold it: bytes of file names that are not UTF-8 become ``\udce9``."""
    return text.encode("utf-8", "backslashreplace").decode()


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


def _fetch_remote(url: str, cache: Path) -> Path:
    storage = open_storage(url)
    target = cache / "encoders" / re.sub(r"\W+", "-", url)
    names = [name for name in storage.list() if "/" not in name]
    if "config.json" not in names:
        raise OutsideError(f"no encoder at {url}: there is no config.json in it")
    for name in names:
        storage.download(name, target / name)
    return target


def _move_into_place(folder: Path, target: Path) -> None:
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():  # somebody else fetched the same encoder first: theirs is as good
            raise


def _open_client(uri: str) -> "MlflowClient":
    for key, value in HTTP_SETTINGS.items():
        os.environ.setdefault(key, value)
    if _is_server(uri):
        _check_answers(uri)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not uri.startswith(SQLITE):
        return MlflowClient(uri, registry_uri=uri)
    database = _database_of(uri)
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        _check_database(uri, database)
        # Two processes that create the tables at once trip over each other.
        with open(f"{database}.lock", "a") as lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what MLflow's own tables warn of is no news to anybody here
            fcntl.flock(lock, fcntl.LOCK_EX)
            client = MlflowClient(uri, registry_uri=uri)
            client.search_experiments(max_results=1)
            return client
    except OSError as error:
        raise OutsideError(
            f"cannot write the tracking database {database}: {error.strerror}; choose another --home"
        ) from error


def _check_database(uri: str, database: Path) -> None:
    """Fail now where MLflow would try for two minutes, or open another file."""
    from sqlalchemy.engine import make_url

    if Path(make_url(uri).database or "") != database:
        raise OutsideError(f"SQLAlchemy cannot be told of {database}: choose a --home without %, ? and # in its path")
    try:
        with closing(sqlite3.connect(database, timeout=DATABASE_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise OutsideError(
            f"cannot use the tracking database {database}: {error}; choose another --home, or move that file away"
        ) from error


def _check_answers(uri: str) -> None:
    """One quick question before MLflow's own patient client takes over."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S)
    except requests.RequestException as error:
        raise OutsideError(
            f"tracking server {shown(uri)} does not answer: start it, or correct MLFLOW_TRACKING_URI"
        ) from error
