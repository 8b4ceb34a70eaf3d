"""Tars that the webdataset library opens: names with braces, pipes, web servers and the stores it knows."""

import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.config import Config, DataConfig
from components.data.boxes import clean_objects, unpack_objects
from components.data.cache import cache_folder, find_cached
from components.data.foreign_tars import count_classes, fields_of, label_of
from components.data.images import IMAGE_EXTENSIONS, BrokenImage, Cleaned, clean, decode_map
from components.data.reader import Shard
from components.data.shards import replacing
from components.data.sources.base import Sample, Source, register_source
from components.data.sources.files import DAMAGED, check_apart, decompressed, key_of, unpacker_of
from components.data.sources.listing import PassedOver, printable
from components.data.sources.masks import check_size
from components.data.splits import CLASSES, split_spoken_of
from components.errors import UserError

_TRIES = 3  # of a tar that comes from elsewhere
_AT_ONCE = 8  # tars that are fetched side by side
_SHOWN = 80  # letters of a pipe in a message
_WANTED = "names of tars, such as https://host/photos-{000..099}.tar"
_BY_CURL = ("http", "https", "sftp", "ftps", "scp", "hf", "htgs")
_CURL: dict[int | None, str] = {  # its exit statuses
    5: "its proxy was not found",
    6: "its host was not found",
    7: "its host does not answer",
    18: "it broke off",
    22: "the server refuses it",
    28: "its host is too slow",
    60: "its host's certificate is not known here",
}
_FIELDS = {  # as they are stored; an image may have another format than in the tar
    "image": IMAGE_EXTENSIONS,
    "target": ";".join(f"target.{extension}" for extension in IMAGE_EXTENSIONS.split(";")),
    "label": "cls",
    "mask": "mask.png",
    "edges": "edges.png",
    "boxes": "boxes.json",
}


@dataclass(frozen=True)
class _Tar:
    """One tar, on this machine."""

    name: str  # as the user wrote it, braces expanded
    shard: Shard


@register_source
class WebDataset(Source):
    """The samples of tars that ``webdataset.WebDataset`` would open, laid into shards of our own.

    ``root`` names the tars of the training split, the options ``val`` and ``test`` those of the other splits. As in
    that library, braces count (``{000..099}``, ``{a,b}``), ``::`` joins several names, ``${NAME}`` is the variable
    WDS_NAME of the environment, and a name may be a file, a URL (http, https, gs, hf, ...) or ``pipe:COMMAND``. A
    compressed tar is read too.

    Everything but plain files is fetched once, three tries each, into the cache of the home. Images are cleaned, a
    sample that lacks a field which others have is broken; a tar that breaks off or is damaged stops the preparation.
    """

    class Options(Config):
        """The tars of the other splits."""

        val: str | None = Field(None, description="tars of the validation split; None: a part of training is held back")
        test: str | None = Field(None, description="tars of the test split")
        version: str = Field("", description="any text; with another one, all tars are fetched anew")

    name = "webdataset"
    summary = "tars that webdataset opens (--root 'https://host/x-{000..099}.tar'): braces, ::, http, pipe:, stores"
    told_splits = True

    def __init__(self, config: DataConfig, options: Options) -> None:
        _check(config)
        specs = {"train": config.root, "val": options.val, "test": options.test}
        names = {split: _expand(spec) for split, spec in specs.items() if spec is not None}
        check_apart(Path("data.root and data.options"), names)
        if config.splits != CLASSES:
            _check_names(names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            paths = {split: list(pool.map(partial(_fetch, version=options.version), names[split])) for split in names}
        self._tars = {
            split: [_Tar(name, _open(name, path)) for name, path in zip(names[split], paths[split], strict=True)]
            for split in names
        }
        self._ends = {split: np.cumsum([len(tar.shard) for tar in tars]) for split, tars in self._tars.items()}
        self.splits = {split: int(ends[-1]) for split, ends in self._ends.items()}
        states = [_state(*tar) for split in names for tar in zip(names[split], paths[split], strict=True)]
        self.revision = hashlib.sha256(repr(states).encode()).hexdigest()[:16]
        self._extensions = fields_of(self._count(), sum(self.splits.values()), config, "the tars")
        self.fields = {field: stored for field, stored in _FIELDS.items() if field in self._extensions}
        self._labels = {split: self._labels_of(split) for split in self.splits} if "label" in self.fields else {}
        if self._labels:
            self.classes = tuple(map(str, range(count_classes(self._labels, "the tars"))))

    def read(self, split: str, index: int) -> Sample:
        """One sample, its image cleaned. Raises BrokenImage."""
        tar, number = self._place(split, index)
        name = tar.shard.keys[number]
        members = {
            field: bytes(data)
            for field, extensions in self._extensions.items()
            if (data := tar.shard.member(number, extensions)) is not None
        }
        if lacking := [field for field in self.fields if field not in members]:
            raise BrokenImage(f"it has no {' and no '.join(lacking)}")
        image = clean(members["image"])
        stored, changes = {image.extension: image.data}, image.changes
        if "target" in members:
            target = clean(members["target"])
            stored[f"target.{target.extension}"] = target.data
        if "label" in members:
            stored["cls"] = str(int(members["label"])).encode()
        for field in ("mask", "edges"):
            if field in members:
                check_size(self.locate(split, index), decode_map(members[field]), image.data)
                stored[_FIELDS[field]] = members[field]
        if "boxes" in members:
            stored["boxes.json"], dropped = _boxes(members["boxes"], image)
            changes += dropped
        return Sample(key_of(split, index, PurePosixPath(name)), stored, changes)

    def locate(self, split: str, index: int) -> str:
        """The tar, as the user named it, and the sample's key."""
        tar, number = self._place(split, index)
        return printable(f"{tar.name}/{tar.shard.keys[number]}")

    def labels(self, split: str) -> NDArray[np.int64] | None:
        """The labels of ``split``, -1 for a sample without; None when the data is unlabelled."""
        return self._labels.get(split, np.zeros(0, np.int64)) if self._labels else None

    @property
    def passed_over(self) -> PassedOver:
        """Members that are no field."""
        found = PassedOver()
        used = {extension for extensions in self._extensions.values() for extension in extensions.split(";")}
        for tar in chain(*self._tars.values()):
            for extension in tar.shard.extensions:
                if extension not in used:
                    found.add(f"member .{extension}", tar.name, tar.shard.count(extension))
            if tar.shard.passed_over:
                found.add("member that is hidden or has no extension", tar.name, tar.shard.passed_over)
        return found

    def _place(self, split: str, index: int) -> tuple[_Tar, int]:
        ends = self._ends[split]
        place = int(np.searchsorted(ends, index, side="right"))
        return self._tars[split][place], index - (int(ends[place - 1]) if place else 0)

    def _count(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for tar in chain(*self._tars.values()):
            counts.update({extension: tar.shard.count(extension) for extension in tar.shard.extensions})
        return counts

    def _labels_of(self, split: str) -> NDArray[np.int64]:
        labels = [
            label_of(tar.shard, number, tar.name) for tar in self._tars[split] for number in range(len(tar.shard))
        ]
        return np.array(labels, np.int64)


def _check(config: DataConfig) -> None:
    """Raise UserError for what is known to be wrong before anything is opened."""
    if config.root is None:
        raise UserError(f"source 'webdataset' needs {_WANTED}: use --set data.root=NAMES")
    if os.path.isdir(config.root):
        raise UserError(
            f"{config.root} is a folder, and source 'webdataset' needs {_WANTED}; the tars of a folder or bucket are "
            f"used as they are by --set data.source=shards --set data.url={config.root}"
        )
    if config.splits not in (None, CLASSES):
        raise UserError(
            f"--splits {config.splits}: source 'webdataset' is told the tars of each split: --set data.root=TRAIN "
            f"--set data.options.val=VAL --set data.options.test=TEST; --splits {CLASSES} says that names mean nothing"
        )


def _expand(spec: str) -> list[str]:
    """The names of single tars. UserError for unbalanced braces, unknown variables and kinds, standard input."""
    from webdataset.shardlists import expand_urls

    try:
        names: list[str] = expand_urls(spec)
    except (AssertionError, ValueError) as error:
        why = (str(error) or type(error).__name__).replace("wds_WDS_", "WDS_")
        raise UserError(f"{spec!r} cannot be expanded ({why}): {_WANTED} would be right") from None
    for name in names:
        if name in ("", "-"):
            raise UserError(f"{spec!r}: {name!r} is no tar; {_WANTED} would be right")
        _check_scheme(name)
    return names


def _check_scheme(name: str) -> None:
    """Raise UserError for a URL of a kind that webdataset does not open, which no second try would change."""
    from webdataset.gopen import gopen_schemes, rewrite_url

    scheme = urlparse(rewrite_url(name)).scheme
    known = sorted({*gopen_schemes, "file"} - {"__default__"})
    if scheme and scheme not in known:
        bucket = "; tars of a bucket are used as they are by --set data.source=shards --set data.url=s3://BUCKET/PREFIX"
        raise UserError(
            f"{name} cannot be fetched (webdataset opens no {scheme}://, but {', '.join(known)}): name a command that "
            f"writes it, 'pipe:aws s3 cp {name} -' for example{bucket * (scheme == 's3')}"
        )


def _check_names(names: dict[str, list[str]]) -> None:
    """Raise UserError for a tar whose name speaks of another split than it is listed for."""
    for split, listed in names.items():
        for name in listed:
            path = urlparse(name).path if not name.startswith("pipe:") else ""
            spoken = split_spoken_of(PurePosixPath(unquote(path)).name)
            if spoken not in (None, split):
                right = "--set data.root=NAMES" if spoken == "train" else f"--set data.options.{spoken}=NAMES"
                raise UserError(
                    f"{_short(name)} is listed for {split}, and its name speaks of {spoken}: list it there ({right}); "
                    f"or, where names mean nothing, add --splits {CLASSES}"
                )


def _fetch(name: str, version: str) -> Path:
    """The tar on this machine, not compressed: a plain file as it is, anything else from the cache, or now into it."""
    local = _local(name)
    known_by = f"{name}\0{version}"
    if local:
        try:
            if unpacker_of(local) is None:
                return local
            state = local.stat()
        except OSError as error:
            raise UserError(f"{name} cannot be read ({error.strerror}): correct the name, or leave it out") from None
        known_by = f"{local.absolute()}/{state.st_size}/{state.st_mtime_ns}"
    kept = hashlib.sha256(known_by.encode()).hexdigest()[:16] + ".tar"
    if not (there := find_cached("webdataset", kept)).is_file():
        there = cache_folder("webdataset") / kept
        _keep(name, local, there)
    return there


def _keep(name: str, local: Path | None, target: Path) -> None:
    """Write the tar, which is there when it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        raw = local or Path(folder) / "raw"
        try:
            if local is None:
                _copy(name, raw)
            with decompressed(raw) as packed, replacing(target) as file:
                shutil.copyfileobj(packed, file)
        except DAMAGED as error:
            raise UserError(f"{_short(name)} is damaged ({error}): write it again, or leave it out") from None
        except UserError as error:
            raise UserError(str(error).replace(str(raw), _short(name))) from None
        except OSError as error:
            raise UserError(
                f"{_short(name)} cannot be kept in {target.parent} ({error.strerror or error}): use --home with a "
                "folder that has room"
            ) from None


def _local(name: str) -> Path | None:
    """The file that a name means; None where it is no file's name."""
    url = urlparse(name)
    if url.scheme == "file":
        return Path(url2pathname(url.path))
    return None if url.scheme else Path(name)


def _copy(name: str, path: Path) -> None:
    """What webdataset reads under ``name``, into a file. Raises UserError after the last try."""
    for tries_left in reversed(range(_TRIES)):
        why = _copy_once(name, path)
        if why is None:
            return
        if tries_left:
            time.sleep(_TRIES - tries_left)
    raise UserError(f"{_short(name)} cannot be fetched ({why}): correct the name, or leave it out")


def _copy_once(name: str, path: Path) -> str | None:
    """None, or why it failed."""
    from webdataset.gopen import gopen  # imports torch's data utilities

    try:
        stream: IO[bytes] = gopen(name)
    except FileNotFoundError as error:
        return f"the program {error.filename} is not installed"
    except (OSError, ValueError, ImportError) as error:
        return str(error) or type(error).__name__
    try:
        with open(path, "wb") as file, stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                file.write(block)
    except OSError as error:
        if error.errno is not None:  # of the file that is written; webdataset's own has no number
            raise
        status = getattr(stream, "status", None)
        known = _CURL if urlparse(name).scheme in _BY_CURL else {}
        return known.get(status, f"exit status {status}")
    return None if path.stat().st_size else "it is empty"


def _open(name: str, path: Path) -> Shard:
    """The tar's samples. Raises UserError for one that is no whole tar, by the name that the user knows."""
    try:
        shard = Shard(path)
    except UserError as error:
        why = str(error).removeprefix(f"shard {path}").partition("run `genoise")[0].rstrip(": ")
        raise UserError(f"{_short(name)}{why}: write it again, or leave it out") from None
    if not len(shard):
        raise UserError(f"{_short(name)} holds no samples: members need names like KEY.jpg; leave it out")
    return shard


def _state(name: str, path: Path) -> tuple[str, int, int]:
    """What tells that a tar has changed: its name in the cache, or the time of a file that is read as it is."""
    state = path.stat()
    as_it_is = path == _local(name)
    return ("" if as_it_is else path.name, state.st_size, state.st_mtime_ns if as_it_is else 0)


def _boxes(data: bytes, image: Cleaned) -> tuple[bytes, tuple[str, ...]]:
    return clean_objects(unpack_objects(data), *image.size_for("boxes"))


def _short(name: str) -> str:
    """A name for a message; of a long command, its beginning."""
    return name[:_SHOWN] + "..." if name.startswith("pipe:") and len(name) > _SHOWN else name
