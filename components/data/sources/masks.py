"""Images and their segmentation masks, in two folders."""

import csv
import re
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, clean, decode_map, encode_png, image_size
from components.data.sources.base import UNKNOWN, Sample, Source, register_source
from components.data.sources.files import key_of, open_root, read_file, read_text
from components.data.sources.layout import names_told
from components.data.sources.listing import printable
from components.data.sources.partners import partners_by_split
from components.data.splits import SPLIT_NAMES
from components.errors import UserError

_MOST_CLASSES = 254  # of a map with one byte per pixel, which needs two values more
_UNNAMED = -1


@register_source
class Masks(Source):
    """An image and a mask of the same name and size; in a mask, one byte per pixel (grey or palette) names the class.

    The classes file says which value is which class: lines ``value,name``, a heading allowed, or one name a line from
    value 0 on. Raises UserError for an image without mask, unequal sizes, and a value that nobody named.
    """

    name = "masks"
    summary = "images with segmentation masks in two folders and a file of classes; --root FOLDER or .tar"

    class Options(Config):
        """Where things lie below the root, and which values say nothing."""

        images: str = Field("images", description="folder of the images")
        masks: str = Field("masks", description="folder of the masks")
        classes: str = Field("classes.csv", description="file that names the classes, below the root")
        ignore: tuple[int, ...] = Field((255,), description="values of pixels of which nobody knows the class")

    told_splits = True

    def __init__(self, config: DataConfig, options: Options) -> None:
        known = {*SPLIT_NAMES, *names_told(config), options.images, options.masks}
        self._root = open_root(config, "the folder that holds images and masks, or its .tar", known)
        self._file = self._root / options.classes
        names = {value: name for value, name in _read_classes(self._file).items() if value not in options.ignore}
        self.classes = tuple(names.values())
        self._stored_of = np.full(256, _UNNAMED, np.int64)  # value in the raw mask -> value in the shard
        self._stored_of[list(names)] = np.arange(1, 1 + len(names))
        self._stored_of[list(options.ignore)] = UNKNOWN
        self._ignored = options.ignore
        self._pairs, self.left_out, self.listed, self.revision = partners_by_split(
            self._root, options.images, options.masks, self.name, config.splits
        )
        self.splits = {split: len(pairs) for split, pairs in self._pairs.items()}
        self.fields = {"image": IMAGE_EXTENSIONS, "mask": "mask.png"}

    def read(self, split: str, index: int) -> Sample:
        """One image, cleaned, with its mask. Raises BrokenImage."""
        name, path, mask_path = self._pairs[split][index]
        cleaned = clean(read_file(path))
        mask_HW = decode_map(read_file(mask_path))
        check_size(name, mask_HW, cleaned.data)
        stored_HW = self._stored_of[mask_HW]
        if stored_HW.min() == _UNNAMED:
            value = int(mask_HW[stored_HW == _UNNAMED][0])
            raise UserError(
                f"the mask of {name} has value {value}, which {self._file} does not name: add it there, or pass over "
                f"such pixels with --set 'data.options.ignore={[*self._ignored, value]}'"
            )
        members = {cleaned.extension: cleaned.data, "mask.png": encode_png(stored_HW.astype(np.uint8))}
        return Sample(key_of(split, index, PurePosixPath(name)), members, cleaned.changes)

    def locate(self, split: str, index: int) -> str:
        """Split and path of the image below its folder."""
        return printable(self._pairs[split][index].name)


def check_size(name: str, mask_HW: NDArray[np.uint8], image: bytes) -> None:
    """Raise UserError unless the mask of the image called ``name`` has the size of the image file."""
    height, width = mask_HW.shape
    expected = image_size(image)
    if (width, height) != expected:
        raise UserError(
            f"the mask of {name} is {width} x {height} and its image {expected[0]} x {expected[1]}: "
            "they must be of one size; resize or remove it"
        )


def _read_classes(path: Path) -> dict[int, str]:
    """{value: name}, by value."""
    if not path.is_file():
        raise UserError(
            f"no file of classes at {path}: write lines 'value,name', or say --set data.options.classes=FILE"
        )
    lines = csv.reader(read_text(path).splitlines())
    rows = [row for cells in lines if any(row := [cell.strip() for cell in cells])]
    if all(len(row) == 1 for row in rows):
        joined = next((row[0] for row in rows if re.match(r"\d+\s*[;\t|:]", row[0])), None)
        if joined:
            raise UserError(f"{path}: {joined!r} is no class; put a comma between value and name")
        names = dict(enumerate(row[0] for row in rows))
    else:
        rows = rows if rows[0][0].isdecimal() else rows[1:]
        names = {}
        for row in rows:
            if len(row) < 2 or not row[0].isdecimal() or int(row[0]) > 255:
                raise UserError(
                    f"{path}: {','.join(row)!r} is no class; lines must be 'value,name' with values up to 255"
                )
            if int(row[0]) in names:
                raise UserError(f"{path} names value {int(row[0])} twice: take one of the lines out")
            names[int(row[0])] = row[1]
    twice = next((name for name, count in Counter(names.values()).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{path} has {twice!r} for several values, and each would be a class: give each its own name")
    if not 0 < len(names) <= _MOST_CLASSES:
        raise UserError(f"{path} names {len(names)} classes: there must be 1 to {_MOST_CLASSES}")
    return dict(sorted(names.items()))
