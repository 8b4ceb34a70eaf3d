"""A real MLflow tracking server for these tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import Server, serve_mlflow
from infra.tracking import Tracker


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
