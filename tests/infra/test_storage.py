"""Folders and a real S3 server behind one face."""

import hashlib
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import storage
from infra.errors import OutsideError
from infra.local import Server
from infra.storage import Cache, Storage, is_remote, open_storage
from infra.storage.bucket import BucketStorage

pytestmark = pytest.mark.xdist_group("s3")
BYTES = bytes(range(256)) * 40
SOON_S = 100.0  # boto3's own defaults try for minutes


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: Server) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "place"))
    return open_storage(f"s3://shards/{tmp_path.name}")


def test_what_is_written_is_read(place: Storage, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(BYTES)
    place.write_bytes("train/0.tar", b"old")
    place.write_bytes("train/0.tar", BYTES)
    place.upload(file, "val/0.tar")
    assert place.read_bytes("train/0.tar") == BYTES
    assert place.download("val/0.tar", tmp_path / "sub" / "copy").read_bytes() == BYTES
    assert place.list() == {"train/0.tar": len(BYTES), "val/0.tar": len(BYTES)}
    assert place.list("val/") == {"val/0.tar": len(BYTES)}
    assert (place.exists("train/0.tar"), place.exists("train/1.tar")) == (True, False)
    assert (place.size("train/0.tar"), place.size("train/1.tar")) == (len(BYTES), None)
    place.delete("val/0.tar")
    assert not place.exists("val/0.tar")


def test_a_large_file_goes_in_parts(s3: Server, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(20 << 20))  # boto3 cuts above 8 MiB
    place = open_storage(f"s3://shards/{tmp_path.name}")
    place.upload(file, "large")
    assert place.size("large") == 20 << 20
    copy = place.download("large", tmp_path / "copy")
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_a_check_leaves_nothing(place: Storage) -> None:
    place.check_writable()
    assert place.list() == {}


def test_it_can_be_sent_to_another_process(place: Storage) -> None:
    place.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(place)).read_bytes("x") == b"1"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", ""])
def test_a_name_never_leads_out(place: Storage, name: str) -> None:
    with pytest.raises(OutsideError, match="must be relative"):
        place.write_bytes(name, b"")


def test_a_missing_file_is_said(place: Storage) -> None:
    place.write_bytes("x", b"")
    with pytest.raises(OutsideError, match=r"there is no file .*y"):
        place.read_bytes("y")


def test_a_write_that_fails_leaves_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_storage(str(tmp_path))
    place.write_bytes("index.json", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutsideError, match="No space left on device"):
        place.write_bytes("index.json", b"new")
    assert place.read_bytes("index.json") == b"old"
    assert os.listdir(tmp_path) == ["index.json"]


def test_what_names_a_bucket() -> None:
    assert [is_remote(url) for url in ("s3://b/x", "/x", "x", "file:///x")] == [True, False, False, False]
    with pytest.raises(OutsideError, match="s3://bucket/prefix would be right"):
        open_storage("gs://bucket")


# What goes wrong with buckets: one line, and soon


def one_line(url: str) -> str:
    started = time.monotonic()
    with pytest.raises(OutsideError) as caught:
        open_storage(url).check_writable()
    assert time.monotonic() - started < SOON_S
    assert "\n" not in str(caught.value)
    assert "an-utter-secret" not in str(caught.value)
    return str(caught.value)


def test_a_missing_bucket(s3: Server) -> None:
    assert "there is no bucket 'nowhere'" in one_line("s3://nowhere/x")


def test_a_wrong_secret(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "refuses the access key" in one_line("s3://shards/x")


def test_an_unknown_key(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    assert "refuses the access key" in one_line("s3://shards/x")


def test_no_credentials(s3: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert "set AWS_ACCESS_KEY_ID" in one_line("s3://shards/x")


def test_no_server(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in one_line("s3://shards/x")


def test_a_server_that_accepts_and_says_nothing(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.bucket, "READ_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "does not answer" in one_line("s3://shards/x")


def test_no_permission(s3: Server) -> None:
    """rclone has no permissions to refuse, so the refusal is put in."""
    place = BucketStorage("s3://shards/x")
    assert "no permission" in place._explain(_client_error("AccessDenied", 403))


def _client_error(code: str, status: int) -> Exception:
    from botocore.exceptions import ClientError

    answer: Any = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses between attempts, not slept."""
    taken: list[float] = []
    monkeypatch.setattr("infra.storage.bucket.time.sleep", taken.append)
    yield taken


def test_a_passing_fault_is_tried_again(s3: Server, pauses: list[float]) -> None:
    faults = [_client_error("SlowDown", 503), _client_error("InternalError", 500)]

    def call() -> str:
        if faults:
            raise faults.pop(0)
        return "done"

    assert BucketStorage("s3://shards/x")._ask(call) == "done"
    assert len(pauses) == 2
    assert 0.25 <= pauses[0] <= 0.75 and 0.5 <= pauses[1] <= 1.5


def test_a_lasting_fault_is_not(s3: Server, pauses: list[float]) -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise _client_error("AccessDenied", 403)

    with pytest.raises(OutsideError):
        BucketStorage("s3://shards/x")._ask(call)
    assert (len(calls), pauses) == (1, [])


# The cache


@pytest.fixture
def remote(s3: Server, tmp_path: Path) -> Storage:
    place = open_storage(f"s3://shards/cache-{tmp_path.name}")
    for name in ("train/0.tar", "val/0.tar"):  # equal base names
        place.write_bytes(name, name.encode() * 1000)
    return place


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_fetched_once(remote: Storage, tmp_path: Path) -> None:
    cache = Cache(remote.url, tmp_path / "cache")
    good = sha(b"train/0.tar" * 1000)
    first = cache.fetch("train/0.tar", good)
    assert first.read_bytes() == b"train/0.tar" * 1000
    assert cache.fetch("val/0.tar").read_bytes() == b"val/0.tar" * 1000
    remote.delete("train/0.tar")
    assert cache.fetch("train/0.tar", good) == first


def test_threads_fetch_a_file_once(remote: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    download = Storage.download

    def counted(self: BucketStorage, name: str, file: Path) -> Path:
        calls.append(name)
        return download(self, name, file)

    monkeypatch.setattr(BucketStorage, "download", counted)
    workers = [threading.Thread(target=Cache(remote.url, tmp_path / "c").fetch, args=("val/0.tar",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert calls == ["val/0.tar"]


def test_a_damaged_file_is_never_returned(remote: Storage, tmp_path: Path) -> None:
    cache = Cache(remote.url, tmp_path / "cache")
    with pytest.raises(OutsideError, match="is damaged"):
        cache.fetch("val/0.tar", sha(b"something else"))
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_new_data_under_the_same_name_is_fetched_anew(remote: Storage, tmp_path: Path) -> None:
    cache = Cache(remote.url, tmp_path / "cache")
    cache.fetch("val/0.tar", sha(b"val/0.tar" * 1000))
    remote.write_bytes("val/0.tar", b"new")
    assert cache.fetch("val/0.tar", sha(b"new")).read_bytes() == b"new"


def test_the_cache_is_bounded(remote: Storage, tmp_path: Path) -> None:
    cache = Cache(remote.url, tmp_path / "cache", limit=12_000)
    old = cache.fetch("train/0.tar")  # 11,000 bytes
    opened = old.open("rb")
    os.utime(old, (0, 0))
    new = cache.fetch("val/0.tar")  # 9,000 bytes
    assert new.is_file() and not old.exists()
    assert opened.read() == b"train/0.tar" * 1000  # whoever had it open can go on
    opened.close()


def test_two_data_sets_share_a_small_cache_and_are_never_mixed(s3: Server, tmp_path: Path) -> None:
    """Equal names, equal sizes, in turn; there is room for one file at a time."""
    places = [open_storage(f"s3://shards/{tmp_path.name}/{name}") for name in ("cats", "dogs")]
    contents = [{"train-0.tar": bytes([k]) * 9000, "train-1.tar": bytes([k + 10]) * 9000} for k in range(2)]
    for place, files in zip(places, contents, strict=True):
        for name, data in files.items():
            place.write_bytes(name, data)
    caches = [Cache(place.url, tmp_path / "cache", limit=10_000) for place in places]
    for _ in range(2):
        for name in ("train-0.tar", "train-1.tar"):
            for cache, files in zip(caches, contents, strict=True):
                copy = cache.fetch(name, sha(files[name]))
                assert copy.read_bytes() == files[name]
                os.utime(copy, (0, 0))
    assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.tar")) <= 10_000


def test_files_of_a_folder_are_not_copied(tmp_path: Path) -> None:
    open_storage(str(tmp_path / "data")).write_bytes("0.tar", b"x")
    assert Cache(str(tmp_path / "data"), tmp_path / "cache").fetch("0.tar") == tmp_path / "data" / "0.tar"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["50%20x", "%41", "a?b", "a#b", "a b"])
def test_a_folder_keeps_its_name(tmp_path: Path, name: str) -> None:
    """A path is a path, and only of a URL are the escapes read."""
    open_storage(str(tmp_path / name)).write_bytes("0.tar", BYTES)
    assert (tmp_path / name / "0.tar").read_bytes() == BYTES
    url = (tmp_path / name).as_uri()
    assert open_storage(url).read_bytes("0.tar") == BYTES
    assert storage.absolute(url) == storage.absolute(str(tmp_path / name)) == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_cannot_be_made_is_no_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="cannot make the folder /proc/genoise"):
        open_storage("/proc/genoise").check_writable()
