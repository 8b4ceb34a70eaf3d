"""What a place to store files in can do, whatever it is, and the names of places and files."""

import hashlib
import os
import tempfile
import urllib.parse
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

from infra.errors import OutsideError

BLOCK = 1 << 20  # bytes read at a time


class Storage(ABC):
    """A place that files are put into and read from. Names are relative to its URL, with forward slashes.

    Writes are atomic: a name holds the old bytes, the new bytes or nothing. Every method raises OutsideError, one line,
    where the place does not do its part; transient faults of a server are tried again, with growing, random pauses.
    Safe to use from several threads, and to send to another process.
    """

    url: str

    @abstractmethod
    def join(self, name: str) -> str:
        """The full URL or path of ``name``."""

    # Reading

    def exists(self, name: str) -> bool:
        """Whether there is a file ``name``."""
        return self.size(name) is not None

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of the file ``name``; None where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> dict[str, int]:
        """{name: bytes} of all files whose names start with ``prefix``, sorted, subfolders included."""

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """All bytes of the file ``name``."""

    @abstractmethod
    def download(self, name: str, file: Path) -> Path:
        """Copy the file ``name`` to the local path ``file``, atomically; a large one by ranges, several at a time."""

    @abstractmethod
    def local_file(self, name: str) -> Path | None:
        """The path of the file ``name`` where it needs no copy to be read on this machine; else None."""

    def fetch(self, name: str, into: Path) -> Path:
        """A local path of the file ``name``: its own, or a new copy under its name below the folder ``into``."""
        return self.local_file(name) or self.download(name, into / safe(name))

    # Writing

    @abstractmethod
    def write_bytes(self, name: str, data: bytes) -> None:
        """Make the file ``name`` hold ``data``."""

    @abstractmethod
    def upload(self, file: Path, name: str) -> None:
        """Copy the local ``file`` to ``name``; a large one in parts, which become visible together."""

    @abstractmethod
    def work_folder(self) -> AbstractContextManager[Path]:
        """Inside, a local folder; what is written into it has its place at the end, under the same name."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the file ``name``; no error where there is none."""

    # Checks

    @abstractmethod
    def check_readable(self) -> None:
        """Fail now, within seconds, if the place cannot be listed."""

    def check_writable(self) -> None:
        """Fail now, within seconds, if nothing can be written there; leaves nothing behind (a folder is created)."""
        probe = f".writable-{uuid.uuid4().hex}"
        self.write_bytes(probe, b"")
        self.delete(probe)


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


def safe(name: str) -> str:
    """Returns ``name``, refused where it would lead out of the place."""
    if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise OutsideError(f"{name!r} is not a name inside a place: it must be relative, without '..'")
    return name


@contextmanager
def temporary_beside(file: Path) -> Iterator[Path]:
    """A new name in the folder of ``file``, hidden, gone at the end unless it was moved."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(handle)
    os.chmod(name, 0o644)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it; OutsideError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        place, reason = error.filename or folder, error.strerror or error
        raise OutsideError(f"cannot make the folder {place}: {reason}; choose a place you may write to") from error


@contextmanager
def local_faults(place: str) -> Iterator[None]:
    """Inside, what goes wrong with a local file is one line; ``place``: named where the error names no file."""
    try:
        yield
    except FileNotFoundError as error:
        raise OutsideError(f"there is no file {error.filename}") from error
    except OSError as error:
        where = error.filename or place
        raise OutsideError(f"cannot use {where}: {error.strerror or error}; choose a place you may write to") from error
