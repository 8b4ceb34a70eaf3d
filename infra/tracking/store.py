"""The tracking server, or the database file, and its one experiment; what goes wrong there is said in one line.

MLflow is imported at the first call, since that takes a second. No global tracking address is changed, so a `Store`
works in any thread and any process; it may be pickled and sent to another one.
"""

import fcntl
import functools
import logging
import os
import re
import sqlite3
import threading
import urllib.parse
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from infra.errors import OutsideError, disk_fault

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

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


def database_uri(file: Path) -> str:
    """The URL under which SQLAlchemy finds the sqlite database ``file``, whatever characters are in its path."""
    path = str(file)
    # Escaped whole: MLflow makes the folder that the URL seems to name, and one without a slash names none.
    return f"{SQLITE}{urllib.parse.quote(path, safe='') if re.search('[%?#]', path) else path}"


def _database_of(uri: str) -> Path:
    """The file of a sqlite URL: the reverse of `database_uri`."""
    return Path(urllib.parse.unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def is_server(uri: str) -> bool:
    """Whether ``uri`` names a server, and no database file."""
    return urllib.parse.urlsplit(uri).scheme in ("http", "https")


def shown(uri: str) -> str:
    """``uri`` without a password, a database file by its path: for messages."""
    if uri.startswith(SQLITE):
        return f"{SQLITE}{_database_of(uri)}"
    parts = urllib.parse.urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))


class Stored(Protocol):
    """A store, or a part of one."""

    @property
    def store(self) -> "Store": ...


S = TypeVar("S", bound=Stored)


def readable(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Turn whatever MLflow, its HTTP client or its database raise into one line."""

    @functools.wraps(method)
    def wrapper(part: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        store = part.store
        try:
            with store.gate:
                return method(part, *args, **kwargs)
        except OutsideError:
            raise
        except Exception as error:  # they share no base; what comes from none of those below passes
            if fault := disk_fault(error):
                raise OutsideError(fault) from error
            module = type(error).__module__.partition(".")[0]
            if module not in ("mlflow", "requests", "sqlalchemy", "sqlite3", "urllib3", "botocore", "boto3"):
                raise
            raise OutsideError(_explain(store.uri, error)) from error

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
    if is_server(uri) and re.search(r"Max retries|Connection|timed out|Failed to resolve", text):
        return f"tracking server {where} does not answer: start it, or correct MLFLOW_TRACKING_URI"
    return f"tracking at {where} failed: {text[:300]}"


class Store:
    """One MLflow experiment, at a server or in a database file.

    Every method raises OutsideError, with one line, where the server, database or bucket does not do its part.
    """

    def __init__(self, uri: str, artifacts: Path | None = None, experiment: str = "genoise") -> None:
        """``artifacts``: folder for files when the experiment is created; None leaves the choice to the server."""
        self.uri, self.artifacts, self.experiment = uri, artifacts, experiment
        # A database file has one writer at a time and few connections; a server queues by itself.
        self.gate: AbstractContextManager[Any] = nullcontext() if is_server(uri) else threading.RLock()
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None

    def __reduce__(self) -> tuple[type[Self], tuple[str, Path | None, str]]:
        """Made anew, elsewhere, from what made it: connections and locks do not travel."""
        return type(self), (self.uri, self.artifacts, self.experiment)

    @property
    def store(self) -> Self:
        """Itself: what its parts call so."""
        return self

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

    @readable
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


def _open_client(uri: str) -> "MlflowClient":
    for key, value in HTTP_SETTINGS.items():
        os.environ.setdefault(key, value)
    if is_server(uri):
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
