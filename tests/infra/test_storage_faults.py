"""A real S3 server behind a proxy that injects faults: what passes is tried again, what does not is named."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.errors import OutsideError
from infra.local import Server
from infra.storage import Cache, Storage, open_storage
from tests.faults import Faults, Proxy

pytestmark = pytest.mark.xdist_group("s3")
LARGE = os.urandom(20 << 20)  # in three parts
Faulty = Callable[[Faults], Proxy]


@pytest.fixture
def faulty(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """Put a proxy with these faults between boto3 and the server; pauses between attempts are not slept."""
    open_ones: list[Proxy] = []
    monkeypatch.setattr("infra.storage.bucket.FIRST_DELAY_S", 0.001)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.001)

    def put(faults: Faults) -> Proxy:
        proxy = Proxy(s3.url, faults).__enter__()
        open_ones.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        return proxy

    yield put
    for proxy in open_ones:
        proxy.__exit__(None, None, None)


def files_travel(place: Storage, folder: Path) -> None:
    """Every kind of request, each answer compared with what it must be."""
    (folder / "large").write_bytes(LARGE)
    for k in range(10):
        place.write_bytes(f"small/{k}", bytes([k]) * 1000)
    place.upload(folder / "large", "large")
    assert place.list("small/") == {f"small/{k}": 1000 for k in range(10)}
    assert [place.read_bytes(f"small/{k}") for k in range(10)] == [bytes([k]) * 1000 for k in range(10)]
    assert place.download("large", folder / "copy").read_bytes() == LARGE
    assert place.size("large") == len(LARGE) and place.size("none") is None


@pytest.mark.parametrize(
    "faults",
    [Faults(error_every=3), Faults(reset_every=7), Faults(slow_every=3), Faults(error_every=5, reset_every=7)],
    ids=["errors", "resets", "slow", "errors and resets"],
)
def test_what_passes_is_tried_again(faulty: Faulty, tmp_path: Path, faults: Faults) -> None:
    proxy = faulty(faults)
    files_travel(open_storage(f"s3://shards/{tmp_path.name}"), tmp_path)
    assert proxy.done.total() > proxy.done[""]  # there were faults


def test_a_large_file_travels_in_parts_and_ranges(faulty: Faulty, tmp_path: Path) -> None:
    proxy = faulty(Faults())
    files_travel(open_storage(f"s3://shards/{tmp_path.name}"), tmp_path)
    puts = [path for method, path, _ in proxy.requests if method == "PUT" and path.endswith("/large")]
    ranges = {span for method, path, span in proxy.requests if method == "GET" and path.endswith("/large")}
    assert len(puts) == 3
    assert len(ranges) == 3 and all(span.startswith("bytes=") for span in ranges)


def test_a_server_that_is_started_again(
    faulty: Faulty, s3: Server, tmp_path: Path, s3_restart: Callable[[], None]
) -> None:
    proxy = faulty(Faults(restart_at=7, restart=s3_restart))
    files_travel(open_storage(f"s3://shards/{tmp_path.name}"), tmp_path)
    assert proxy.done["restart"] == 1


def test_errors_without_end_are_said(faulty: Faulty) -> None:
    proxy = faulty(Faults(error_every=1))
    with pytest.raises(
        OutsideError, match=r"does not answer \(for s3://shards/x/y\).*InternalError.*injected"
    ) as caught:
        open_storage("s3://shards/x").read_bytes("y")
    assert proxy.done["error"] == 5 and "\n" not in str(caught.value)


def test_a_truncated_object_is_fetched_again(faulty: Faulty, tmp_path: Path) -> None:
    place = open_storage(f"s3://shards/{tmp_path.name}")
    proxy = faulty(Faults(truncate="0.tar"))
    place.write_bytes("0.tar", LARGE[:50_000])
    path = Cache(place.url, tmp_path / "cache").fetch("0.tar", hashlib.sha256(LARGE[:50_000]).hexdigest())
    assert path.read_bytes() == LARGE[:50_000] and proxy.done["truncate"] == 1


def test_a_missing_file_is_named_and_a_missing_bucket_too(s3: Server, tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match=r"^there is no file 'train-7.tar' in s3://shards/x$"):
        open_storage("s3://shards/x").download("train-7.tar", tmp_path / "file")
    with pytest.raises(OutsideError, match=r"^there is no bucket 'nowhere'"):
        open_storage("s3://nowhere/x").download("train-7.tar", tmp_path / "file")


def test_an_address_without_a_scheme(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(OutsideError, match=r"AWS_ENDPOINT_URL=localhost:9000: .*http://host:port would be right"):
        open_storage("s3://shards/x").read_bytes("y")


FULL = """
import resource, sys
from pathlib import Path
from infra.errors import OutsideError
from infra.storage import Cache, Storage, open_storage
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
to = Path(sys.argv[2])
fetch = lambda: Cache(sys.argv[1], to / "cache").fetch("large")
write = lambda: open_storage(str(to / "place")).write_bytes("x", bytes(200_000))
for what in (fetch, write):
    try:
        what()
    except OutsideError as error:
        print(error)
print(sorted(path.name for path in to.rglob("*") if path.is_file() and path.suffix != ".lock"))
"""


def test_a_full_disk_is_said_and_nothing_half_written_stays(s3: Server, tmp_path: Path) -> None:
    """The limit of a process on the size of its files stands in for the disk; it fails in the same system call."""
    place = open_storage(f"s3://shards/{tmp_path.name}")
    place.write_bytes("large", LARGE)
    command = [sys.executable, "-c", FULL, place.url, str(tmp_path / "to")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert [os.strerror(errno.EFBIG) in line for line in said] == [True, True, False], said
    assert said[2] == "[]" and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
