"""Raw files: folders listed in a fixed order, archives unpacked once, partners found by name."""

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from components.config import DataConfig
from components.data.cache import cache_folder, find_cached
from components.data.images import BrokenImage
from components.data.sources.listing import SUFFIXES, passed_over, walk
from components.errors import UserError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)  # of a compressed file
_UNPACKERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_SLUG = 60  # letters of the path that go into a key

Paths = list[tuple[PurePosixPath, Path]]  # (path below the folder of the split, file)


class Pair(NamedTuple):
    """Two files that belong together, and the name under which a person finds them."""

    name: str
    file: Path
    partner: Path


Pairs = list[Pair]


class _NoEnd(tarfile.TarError):
    """Behind the last member of an archive is not what ends one."""


def open_root(config: DataConfig, expected: str, known: Container[str] = ()) -> Path:
    """``config.root`` as a folder: an archive is unpacked, and a lone folder in it, not of a ``known`` name, entered.

    ``expected`` says in errors what belongs there. Raises UserError when there is nothing at ``config.root``.
    """
    if config.root is None:
        raise UserError(f"source {config.source!r} needs {expected}: use --set data.root=PATH")
    root = Path(config.root)
    if not root.exists():
        raise UserError(f"nothing at {root}: use --set data.root=PATH with {expected}")
    folder = root if root.is_dir() else unpack(root, config.source)
    while True:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name in known:
            return folder
        folder = inside[0]


def subfolder(folder: Path, name: str, kind: str) -> Path | None:
    """The folder ``name`` in ``folder``, or its archive unpacked; None where there is neither."""
    if (folder / name).is_dir():
        return folder / name
    archives = (folder / f"{name}{suffix}" for suffix in ARCHIVES)
    return next((unpack(archive, kind) for archive in archives if archive.is_file()), None)


def unpack(archive: Path, kind: str) -> Path:
    """The folder with the files of a tar archive, compressed or not, unpacked once into the cache.

    Raises UserError for a damaged archive, and for members that a data set has no use for: links, devices, names that
    lead elsewhere. Nothing but the bytes is taken: no owners, no permissions.
    """

    def write(folder: Path) -> None:
        try:
            with decompressed(archive) as stream:
                while _unpack_next(archive, stream, folder):
                    pass  # several archives that were joined, as by `cat`, are one
        except (tarfile.TarError, *DAMAGED) as error:
            raise UserError(f"{archive} cannot be unpacked ({_few_words(error)}): get it again") from None

    return made_once(kind, archive, write)


def decompressed(archive: Path) -> IO[bytes]:
    """The bytes of an archive, decompressed; a compressed file may have several parts, which are read on.

    Raises UserError for a zip file; what is read raises what gzip, bz2 and lzma raise (`DAMAGED`).
    """
    unpacker = unpacker_of(archive)
    return open(archive, "rb") if unpacker is None else cast(IO[bytes], unpacker(archive))


def unpacker_of(archive: Path) -> Callable[[Path], Any] | None:
    """What opens a compressed file, by its first bytes; None for one that is not compressed. UserError for a zip."""
    with open(archive, "rb") as file:
        head = file.read(6)
    if head.startswith(b"PK\3\4"):
        raise UserError(f"{archive} is a zip file: unpack it and use the folder, or pack it as a tar")
    return next((unpacker for start, unpacker in _UNPACKERS.items() if head.startswith(start)), None)


def _unpack_next(archive: Path, stream: IO[bytes], folder: Path) -> bool:
    """Unpack the archive that begins where ``stream`` is; whether there is another one behind its end.

    tarfile stops without a word at the first end, at damage and where a file breaks off, so what is behind is looked
    at here. Raises TarError where it is no end.
    """
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            _unpack_member(archive, tar, member, folder)
        position, ended = tar.offset, False
    stream.seek(position)
    while block := stream.read(tarfile.BLOCKSIZE):
        if any(block):
            if not ended:
                raise _NoEnd(f"damaged at byte {position}")
            stream.seek(position)
            return True
        position, ended = position + len(block), True
    if not ended:
        raise _NoEnd("its end is missing")
    return False


def _unpack_member(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise UserError(f"{archive}: member {member.name!r} leads out of the archive; pack it again without")
    if member.isdir():
        return
    content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        raise UserError(f"{archive}: member {member.name!r} is a link or a device; pack it again with plain files")
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with open(folder / path, "xb") as file:
        shutil.copyfileobj(content, file)


def made_once(kind: str, raw: Path, write: Callable[[Path], None]) -> Path:
    """The folder that ``write`` filled from the file ``raw``, in the cache; made again when that file has changed.

    It appears when it is complete. Raises UserError when there is no room for it.
    """
    state = raw.stat()
    known_by = os.fsencode(raw.absolute()) + f"/{state.st_size}/{state.st_mtime_ns}".encode()
    name = hashlib.sha256(known_by).hexdigest()[:16]
    if (there := find_cached(kind, name)).is_dir():
        return there
    target = cache_folder(kind) / name
    partial = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        write(partial)
        with suppress(OSError):  # another process was faster, with the same files
            os.rename(partial, target)
    except OSError as error:
        raise UserError(f"{raw} cannot be unpacked ({_few_words(error)}) into {target.parent}: see to it") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not target.is_dir():
        raise UserError(f"{raw} cannot be unpacked into {target.parent}: use --home with a folder that has room")
    return target


def _few_words(error: Exception) -> str:
    return str(error) if isinstance(error, _NoEnd) else getattr(error, "strerror", None) or "not a whole archive"


def list_images(root: Path) -> list[PurePosixPath]:
    """The pictures below ``root`` (see components.data.sources.listing), in an order that does not depend on the file
    system; what else lies there is told by `listing.passed_over`."""
    return [PurePosixPath(path) for path in sorted(path for path, why in walk(root) if why is None)]


def need_images(folder: Path) -> list[PurePosixPath]:
    """As `list_images`; UserError when there are none, which says what lies there instead."""
    paths = list_images(folder)
    if not paths:
        there = passed_over([folder]).in_words()
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UserError(f"no images in {folder}: put files there that are {kinds}{there and '; there are ' + there}")
    return paths


def match_partners(split: str, firsts: Paths, seconds: Paths) -> Pairs:
    """Each of ``firsts`` with the one of ``seconds`` of the same name. Raises UserError where one has no partner."""
    sides = [_by_stem(firsts), _by_stem(seconds)]
    alone = [side[stem] for side, other in (sides, sides[::-1]) for stem in side.keys() - other.keys()]
    if alone:
        raise UserError(
            f"{len(alone)} of {len(firsts)} + {len(seconds)} images have no partner of the same name "
            f"(first: {min(alone)}): add it or remove the image"
        )
    return [Pair(f"{split}/{within}", path, sides[1][within.with_suffix("")]) for within, path in firsts]


def _by_stem(paths: Paths) -> dict[PurePosixPath, Path]:
    stems: dict[PurePosixPath, Path] = {}
    for within, path in paths:
        if stems.setdefault(within.with_suffix(""), path) != path:
            raise UserError(f"{stems[within.with_suffix('')]} and {path.name} have one name: remove one of them")
    return stems


def check_apart(place: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError where one image is listed twice, in two splits or in one; ``names``: {split: images}."""
    of: dict[str, str] = {}
    twice = [(name, of[name], split) for split in names for name in names[split] if of.setdefault(name, split) != split]
    if twice:
        name, one, other = twice[0]
        raise UserError(
            f"{len(twice)} images are listed for {one} and for {other} in {place} (first: {name}): a score on images "
            "that were trained on says nothing; take them off one of the lists"
        )
    for split, listed in names.items():
        if len(set(listed)) < len(listed):
            name, count = Counter(listed).most_common(1)[0]
            raise UserError(f"{name} is listed {count} times for {split} in {place}: once would be right")


def read_file(path: Path) -> bytes:
    """The bytes of a file; BrokenImage when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror}") from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a mark of it. Raises UserError for one that is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): see to it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (byte {error.start}): save it as such") from None


def key_of(split: str, index: int, path: PurePosixPath | Path) -> str:
    """The key of a sample: unique by its number, and its path for people."""
    slug = re.sub("[^A-Za-z0-9_-]+", "_", str(path.with_suffix("")))[:_SLUG]
    return f"{split}-{index:09d}-{slug}"
