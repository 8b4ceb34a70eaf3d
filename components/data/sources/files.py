"""Raw files: folders listed in a fixed order, archives unpacked once, partners found by name."""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.config import DataConfig
from components.data.images import BrokenImage
from components.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ARCHIVES = (".tar", ".tar.gz", ".tgz")
_SLUG = 60  # letters of the path that go into a key

Paths = list[tuple[PurePosixPath, Path]]  # (path below the folder of the split, file)


class Pair(NamedTuple):
    """Two files that belong together, and the name under which a person finds them."""

    name: str
    file: Path
    partner: Path


Pairs = list[Pair]


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
            with tarfile.open(archive) as first:
                tar: tarfile.TarFile | None = first
                while tar:
                    for member in tar:
                        _unpack_member(archive, tar, member, folder)
                    tar = _next_archive(tar)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise UserError(f"{archive} cannot be unpacked ({_few_words(error)}): get it again") from None

    return made_once(kind, archive, write)


def _next_archive(tar: tarfile.TarFile) -> tarfile.TarFile | None:
    """The archive that follows in the same file, where several were joined (`cat`, `tar -A`); None at its end.

    tarfile stops at the first end, takes damage for one, and when told to go on (``ignore_zeros``) passes over both.
    Raises ReadError where what ``tar`` has read does not end as an archive ends.
    """
    stream = tar.fileobj
    assert stream is not None
    position, ended = tar.offset, False
    stream.seek(position)
    while block := stream.read(tarfile.BLOCKSIZE):
        if any(block) and not ended:
            raise tarfile.ReadError(f"bad header at byte {position}")
        if any(block):
            stream.seek(position)
            return tarfile.TarFile(fileobj=stream)
        position, ended = position + len(block), True
    if not ended:
        raise tarfile.ReadError("unexpected end of data")
    return None


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
    identity = hashlib.sha256(f"{raw.absolute()}/{state.st_size}/{state.st_mtime_ns}".encode())
    target = cache_folder(kind) / identity.hexdigest()[:16]
    if target.is_dir():
        return target
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
        raise UserError(f"{raw} cannot be unpacked into {target.parent}: set GENOISE_HOME to a folder with room")
    return target


def cache_folder(kind: str) -> Path:
    """Where files made of raw ones are kept: ``$GENOISE_HOME/cache/KIND``."""
    folder = Path(os.environ.get("GENOISE_HOME", ".genoise")).expanduser().absolute() / "cache" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _few_words(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not a whole archive"


def list_images(root: Path) -> list[PurePosixPath]:
    """Image files below ``root``, hidden ones left out, in an order that does not depend on the file system."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found += [below / n for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES]
    return sorted(found, key=str)


def need_images(folder: Path) -> list[PurePosixPath]:
    """As `list_images`; UserError when there are none."""
    paths = list_images(folder)
    if not paths:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise UserError(f"no images in {folder}: put files there that end in {kinds}")
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


def read_file(path: Path) -> bytes:
    """The bytes of a file; BrokenImage when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read: {error.strerror}") from None


def key_of(split: str, index: int, path: PurePosixPath | Path) -> str:
    """The key of a sample: unique by its number, and its path for people."""
    slug = re.sub("[^A-Za-z0-9_-]+", "_", str(path.with_suffix("")))[:_SLUG]
    return f"{split}-{index:09d}-{slug}"
