"""MNIST, and what comes in its idx files (LeCun et al. 1998; Fashion-MNIST, KMNIST and EMNIST use them too)."""

import gzip
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, encode_png
from components.data.sources.base import Sample, Source, register_source
from components.data.sources.files import made_once, open_root
from components.errors import UserError

_FILES = {"train": "train", "test": "t10k"}  # split: how its files begin
_IMAGES, _LABELS = 3, 1  # dimensions; the magic number is 0x800 + dimensions, 8 standing for unsigned bytes
_LEAST_CLASSES = 10


@register_source
class Mnist(Source):
    """Grey images of 28 x 28 pixels in ten classes, kept lossless as RGB; the four idx files, gzip or not."""

    name = "mnist"
    summary = "70,000 labelled digits of 28 px; --root FOLDER or .tar with the four idx files, gzip or not"

    def __init__(self, config: DataConfig, options: Config) -> None:
        root = open_root(config, "the folder that holds train-images-idx3-ubyte, or its .tar")
        self._images = {split: _find(root, f"{start}-images", _IMAGES) for split, start in _FILES.items()}
        self._labels = {split: _find(root, f"{start}-labels", _LABELS) for split, start in _FILES.items()}
        self.splits = {split: len(_read_idx(path, _IMAGES)) for split, path in self._images.items()}
        labels = {split: _read_idx(path, _LABELS) for split, path in self._labels.items()}
        for split, count in self.splits.items():
            if len(labels[split]) != count:
                raise UserError(
                    f"{count} {split} images and {len(labels[split])} labels in {root}: get the files again"
                )
        classes = max(_LEAST_CLASSES, 1 + max(int(values.max(initial=0)) for values in labels.values()))
        self.classes = tuple(map(str, range(classes)))
        self.fields = {"image": IMAGE_EXTENSIONS, "label": "cls"}

    def read(self, split: str, index: int) -> Sample:
        """One image, its grey three times over."""
        image_HW = _read_idx(self._images[split], _IMAGES)[index]
        label = int(_read_idx(self._labels[split], _LABELS)[index])
        members = {"png": encode_png(np.stack([image_HW] * 3, axis=2)), "cls": str(label).encode()}
        return Sample(f"{split}-{index:09d}", members)


def _find(root: Path, start: str, dimensions: int) -> Path:
    """The idx file, unpacked if it is compressed; some sites write a dot where the original has a dash."""
    names = [f"{start}{dash}idx{dimensions}-ubyte{ending}" for dash in "-." for ending in ("", ".gz")]
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        raise UserError(
            f"no {names[0]} in {root}, compressed or not: use --set data.root=PATH with the folder of the four files"
        )
    if path.suffix != ".gz":
        return path

    def write(folder: Path) -> None:
        try:
            with gzip.open(path) as packed, open(folder / path.stem, "wb") as file:
                shutil.copyfileobj(packed, file)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise UserError(f"{path} is not a whole gzip file: get it again") from None

    return made_once("mnist", path, write) / path.stem


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The values of an idx file of unsigned bytes, mapped: big-endian magic number, one size per dimension, values."""
    magic, *shape = np.fromfile(path, ">i4", 1 + dimensions).tolist() or [0]
    if magic != 0x800 + dimensions:
        raise UserError(
            f"{path} starts with {magic:#010x} instead of {0x800 + dimensions:#010x}: it is not an idx file of "
            f"{dimensions}-dimensional bytes; get it again"
        )
    header = 4 * (1 + dimensions)
    if path.stat().st_size != header + math.prod(shape):
        raise UserError(f"{path} has {path.stat().st_size} bytes instead of {header + math.prod(shape)}: get it again")
    return np.memmap(path, np.uint8, "r", header, tuple(shape))
