"""Reading shards: memory-mapped, by walking the tar headers once. No tarfile, no pickle, no links, no foreign paths."""

import mmap
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from components.data.scramble import Int64
from components.errors import UserError

_BLOCK = 512
_REGULAR, _FOLDER, _GNU_LONG_NAME, _PAX, _PAX_GLOBAL = b"0\0", b"5", b"L", b"x", b"g"
_ZEROS = bytes(_BLOCK)


class Shard:
    """One WebDataset tar: consecutive members with the same name up to the first dot are one sample.

    Plain, GNU and pax tars are read, whoever wrote them, and several joined into one file, as ``tar -i`` does. Raises
    UserError, naming shard and member, for anything that is not a whole tar of regular files with relative names:
    links, devices, ``..``, duplicates, truncation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise UserError(f"shard {path} is missing: run `genoise prepare` again") from None
        except (OSError, ValueError) as error:
            raise UserError(f"shard {path} cannot be read ({error}): run `genoise prepare` again") from None
        self.keys: list[str] = []
        self.passed_over = 0  # members that are hidden or have no extension, as webdataset, too, passes them over
        found = self._walk()
        self._places: dict[str, tuple[Int64, Int64]] = {}
        for extension, members in found.items():
            offsets = np.full(len(self.keys), -1, np.int64)
            sizes = np.zeros(len(self.keys), np.int64)
            for sample, (offset, size) in members.items():
                offsets[sample], sizes[sample] = offset, size
            self._places[extension] = offsets, sizes

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def extensions(self) -> tuple[str, ...]:
        """Every extension that occurs."""
        return tuple(self._places)

    def count(self, extension: str) -> int:
        """How many samples have it."""
        return int((self._places[extension][0] >= 0).sum())

    def member(self, sample: int, extensions: str) -> memoryview | None:
        """The bytes of a sample's first member among ``extensions`` (separated by ``;``), or None; not a copy."""
        for extension in extensions.split(";"):
            offsets, sizes = self._places.get(extension, (None, None))
            if offsets is not None and sizes is not None and offsets[sample] >= 0:
                return self._view[int(offsets[sample]) : int(offsets[sample] + sizes[sample])]
        return None

    def keep(self, samples: Int64) -> None:
        """Forget all samples but those with the numbers ``samples``, which are counted anew, in that order."""
        self.keys = [self.keys[sample] for sample in samples.tolist()]
        self._places = {name: (offsets[samples], sizes[samples]) for name, (offsets, sizes) in self._places.items()}

    def _walk(self) -> dict[str, dict[int, tuple[int, int]]]:
        """{extension: {sample: (offset, size)}}; fills ``keys``."""
        found: dict[str, dict[int, tuple[int, int]]] = {}
        seen: set[str] = set()
        position, long_name, end, closed = 0, None, len(self._view), False
        while position + _BLOCK <= end:
            header = bytes(self._view[position : position + _BLOCK])
            if header == _ZEROS:  # ends an archive, and another one may follow
                closed, long_name, position = True, None, position + _BLOCK
                continue
            closed = False
            size, kind = self._check_header(header, position)
            offset = position + _BLOCK
            position = offset + -(-size // _BLOCK) * _BLOCK
            if offset + size > end:
                break
            if kind == _GNU_LONG_NAME:
                long_name = bytes(self._view[offset : offset + size]).rstrip(b"\0")
            elif kind == _PAX:
                long_name = _pax_path(bytes(self._view[offset : offset + size])) or long_name
            elif kind in _REGULAR:
                self._add(long_name or _short_name(header), offset, size, found, seen)
                long_name = None
            elif kind in (_FOLDER, _PAX_GLOBAL):
                long_name = None
            else:
                raise self._refuse(_short_name(header), "is a link or a device; only regular files are read")
        if closed and not any(self._view[position:]):
            return found
        raise UserError(f"shard {self.path} is truncated after {len(self.keys)} samples: run `genoise prepare` again")

    def _check_header(self, header: bytes, position: int) -> tuple[int, bytes]:
        """(size, type) of a member."""
        try:
            stated = int(header[148:156].strip(b" \0"), 8)
            packed = header[124:136]
            size = int.from_bytes(packed[1:], "big") if packed[0] == 0x80 else int(packed.strip(b" \0") or b"0", 8)
        except ValueError:
            stated, size = -1, 0
        # Adler's checksum is one more than the sum of the bytes, modulo 65521, and takes far less time than `sum`.
        expected = stated + sum(header[148:156]) - 8 * 32 + 1
        if size < 0 or expected % 65521 != zlib.adler32(header) & 0xFFFF:
            raise UserError(
                f"shard {self.path} is not a tar file, or damaged, at byte {position}: run `genoise prepare` again"
            )
        return size, header[156:157]

    def _add(
        self, raw: bytes, offset: int, size: int, found: dict[str, dict[int, tuple[int, int]]], seen: set[str]
    ) -> None:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise self._refuse(raw, "does not have a UTF-8 name") from None
        path = PurePosixPath(name) if "/" in name or "\\" in name else None
        if path and (path.is_absolute() or ".." in path.parts or "\\" in name):
            raise self._refuse(raw, "points outside the shard")
        folder, slash, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not dot or not stem:
            self.passed_over += 1
            return
        key = folder + slash + stem
        if not self.keys or self.keys[-1] != key:
            if key in seen:
                raise self._refuse(raw, "belongs to a key that occurred before; keys must be unique")
            seen.add(key)
            self.keys.append(key)
        members = found.setdefault(extension.lower(), {})
        if len(self.keys) - 1 in members:
            raise self._refuse(raw, "occurs twice")
        members[len(self.keys) - 1] = offset, size

    def _refuse(self, raw: bytes, why: str) -> UserError:
        name = raw.decode(errors="backslashreplace")
        return UserError(f"shard {self.path}: member {name!r} {why}; write the shard again without it")


def _short_name(header: bytes) -> bytes:
    """Name in a plain header; the prefix field is only a prefix in POSIX tars (GNU keeps times there)."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax_path(records: bytes) -> bytes | None:
    """The ``path`` among pax records ("LENGTH KEY=VALUE\\n" each)."""
    while records:
        length, _, rest = records.partition(b" ")
        if not length.isdigit() or int(length) <= len(length):
            return None
        record, records = rest[: int(length) - len(length) - 2], records[int(length) :]
        key, _, value = record.partition(b"=")
        if key == b"path":
            return value
    return None
