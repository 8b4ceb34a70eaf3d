"""A proxy in front of a real S3 server that injects faults, by counting: nothing depends on time or chance.

Every n-th request of all is answered with an error, broken off, or held up; an object can be served short, once, with
headers that say that it is whole; and after so many requests the server behind can be ended and started again.
"""

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

HOP = {"connection", "transfer-encoding", "content-length", "expect"}  # said anew on each side of the proxy
PIECES = 8  # of a body that is held up
PAUSE_S = 0.02  # between two of them


@dataclass
class Faults:
    """What goes wrong; 0 and empty: nothing. Requests are counted from 1, over all connections."""

    error_every: int = 0  # 500 Internal Error, before the server sees the request
    reset_every: int = 0  # the connection is cut in the middle of the answer
    slow_every: int = 0  # the answer comes in pieces, with pauses between
    truncate: str = ""  # the first GET of a path that ends so gets half of the body, and says that this is all
    restart_at: int = 0  # before that request, `restart` is called
    restart: Callable[[], None] = lambda: None


@dataclass
class Proxy:
    """A context manager: ``url`` is where clients go instead of ``target``. Counts what it did in ``done``."""

    target: str
    faults: Faults
    done: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next(self, method: str, path: str, span: str) -> str:
        """The fault that this request meets: error, reset, slow, truncate, or none."""
        faults = self.faults
        with self._lock:
            self.requests.append((method, path, span))
            count = len(self.requests)
            if count == faults.restart_at:
                self.done["restart"] += 1
                faults.restart()
            fault = ""
            if faults.truncate and method == "GET" and path.endswith(faults.truncate) and not self.done["truncate"]:
                fault = "truncate"
            elif faults.error_every and count % faults.error_every == 0:
                fault = "error"
            elif faults.reset_every and count % faults.reset_every == 0:
                fault = "reset"
            elif faults.slow_every and count % faults.slow_every == 0:
                fault = "slow"
            self.done[fault] += 1
            return fault


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed break connections off; that is no fault of the proxy."""


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.owner.next(self.command, urlsplit(self.path).path, self.headers.get("Range", ""))
        if fault == "error":
            self._answer(500, {"Content-Type": "application/xml"}, _ERROR)
            return
        try:
            status, headers, answer = self._ask(body)
        except OSError:  # the server is being started again
            self._cut()
            return
        if fault == "reset":
            self._head(status, headers, len(answer) + 1)
            self.wfile.write(answer[: len(answer) // 2])
            self._cut()
        elif fault == "slow":
            self._head(status, headers, len(answer))
            step = len(answer) // PIECES + 1
            for start in range(0, len(answer), step):
                self.wfile.write(answer[start : start + step])
                time.sleep(PAUSE_S)
        elif fault == "truncate":
            self._answer(status, headers, answer[: len(answer) // 2])
        else:
            self._answer(status, headers, answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the real server says; signed headers, the host's name among them, are passed on as they came."""
        connection = http.client.HTTPConnection(urlsplit(self.owner.target).netloc, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
            if self.command == "HEAD":
                headers["Content-Length"] = answer.getheader("Content-Length", "0")
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._head(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        """Break the connection off with a reset, not a close."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code>'
    b"<Message>injected</Message><RequestId>0</RequestId></Error>"
)
