"""Checkpoints of a training, in a folder or a bucket: which of them are whole, and which is the newest.

Ray Train keeps an account of checkpoints of its own, in a snapshot that is not written atomically, so that a process
killed at the wrong moment leaves one that cannot be read; and it gives up where a bucket is away for some seconds. Here
a checkpoint says by itself whether it is whole: a list of its files with their digests is written last.
"""

import hashlib
import json
from pathlib import Path

from infra.errors import OutsideError
from infra.storage import open_storage, sha256_of

LIST = "files.json"  # {"step": ..., "files": {name: sha256}}
PREFIX = "checkpoint_"
KEPT = 2
ATTEMPTS = 2  # to fetch a file that is not what its list says


class Checkpoints:
    """The checkpoints below one URL. Methods raise OutsideError where the place does not do its part."""

    def __init__(self, url: str) -> None:
        self.storage = open_storage(url)

    def save(self, folder: Path, step: int) -> None:
        """Keep the files of ``folder`` as the checkpoint after ``step`` steps; older ones but the last are removed."""
        name = _name(step)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        self.storage.delete(f"{name}/{LIST}")  # of an attempt before: from here on it is not whole
        for file, path in files.items():
            self.storage.upload(path, f"{name}/{file}")
        listed = {"step": step, "files": {file: sha256_of(path) for file, path in files.items()}}
        self.storage.write_bytes(f"{name}/{LIST}", json.dumps(listed).encode())
        there = self.storage.list(PREFIX)
        kept = set(sorted({file.split("/")[0] for file in there})[-KEPT:])
        for file in there:
            if file.split("/")[0] not in kept:
                self.storage.delete(file)

    def newest(self, into: Path) -> tuple[int, Path] | None:
        """The whole checkpoint of the highest step, and that step; None where there is none."""
        for name in self._names():
            if folder := self._fetch(name, into):
                return int(name.removeprefix(PREFIX)), folder
        return None

    def read_newest(self, file: str) -> bytes | None:
        """One file of the newest checkpoint that has it whole, and all others in some form; they are not read."""
        for name in self._names():
            if (files := self._files(name)) and file in files:
                content = self.storage.read_bytes(f"{name}/{file}")
                if hashlib.sha256(content).hexdigest() == files[file]:
                    return content
        return None

    def open(self, step: int, into: Path) -> Path:
        """The folder of the checkpoint after ``step`` steps: its own, or a copy below ``into`` of one in a bucket."""
        folder = self._fetch(_name(step), into)
        if folder is None:
            raise OutsideError(f"{self.storage.join(_name(step))} is damaged: the same command starts from one before")
        return folder

    def _names(self) -> list[str]:
        """The checkpoints that have a list of their files, the newest first."""
        there = {file.split("/")[0] for file in self.storage.list(PREFIX) if file.endswith(f"/{LIST}")}
        return sorted(there, reverse=True)

    def _files(self, name: str) -> dict[str, str] | None:
        """{file: sha256} of a checkpoint; None where one is missing."""
        try:
            files: dict[str, str] = json.loads(self.storage.read_bytes(f"{name}/{LIST}"))["files"]
        except (ValueError, KeyError):
            return None
        there = self.storage.list(f"{name}/")
        return None if any(f"{name}/{file}" not in there for file in files) else files

    def _fetch(self, name: str, into: Path) -> Path | None:
        """A local folder with the files of a checkpoint; None where it is not whole."""
        if (files := self._files(name)) is None:
            return None
        whole = all(self._fetch_file(f"{name}/{file}", into, digest) for file, digest in files.items())
        return self.storage.fetch(f"{name}/{LIST}", into).parent if whole else None

    def _fetch_file(self, name: str, into: Path, sha256: str) -> bool:
        return any(sha256_of(self.storage.fetch(name, into)) == sha256 for _ in range(ATTEMPTS))


def _name(step: int) -> str:
    return f"{PREFIX}{step:09d}"
