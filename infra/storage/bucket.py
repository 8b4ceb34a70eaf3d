"""S3 buckets, of any server that speaks S3: the one module that imports boto3.

Credentials come from the standard AWS chain alone (environment, profile, role of the machine); AWS_ENDPOINT_URL points
to an S3 server that is not Amazon's.
"""

import os
import random
import re
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from infra.errors import OutsideError
from infra.storage.base import Storage, local_faults, make_folder, safe, temporary_beside

R = TypeVar("R")
ATTEMPTS = 5
FIRST_DELAY_S = 0.5  # doubles at every attempt, times a random factor in [0.5, 1.5]
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 60
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


class BucketStorage(Storage):
    """Files in a bucket, below a prefix."""

    def __init__(self, url: str) -> None:
        """``url``: s3://bucket/prefix. Nothing is opened or created yet. Raises OutsideError for another one."""
        self.url = url.rstrip("/")
        self._lock = threading.Lock()
        self._opened: dict[int, Any] = {}
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme != "s3" or len(parts.netloc) < 3:
            raise OutsideError(f"cannot store at {url}: a folder or s3://bucket/prefix would be right")
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Made anew, elsewhere, from what made it: connections and locks do not travel."""
        return type(self), (self.url,)

    def join(self, name: str) -> str:
        return f"{self.url}/{safe(name)}"

    def size(self, name: str) -> int | None:
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
        root = f"{self.prefix}/" if self.prefix else ""

        def pages() -> dict[str, int]:
            found = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix)
            return {item["Key"].removeprefix(root): item["Size"] for page in found for item in page.get("Contents", [])}

        return dict(sorted(self._ask(pages).items()))

    def read_bytes(self, name: str) -> bytes:
        key = self._key(name)
        return self._ask(lambda: bytes(self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()), name)

    def download(self, name: str, file: Path) -> Path:
        key = self._key(name)
        make_folder(file.parent)
        with temporary_beside(file) as temporary, local_faults(self.url):
            self._ask(lambda: self._carrier.download_file(self.bucket, key, str(temporary), Config=_in_parts()), name)
            os.replace(temporary, file)
        return file

    def local_file(self, name: str) -> None:
        return None

    def write_bytes(self, name: str, data: bytes) -> None:
        self._ask(lambda: self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data), name)

    def upload(self, file: Path, name: str) -> None:
        key = self._key(name)
        with local_faults(self.url):
            self._ask(lambda: self._carrier.upload_file(str(file), self.bucket, key, Config=_in_parts()), name)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    self.upload(path, path.relative_to(folder).as_posix())

    def delete(self, name: str) -> None:
        self._ask(lambda: self._client.delete_object(Bucket=self.bucket, Key=self._key(name)), name)

    def check_readable(self) -> None:
        self._ask(lambda: self._client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1), attempts=2)

    def check_writable(self) -> None:
        self.check_readable()
        super().check_writable()

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
        return f"{self.prefix}/{safe(name)}" if self.prefix else safe(name)

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
