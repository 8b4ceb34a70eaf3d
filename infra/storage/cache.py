"""Copies of remote files on this machine."""

import fcntl
import hashlib
import os
import time
from pathlib import Path

from infra.errors import OutsideError
from infra.storage.base import safe, sha256_of, temporary_beside
from infra.storage.opening import open_storage

SPARED_S = 60.0  # a cached file used so recently may be about to be opened


class Cache:
    """Local copies of the files of one place, fetched once per machine, checked, and bounded in size."""

    def __init__(self, url: str, folder: Path, limit: int = 50 << 30) -> None:
        """``folder`` is shared by processes and places; ``limit``: bytes it may hold before the oldest files go."""
        self.storage, self.folder, self.limit = open_storage(url), folder, limit

    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """A local path with the bytes of ``name``; those of a remote place are compared with ``sha256`` once.

        Files of a folder are not copied. A file that does not have its sha256 is fetched once more, then OutsideError.
        """
        if path := self.storage.local_file(name):
            if not path.is_file():
                raise OutsideError(f"there is no file {path}: prepare the data again")
            return path
        # The sum is part of the place: data prepared anew under the same URL is never mistaken for the old.
        key = hashlib.sha256(f"{self.storage.url}\n{sha256}".encode()).hexdigest()[:16]
        target = self.folder / key / safe(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{target}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one machine fetch a file once
            if not target.is_file():
                self._download(name, target, sha256)
                self._evict(keep=target)
        os.utime(target)
        return target

    def _download(self, name: str, target: Path, sha256: str | None) -> None:
        with temporary_beside(target) as temporary:
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
