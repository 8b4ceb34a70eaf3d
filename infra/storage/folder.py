"""A folder of this machine, or of a file system that machines share."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import OutsideError
from infra.storage.base import Storage, local_faults, local_path, make_folder, safe, temporary_beside


class FolderStorage(Storage):
    """Files in a folder."""

    def __init__(self, url: str) -> None:
        """``url``: a path, or file://...; nothing is created yet."""
        self.url = url.rstrip("/") or "/"
        self.folder = local_path(self.url)

    def join(self, name: str) -> str:
        return str(self._path(name))

    def size(self, name: str) -> int | None:
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def list(self, prefix: str = "") -> dict[str, int]:
        with local_faults(self.url):
            files = (path for path in self.folder.rglob("*") if path.is_file())
            sizes = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}
            return {name: sizes[name] for name in sorted(sizes) if name.startswith(prefix)}

    def read_bytes(self, name: str) -> bytes:
        with local_faults(self.url):
            return self._path(name).read_bytes()

    def download(self, name: str, file: Path) -> Path:
        make_folder(file.parent)
        with temporary_beside(file) as temporary, local_faults(self.url):
            shutil.copyfile(self._path(name), temporary)
            os.replace(temporary, file)
        return file

    def local_file(self, name: str) -> Path:
        return self._path(name)

    def write_bytes(self, name: str, data: bytes) -> None:
        with self._new(name) as temporary, temporary.open("wb") as stream:
            stream.write(data)

    def upload(self, file: Path, name: str) -> None:
        with self._new(name) as temporary:
            shutil.copyfile(file, temporary)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        yield self.folder

    def delete(self, name: str) -> None:
        with local_faults(self.url):
            self._path(name).unlink(missing_ok=True)

    def check_readable(self) -> None:
        if not self.folder.is_dir():
            raise OutsideError(f"there is no folder {self.folder}: correct the path")
        with local_faults(self.url):
            os.listdir(self.folder)

    def _path(self, name: str) -> Path:
        return self.folder / safe(name)

    @contextmanager
    def _new(self, name: str) -> Iterator[Path]:
        """Inside, a temporary file, which then takes the place of the file ``name``, and is on the disk."""
        path = self._path(name)
        make_folder(path.parent)
        with local_faults(self.url), temporary_beside(path) as temporary:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
