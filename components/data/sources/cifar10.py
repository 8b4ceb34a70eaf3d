"""CIFAR-10 in its official binary layout (Krizhevsky 2009, "Learning multiple layers of features from tiny images")."""

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from components.config import Config, DataConfig
from components.data.cache import cache_folder, find_cached, is_dry
from components.data.images import IMAGE_EXTENSIONS, encode_png
from components.data.sources.base import Sample, Source, register_source
from components.data.sources.files import unpack
from components.errors import UserError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as published on the data set's page
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
TEST_FILE, NAMES_FILE = "test_batch.bin", "batches.meta.txt"
_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TIMEOUT = 15  # seconds without an answer


@register_source
class Cifar10(Source):
    """50,000 training and 10,000 test images of 32 x 32 pixels in ten classes, kept lossless (PNG).

    ``root`` is the folder with the ``.bin`` files, one above it, or the archive ``cifar-10-binary.tar.gz``; without it
    the archive is downloaded and checked; a dry run takes what is known of it. Archives are unpacked once, into the
    cache of the home.
    """

    name = "cifar10"
    summary = "60,000 labelled 32 px photographs; --root FOLDER or ARCHIVE (binary version), else downloaded"

    def __init__(self, config: DataConfig, options: Config) -> None:
        self.fields = {"image": IMAGE_EXTENSIONS, "label": "cls"}
        if config.root is None and is_dry() and not find_cached("cifar10", PurePosixPath(URL).name).exists():
            self.classes, self.splits = _CLASSES, {"train": 50_000, "test": 10_000}
            return  # nothing is read in a dry run
        self._folder = _find(Path(config.root)) if config.root is not None else _find(_download())
        self._counts = {name: _count(self._folder / name) for name in (*TRAIN_FILES, TEST_FILE)}
        self.classes = tuple((self._folder / NAMES_FILE).read_text().split())
        self.splits = {"train": sum(self._counts[name] for name in TRAIN_FILES), "test": self._counts[TEST_FILE]}

    def read(self, split: str, index: int) -> Sample:
        """One record."""
        place, name = index, TEST_FILE
        if split == "train":
            for name in TRAIN_FILES:
                if place < self._counts[name]:
                    break
                place -= self._counts[name]
        record = _records(self._folder / name)[place]
        image_HW3 = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
        if record[0] >= len(self.classes):
            raise UserError(f"{self._folder / name} is damaged: record {place} has label {record[0]}; unpack it again")
        members = {"png": encode_png(image_HW3), "cls": str(int(record[0])).encode()}
        return Sample(f"{split}-{index:09d}", members)


def _records(path: Path) -> NDArray[np.uint8]:
    """The records of a file, mapped, (N, 3073)."""
    return np.memmap(path, np.uint8, mode="r").reshape(-1, _RECORD)


def _count(path: Path) -> int:
    size = path.stat().st_size
    if not size or size % _RECORD:
        raise UserError(f"{path} is damaged: {size} bytes are not whole records of {_RECORD}; unpack it again")
    return size // _RECORD


def _find(root: Path) -> Path:
    """The folder that holds the files."""
    unpacked = unpack(root, "cifar10") if root.is_file() else root
    for folder in (unpacked, unpacked / FOLDER):
        if (folder / TRAIN_FILES[0]).is_file():
            missing = [n for n in (*TRAIN_FILES, TEST_FILE, NAMES_FILE) if not (folder / n).is_file()]
            if missing:
                raise UserError(f"CIFAR-10 in {root} is not complete: {', '.join(missing)} missing; unpack it again")
            return folder
    raise UserError(
        f"no CIFAR-10 in {root}: use --set data.root=PATH with the folder that holds {TRAIN_FILES[0]} "
        "(the binary version)"
    )


def _download() -> Path:
    """The archive, in the cache; downloaded and checked if it is not there."""
    name = PurePosixPath(URL).name
    if (there := find_cached("cifar10", name)).exists():
        return there
    path = cache_folder("cifar10") / name
    advice = f"download it from {URL} and use --set data.root=ARCHIVE"
    partial = Path(tempfile.mkstemp(dir=path.parent, suffix=".part")[1])
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer, open(partial, "wb") as file:
            shutil.copyfileobj(answer, file)
        with open(partial, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != MD5:
            raise UserError(f"the download of CIFAR-10 has checksum {found} instead of {MD5}: try again, or {advice}")
        os.replace(partial, path)
    except (OSError, urllib.error.URLError) as error:
        raise UserError(f"CIFAR-10 cannot be downloaded ({getattr(error, 'reason', error)}): {advice}") from None
    finally:
        partial.unlink(missing_ok=True)
    return path
