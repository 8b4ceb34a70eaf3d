"""What lies in a folder: pictures, by their content and not by their suffix, and everything else, counted and named."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import features

# Taken without a look inside, so that a million files are listed in seconds: what is broken is found when it is read.
FIRST_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SUFFIXES = (*FIRST_SUFFIXES, ".jfif", ".jpe", ".apng", ".pbm", ".pnm", ".tga", ".avif", ".jp2", ".j2k", ".jpx")
_OPTIONAL = {".avif": "avif", ".jp2": "jpg_2000", ".j2k": "jpg_2000", ".jpx": "jpg_2000"}  # Pillow may lack these
_ARCHIVES = (".tar", ".tgz", ".gz", ".zip", ".7z", ".rar", ".bz2", ".xz", ".zst")
_NOTES = (".json", ".jsonl", ".xml", ".csv", ".tsv", ".txt", ".md", ".yaml", ".yml", ".html", ".pdf", ".npy", ".npz")
# Raw files of cameras look like TIFF, and what Pillow reads of them is their thumbnail.
_RAW = ".3fr .arw .cr2 .cr3 .dcr .dng .erf .fff .iiq .kdc .mef .mos .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 .srf .srw"
_UNREADABLE = (".heic", ".heif", ".jxl", ".svg", *_RAW.split())

NOTE = "annotation or note"
HIDDEN = "hidden file"
HIDDEN_FOLDER = "hidden folder"
ARCHIVE = "archive that was not unpacked"
UNREADABLE = "picture in a format that cannot be read"
NO_PICTURE = "no picture"
NO_FILE = "neither file nor folder"
LOST = "link that leads nowhere"
TWICE = "linked folder whose pictures are taken elsewhere"
CLOSED = "folder that cannot be read"

_HEAD = 32  # bytes
_NAMED = 5
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"8BPS\0\1": "PSD",
    b"\0\0\0\x0cjP  \r\n\x87\n": "jpg_2000",
    b"\xff\x4f\xff\x51": "jpg_2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
}
_PNM = re.compile(rb"P[1-6]\s+(#|\d)")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_NEVER = ("JPEG XL", "HEIF")


@dataclass
class PassedOver:
    """What was not taken: how many of each kind, and the names of the first."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    more: bool = False  # whether pictures were taken that have none of `FIRST_SUFFIXES`, or lie in linked folders

    def add(self, why: str, name: str, count: int = 1) -> None:
        """Count ``count`` that lie at ``name``."""
        self.counts[why] = self.counts.get(why, 0) + count
        self.names.setdefault(why, [])
        if len(self.names[why]) < _NAMED:
            self.names[why].append(printable(name))

    def in_words(self) -> str:
        """``no picture: 3 (a.bin, b.bin, c.bin); hidden file: 1 (.x)``; nothing where everything was taken."""
        return "; ".join(
            f"{why}: {count} ({', '.join(self.names[why])}{', ...' if count > len(self.names[why]) >= _NAMED else ''})"
            for why, count in self.counts.items()
        )

    def facts(self) -> dict[str, dict[str, object]]:
        """For machines: {kind: {"count": how many, "names": the first}}."""
        return {why: {"count": count, "names": self.names[why]} for why, count in self.counts.items()}


def passed_over(folders: Iterable[Path]) -> PassedOver:
    """What lies in the folders and is no picture that `walk` takes."""
    found = PassedOver()
    for folder in folders:
        for path, why in sorted(walk(folder), key=lambda each: each[0]):
            if why is not None:
                found.add(why, path)
            elif not path.lower().endswith(FIRST_SUFFIXES):
                found.more = True
        found.more |= any(linked for _, linked in _folders(folder))
    return found


def walk(root: Path) -> Iterator[tuple[str, str | None]]:
    """Everything below ``root``: (path below it, None for a picture, else why it is not taken).

    Linked folders are followed, unless they lead back to where they are, or to pictures that are taken elsewhere.
    Hidden folders are not looked into.
    """
    skipped: list[tuple[str, str]] = []
    for below, _ in _folders(root, skipped):
        try:
            with os.scandir(os.path.join(root, below)) as entries:
                for entry in entries:
                    if not _is_folder(entry):
                        yield below + entry.name, _why_not(entry)
        except OSError:
            skipped.append((below or ".", CLOSED))
    yield from skipped


def files_of(root: Path) -> list[Path]:
    """All files below ``root``, hidden ones and those of linked folders too."""
    return [
        root / below / name
        for below, _ in _folders(root, hidden=True)
        for name in _names(root / below)
        if (root / below / name).is_file()
    ]


def printable(path: str | os.PathLike[str]) -> str:
    r"""A path as text that can be written anywhere: a byte that is not UTF-8, such as E9, becomes ``\udce9``."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()


def _folders(
    root: Path, skipped: list[tuple[str, str]] | None = None, hidden: bool = False
) -> Iterator[tuple[str, bool]]:
    """(path below ``root`` with a slash behind, whether a link leads there) of every folder that is looked into.

    Why others are not goes to ``skipped``.
    """
    skipped = [] if skipped is None else skipped
    top = os.path.realpath(root)
    followed: list[str] = []
    stack: list[tuple[str, bool]] = [("", False)]
    while stack:
        below, linked = stack.pop()
        yield below, linked
        found = []
        try:
            with os.scandir(os.path.join(root, below)) as entries:
                folders = sorted((entry for entry in entries if _is_folder(entry)), key=lambda entry: entry.name)
        except OSError:
            continue  # `walk` says so
        for entry in folders:
            path = below + entry.name
            if entry.name.startswith(".") and not hidden:
                skipped.append((path, HIDDEN_FOLDER))
            elif entry.is_symlink():
                target = os.path.realpath(entry.path)
                here = os.path.realpath(os.path.join(root, below))
                inside = _is_below(target, top) and "/." not in target[len(top) :]
                if inside or _is_below(here, target) or any(_is_below(target, other) for other in followed):
                    skipped.append((path, TWICE))
                else:
                    followed.append(target)
                    found.append((path + "/", True))
            elif linked and os.path.realpath(entry.path) in (top, *followed):
                skipped.append((path, TWICE))
            else:
                found.append((path + "/", linked))
        stack += reversed(found)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _why_not(entry: "os.DirEntry[str]") -> str | None:
    """Why a file is not taken; None for a picture."""
    if entry.name.startswith("."):
        return HIDDEN
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUFFIXES and (suffix not in _OPTIONAL or _can_read(_OPTIONAL[suffix])):
        # A link that leads nowhere, with the name of a picture, is a broken picture.
        return None if entry.is_symlink() or entry.is_file() else NO_FILE
    if suffix in _OPTIONAL or suffix in _UNREADABLE:
        return UNREADABLE
    if suffix in _ARCHIVES:
        return ARCHIVE
    if suffix in _NOTES:
        return NOTE
    try:
        if not stat.S_ISREG(os.stat(entry.path).st_mode):
            return NO_FILE
        with open(entry.path, "rb") as file:
            kind = kind_of(file.read(_HEAD))
    except OSError:
        return LOST if entry.is_symlink() else NO_PICTURE
    if kind is None:
        return NO_PICTURE
    return None if _can_read(kind) else UNREADABLE


def is_picture(path: Path) -> bool:
    """Whether `walk` would take a file."""
    with os.scandir(path.absolute().parent) as entries:
        return any(entry.name == path.name and _why_not(entry) is None for entry in entries)


def kind_of(head: bytes) -> str | None:
    """The format of a picture by its first 32 bytes; None for what is none."""
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        brands = head[8:]
        return "avif" if b"avif" in brands or b"avis" in brands else "HEIF" if brands[:4] in _HEIF else None
    return "PNM" if _PNM.match(head) else None


@cache
def _can_read(kind: str) -> bool:
    """Whether Pillow decodes a format."""
    return kind not in _NEVER and (kind not in _OPTIONAL.values() or bool(features.check(kind)))
