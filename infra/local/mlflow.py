"""A real MLflow tracking server on this machine, with its user interface."""

import sys
import urllib.error
import urllib.request
from pathlib import Path

from infra.errors import OutsideError
from infra.local.server import Server, answers, free_port, start
from infra.tracking import database_uri


def serve_mlflow(home: Path, port: int | None = None, workers: int = 1, artifacts: str | None = None) -> Server:
    """Serve ``<home>/mlflow.db`` and ``<home>/mlartifacts`` on 127.0.0.1, interface included.

    ``artifacts``: another place for files of new experiments, such as s3://bucket/prefix. OutsideError where the port
    is taken or the server does not start.
    """
    if port and answers("127.0.0.1", port):
        raise OutsideError(f"port {port} of this machine is in use: choose another one")
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database_uri(home / "mlflow.db"), "--workers", str(workers)]
    command += ["--artifacts-destination", artifacts or (home / "mlartifacts").as_uri()]
    # Without the queue of background jobs, which serves what is not used here and takes a process of its own.
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = start("the tracking server", command, url, home / "mlflow-server.log", lambda: _healthy(url), environment)
    server.environment = {"MLFLOW_TRACKING_URI": url}
    return server


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
