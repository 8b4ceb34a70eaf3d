"""Folders and S3 buckets behind one face: the one module that imports boto3.

Credentials come from the standard AWS chain alone (environment, profile, role of the machine); AWS_ENDPOINT_URL points
to an S3 server that is not Amazon's. Names are relative to the place's URL, with forward slashes.
"""

import fcntl
import hashlib
import os
import random
import re
import shutil
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from infra.errors import OutsideError

R = TypeVar("R")
ATTEMPTS = 5
FIRST_DELAY_S = 0.5  # doubles at every attempt, times a random factor in [0.5, 1.5]
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 60
BLOCK = 1 << 20
SPARED_S = 60.0  # a cached file used so recently may be about to be opened
PART = 8 << 20  # bytes; larger files travel in parts of that size, several at a time
PARTS_AT_ONCE = 4  # of one file; a machine has as many of them under way as it has workers

BAD_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidClientTokenId", "401"}
MISSING = {"NoSuchKey", "404", "NotFound"}
BUSY = {"SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"}
BUSY |= {"BandwidthLimitExceeded", "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded"}
BUSY |= {"ServiceUnavailable", "429", "503"}
CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}  # with what somebody else does at this moment
TRANSIENT = {"RequestTimeout", "InternalError", *BUSY, *CONFLICT}
TRANSIENT |= {"NoSuchUpload"}  # its answer was lost, or the server has forgotten the parts: begun anew
OTHER_REGION = {"PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed"}
OTHER_REGION |= {"IllegalLocationConstraintException", "IncorrectEndpoint", "301", "302", "307"}


def is_remote(url: str) -> bool:
    """Whether ``url`` names a bucket rather than a folder."""
    return "://" in url and not url.startswith("file://")


def local_path(url: str) -> Path:
    """The path of a folder or file that ``url`` names, a path as it is or a file:// URL, where %3F is a ``?``."""
    return Path(urllib.parse.unquote(url.removeprefix("file://")) if url.startswith("file://") else url)


def absolute(url: str) -> str:
    """``url`` as it reads from any working directory; of a file:// URL its path."""
    return url if is_remote(url) else str(local_path(url).absolute())


def sha256_of(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Storage:
    """A folder or ``s3://bucket/prefix`` that files are put into and read from.

    Writes are atomic: a name holds the old bytes, the new bytes or nothing. Every method raises OutsideError, one line,
    where the place does not do its part; transient faults of a server are tried again, with growing, random pauses.
    Safe to use from several threads, and to send to another process.
    """

    def __init__(self, url: str) -> None:
        """``url``: a folder (or file://...) or s3://bucket/prefix. Nothing is opened or created yet."""
        self.url = url.rstrip("/") or "/"
        self.remote = is_remote(url)
        self._lock = threading.Lock()
        self._opened: dict[int, Any] = {}
        if not self.remote:
            self.folder = local_path(self.url)
            return
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme != "s3" or len(parts.netloc) < 3:
            raise OutsideError(f"cannot store at {url}: a folder or s3://bucket/prefix would be right")
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # made anew from what made it

    def join(self, name: str) -> str:
        """The full URL or path of ``name``."""
        return f"{self.url}/{_safe(name)}" if self.remote else str(self._path(name))

    # Reading

    def exists(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of the file ``name``; None where there is none."""
        if not self.remote:
            path = self._path(name)
            return path.stat().st_size if path.is_file() else None
        from botocore.exceptions import ClientError

        def head() -> int | None:
            try:
                return int(self._client.head_object(Bucket=self.bucket, Key=self._key(name))["ContentLength"])
            except ClientError as error:
                if _code(error) in MISSING:
                    return None
                raise

        return self._ask(head, name)

    def list(self, prefix: str = "") -> dict[str, int]:
        """{name: bytes} of all files whose names start with ``prefix``, sorted, subfolders included."""
        if not self.remote:
            with self._local():
                files = (path for path in self.folder.rglob("*") if path.is_file())
                sizes = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}
                return {name: sizes[name] for name in sorted(sizes) if name.startswith(prefix)}
        root = f"{self.prefix}/" if self.prefix else ""

        def pages() -> dict[str, int]:
            found = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix)
            return {item["Key"].removeprefix(root): item["Size"] for page in found for item in page.get("Contents", [])}

        return dict(sorted(self._ask(pages).items()))

    def read_bytes(self, name: str) -> bytes:
        """All bytes of the file ``name``."""
        if not self.remote:
            with self._local():
                return self._path(name).read_bytes()
        key = self._key(name)
        return self._ask(lambda: bytes(self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()), name)

    def download(self, name: str, file: Path) -> Path:
        """Copy the file ``name`` to the local path ``file``, atomically; a large one by ranges, several at a time."""
        self._make_folder(file.parent)
        with _temporary_beside(file) as temporary, self._local():
            if self.remote:
                key = self._key(name)
                self._ask(
                    lambda: self._carrier.download_file(self.bucket, key, str(temporary), Config=_in_parts()), name
                )
            else:
                shutil.copyfile(self._path(name), temporary)
            os.replace(temporary, file)
        return file

    # Writing

    def write_bytes(self, name: str, data: bytes) -> None:
        """Make the file ``name`` hold ``data``."""
        if self.remote:
            self._ask(lambda: self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data), name)
            return
        path = self._path(name)
        self._make_folder(path.parent)
        with self._local(), _temporary_beside(path) as temporary:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)

    def upload(self, file: Path, name: str) -> None:
        """Copy the local ``file`` to ``name``; a large one in parts, which become visible together."""
        if self.remote:
            key = self._key(name)
            with self._local():
                self._ask(lambda: self._carrier.upload_file(str(file), self.bucket, key, Config=_in_parts()), name)
            return
        path = self._path(name)
        self._make_folder(path.parent)
        with self._local(), _temporary_beside(path) as temporary:
            shutil.copyfile(file, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)

    def delete(self, name: str) -> None:
        """Remove the file ``name``; no error where there is none."""
        if self.remote:
            self._ask(lambda: self._client.delete_object(Bucket=self.bucket, Key=self._key(name)), name)
            return
        with self._local():
            self._path(name).unlink(missing_ok=True)

    # Checks

    def check_readable(self) -> None:
        """Fail now, within seconds, if the place cannot be listed."""
        if not self.remote:
            if not self.folder.is_dir():
                raise OutsideError(f"there is no folder {self.folder}: correct the path")
            with self._local():
                os.listdir(self.folder)
            return
        self._ask(lambda: self._client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1), attempts=2)

    def check_writable(self) -> None:
        """Fail now, within seconds, if nothing can be written there; leaves nothing behind (a folder is created)."""
        if self.remote:
            self.check_readable()
        probe = f".writable-{uuid.uuid4().hex}"
        self.write_bytes(probe, b"")
        self.delete(probe)

    # Inside

    @property
    def _client(self) -> Any:
        """For single requests: `_ask` tries them again, also when the body of an answer breaks off."""
        return self._open(1)

    @property
    def _carrier(self) -> Any:
        """For files in parts: a part that fails is tried again by itself, or large files would never arrive."""
        return self._open(ATTEMPTS)

    def _open(self, attempts: int) -> Any:
        with self._lock:
            if attempts not in self._opened:
                self._opened[attempts] = _open_client(attempts)
            return self._opened[attempts]

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{_safe(name)}" if self.prefix else _safe(name)

    def _path(self, name: str) -> Path:
        return self.folder / _safe(name)

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            place, reason = error.filename or folder, error.strerror or error
            raise OutsideError(f"cannot make the folder {place}: {reason}; choose a place you may write to") from error

    @contextmanager
    def _local(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise OutsideError(f"there is no file {error.filename}") from error
        except OSError as error:
            place = error.filename or self.url
            raise OutsideError(
                f"cannot use {place}: {error.strerror or error}; choose a place you may write to"
            ) from error

    def _ask(self, call: Callable[[], R], name: str = "", attempts: int = ATTEMPTS) -> R:
        """Call the server; try again what may pass, and turn what will not into one line about ``name``."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        for attempt in range(attempts):
            try:
                return call()
            except RecursionError as circle:  # botocore follows a redirect that names no region to itself
                raise OutsideError(self._elsewhere("")) from circle
            except (BotoCoreError, ClientError, Boto3Error) as caught:
                error = _cause(caught)
                if attempt + 1 == attempts or not _may_pass(error):
                    raise OutsideError(self._explain(error, name, attempt + 1)) from error
                time.sleep(FIRST_DELAY_S * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _explain(self, error: Exception, name: str = "", attempts: int = 1) -> str:
        from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return f"no credentials for {self.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if isinstance(error, ClientError):
            code = _code(error)
            if code == "NoSuchBucket" or (code in ("404", "NotFound") and not (name and self._has_bucket())):
                return f"there is no bucket {self.bucket!r} (for {self.url}): create it, or correct the name"
            if code in MISSING:
                return f"there is no file {name!r} in {self.url}"
            if code in BAD_KEY:
                return f"the server refuses the access key for {self.url} ({code}): correct the AWS credentials"
            if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
                return f"the access key has no permission for {self.url}: ask for reading and writing this bucket"
            if code in OTHER_REGION or _region_of(error) not in ("", self._client.meta.region_name):
                return self._elsewhere(_region_of(error))
        if _may_pass(error):
            server = self._client.meta.endpoint_url
            where, why = self.join(name) if name else self.url, " ".join(str(error).split())[:150]
            if _is_busy(error):
                return f"{server} is too busy (for {where}, {attempts} times): try later, or with fewer workers ({why})"
            if isinstance(error, ClientError) and _status(error) == 409:
                return f"somebody else writes {where} at the same time: let one of the two end, then try again ({why})"
            return f"{server} does not answer (for {where}): start it, or correct AWS_ENDPOINT_URL ({why})"
        return f"cannot use {self.url}: {' '.join(str(error).split())[:300]}"

    def _elsewhere(self, region: str) -> str:
        """One line about a bucket that is not in the region of the requests; ``region``: its own, where known."""
        from botocore.exceptions import BotoCoreError

        try:
            ours = f" ({self._client.meta.region_name}, {self._client.meta.endpoint_url})"
        except (BotoCoreError, RecursionError):
            ours = ""
        there, right = (region, region) if region else ("another region, or on another server", "ITS-REGION")
        return (
            f"the bucket {self.bucket!r} (for {self.url}) is not where it was asked for{ours}, but in {there}: "
            f"set AWS_REGION={right} and AWS_DEFAULT_REGION={right}, or correct AWS_ENDPOINT_URL"
        )

    def _has_bucket(self) -> bool:
        """Whether the server knows the bucket; the answer to HEAD of a missing file does not tell."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.head_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError, RecursionError):
            return False
        return True


class Cache:
    """Local copies of the files of one place, fetched once per machine, checked, and bounded in size."""

    def __init__(self, url: str, folder: Path, limit: int = 50 << 30) -> None:
        """``folder`` is shared by processes and places; ``limit``: bytes it may hold before the oldest files go."""
        self.storage, self.folder, self.limit = Storage(url), folder, limit

    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """A local path with the bytes of ``name``; those of a remote place are compared with ``sha256`` once.

        Files of a folder are not copied. A file that does not have its sha256 is fetched once more, then OutsideError.
        """
        if not self.storage.remote:
            path = self.storage._path(name)
            if not path.is_file():
                raise OutsideError(f"there is no file {path}: prepare the data again")
            return path
        # The sum is part of the place: data prepared anew under the same URL is never mistaken for the old.
        key = hashlib.sha256(f"{self.storage.url}\n{sha256}".encode()).hexdigest()[:16]
        target = self.folder / key / _safe(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{target}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one machine fetch a file once
            if not target.is_file():
                self._download(name, target, sha256)
                self._evict(keep=target)
        os.utime(target)
        return target

    def _download(self, name: str, target: Path, sha256: str | None) -> None:
        with _temporary_beside(target) as temporary:
            for _ in range(2):
                self.storage.download(name, temporary)
                if sha256 is None or sha256_of(temporary) == sha256:
                    os.replace(temporary, target)
                    return
        raise OutsideError(
            f"{self.storage.join(name)} is damaged: its sha256 is not the one in the index; remove it and prepare again"
        )

    def _evict(self, keep: Path) -> None:
        """Remove the files not used for longest. An unlinked file stays readable for those who have it open."""
        files = [(p.stat().st_mtime, p.stat().st_size, p) for p in self.folder.rglob("*") if _is_entry(p)]
        total, now = sum(size for _, size, _ in files), time.time()
        for used, size, path in sorted(files):
            if total <= self.limit or used > now - SPARED_S:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


def _is_entry(path: Path) -> bool:
    return path.is_file() and path.suffix != ".lock" and not path.name.startswith(".")


def _safe(name: str) -> str:
    """``name``, refused where it would lead out of the place."""
    if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise OutsideError(f"{name!r} is not a name inside a place: it must be relative, without '..'")
    return name


@contextmanager
def _temporary_beside(file: Path) -> Iterator[Path]:
    """A new name in the folder of ``file``, hidden, gone at the end unless it was moved."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(handle)
    os.chmod(name, 0o644)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_busy(error: Exception) -> bool:
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and (_code(error) in BUSY or _status(error) in (429, 503))


def _region_of(error: Any) -> str:
    """The region that an answer names as that of the bucket; empty where it names none."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    told = error.response.get("Error", {})
    expected = re.search(r"expecting '([\w-]+)'", str(told.get("Message", "")))
    return str(headers.get("x-amz-bucket-region") or told.get("Region") or (expected[1] if expected else ""))


def _cause(error: Exception) -> Exception:
    """What went wrong inside boto3's transfers, which wrap it in errors of their own."""
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError

    if isinstance(error, RetriesExceededError):
        last: Exception = getattr(error, "last_exception", error)
        return last
    if isinstance(error, S3UploadFailedError) and isinstance(error.__context__, Exception):
        return error.__context__
    return error


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
    )
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        return _code(error) in TRANSIENT or _status(error) in (409, 429) or _status(error) >= 500
    broken_off = (IncompleteReadError, FlexibleChecksumError, ResponseParserError)
    return isinstance(error, (ConnectionError, HTTPClientError, OSError, *broken_off))


def _in_parts() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=PARTS_AT_ONCE)


def _open_client(attempts: int) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import InvalidRegionError

    own_server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": attempts, "mode": "standard"},  # with growing, random pauses
        max_pool_connections=32,
        # Servers that are not Amazon's rarely have one host name per bucket.
        s3={"addressing_style": "path"} if own_server else {},
    )
    region = os.environ.get("AWS_REGION") or None  # which boto3 leaves to the other tools of Amazon's
    try:
        return boto3.session.Session(region_name=region).client("s3", config=config)
    except InvalidRegionError as error:
        raise OutsideError(
            f"{error}: set AWS_REGION and AWS_DEFAULT_REGION to a name such as eu-central-1".replace("..", ".")
        ) from None
    except ValueError as error:  # an address without http://
        raise OutsideError(
            f"cannot use AWS_ENDPOINT_URL={own_server}: {error}; http://host:port would be right"
        ) from None
