"""What all tests share: one thread each, as two run at a time; a home of their own; real images where there are any."""

import os
from pathlib import Path

import pytest

# Before torch is imported, so that processes started by a test inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real images in ../shared/data")
    return SHARED_DATA


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder that the commands use by default; no tracking server and no cluster of the user's."""
    folder = tmp_path / "home"
    monkeypatch.setenv("GENOISE_HOME", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with an MLflow database and nothing in it: creating one takes seconds, so tests copy it."""
    from infra.tracking import Tracker

    folder = tmp_path_factory.mktemp("store")
    Tracker(f"sqlite:///{folder}/mlflow.db", folder / "mlartifacts").check()
    return folder
