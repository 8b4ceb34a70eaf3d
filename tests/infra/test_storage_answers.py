"""What an S3 server may answer beside yes and no, said by a real server: busy, in conflict, in another region."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.errors import OutsideError
from infra.storage import Storage, open_storage


@dataclass
class Answer:
    """One answer that is no success."""

    status: int
    code: str = ""  # empty: no body
    detail: str = ""  # more XML
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        if not self.code:
            return b""
        return f"<Error><Code>{self.code}</Code><Message>said so</Message>{self.detail}</Error>".encode()


@dataclass
class Server:
    """Gives ``answer`` to the first ``times`` requests, and takes the others as good."""

    url: str
    answer: Answer = field(default_factory=lambda: Answer(500))
    times: int = 0
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def _give(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known.requests.append(f"{self.command} {self.headers.get('Authorization', '')}")
            failed = len(known.requests) <= known.times
            body = known.answer.body() if failed else b"" if self.command == "PUT" else b"whole"
            self.send_response_only(known.answer.status if failed else 200)
            for name, value in (known.answer.headers if failed else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _give

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    known = Server(f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", known.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("infra.storage.bucket.FIRST_DELAY_S", 0.001)
    yield known
    http.shutdown()
    http.server_close()


BUSY = [Answer(429, "TooManyRequests"), Answer(429), Answer(503, "SlowDown"), Answer(503)]
CONFLICTS = [Answer(409, "ConditionalRequestConflict"), Answer(409, "OperationAborted"), Answer(409)]
Call = Callable[[Storage], object]
READ: Call = lambda place: place.read_bytes("0.tar")  # noqa: E731  # a table of calls
CALLS: dict[str, Call] = {
    "read": READ,
    "write": lambda place: place.write_bytes("0.tar", b"x"),
    "size": lambda place: place.size("0.tar"),
}


@pytest.mark.parametrize("answer", BUSY + CONFLICTS, ids=lambda answer: f"{answer.status}{answer.code}")
@pytest.mark.parametrize("call", CALLS)
def test_what_passes_is_tried_again(server: Server, answer: Answer, call: str) -> None:
    server.answer, server.times = answer, 3
    CALLS[call](open_storage("s3://shards/x"))
    assert len(server.requests) == 4


@pytest.mark.parametrize("answer", BUSY, ids=lambda answer: f"{answer.status}{answer.code}")
def test_a_server_that_stays_busy_is_not_called_wrong(server: Server, answer: Answer) -> None:
    server.answer, server.times = answer, 99
    said = refused(READ)
    assert f"{server.url} is too busy (for s3://shards/x/0.tar, 5 times): try later, or with fewer workers" in said
    assert "AWS_ENDPOINT_URL" not in said and len(server.requests) == 5


def test_a_conflict_that_stays(server: Server) -> None:
    server.answer, server.times = CONFLICTS[0], 99
    said = refused(CALLS["write"])
    assert "somebody else writes s3://shards/x/0.tar at the same time" in said and "AWS_ENDPOINT_URL" not in said


REGION = "<Region>eu-west-1</Region>"
ELSEWHERE = [
    Answer(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}),
    Answer(400, "AuthorizationHeaderMalformed", REGION),
    Answer(400, "IllegalLocationConstraintException", headers={"x-amz-bucket-region": "eu-west-1"}),
    Answer(307, "TemporaryRedirect", headers={"x-amz-bucket-region": "eu-west-1"}),
]


@pytest.mark.parametrize("answer", ELSEWHERE, ids=lambda answer: answer.code)
@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_in_another_region(server: Server, answer: Answer, call: str) -> None:
    server.answer, server.times = answer, 99
    said = refused(CALLS[call])
    if not (call == "size" and answer.status == 400 and not answer.headers):  # HEAD has no body to tell
        assert "'shards'" in said and "but in eu-west-1: set AWS_REGION=eu-west-1 and AWS_DEFAULT_REGION=" in said


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", [Answer(301, "PermanentRedirect"), Answer(301)], ids=["body", "none"])
def test_a_redirect_that_names_no_region(server: Server, call: str, answer: Answer) -> None:
    server.answer, server.times = answer, 10**6
    said = refused(CALLS[call])
    assert "another region, or on another server" in said and "AWS_REGION=" in said and "AWS_ENDPOINT_URL" in said


def test_a_large_file_into_another_region(server: Server, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(9 << 20))
    server.answer, server.times = Answer(301, "PermanentRedirect"), 10**6
    assert "AWS_REGION=" in refused(lambda place: place.upload(tmp_path / "large", "0.tar"))


def test_the_region_that_other_tools_read_is_obeyed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert open_storage("s3://shards/x").read_bytes("0.tar") == b"whole"
    assert "/eu-west-1/s3/aws4_request" in server.requests[0]
    monkeypatch.setenv("AWS_REGION", "no region")
    assert "set AWS_REGION" in refused(READ)


def refused(call: Call) -> str:
    """The one line of the refusal."""
    with pytest.raises(OutsideError) as caught:
        call(open_storage("s3://shards/x"))
    assert "\n" not in str(caught.value)
    return str(caught.value)
