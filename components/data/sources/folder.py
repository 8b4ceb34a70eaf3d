"""Any folder of images, with or without class subfolders, with or without train/, val/ and test/ above them."""

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, clean
from components.data.sources.base import Sample, Source, register_source
from components.data.sources.files import key_of, open_root, read_file
from components.data.sources.layout import images_by_split, names_told
from components.data.sources.listing import printable
from components.data.splits import SPLIT_NAMES
from components.errors import UserError


@register_source
class Folder(Source):
    """Image files below ``root``, cleaned (components.data.images.clean).

    When every subfolder that holds images is named after a split, each after another, and one is the training split,
    they are the splits; when no name speaks of a split, all images are training images. In between the user says which
    is which (``data.splits``). A table of files may say the labels; else the first folder below the split is the class,
    if every image of the data set lies in one and there are at least two; otherwise the data is unlabelled. Pictures
    are known by their content; hidden files, and files that are none, are passed over, counted and named.
    """

    name = "folder"
    summary = "any folder of images (--root FOLDER); class subfolders become labels, train/ val/ test/ become splits"

    told_splits = True

    def __init__(self, config: DataConfig, options: Config) -> None:
        known = {*SPLIT_NAMES, *names_told(config)}
        self._root = open_root(config, "the folder that holds the images, or its .tar", known)
        self._paths, self.left_out, self._labels, self.revision = images_by_split(self._root, config.splits)
        self._classes_of = self._label()
        self.splits = {split: len(names) for split, names in self._paths.items()}
        self.fields = {"image": IMAGE_EXTENSIONS} | ({"label": "cls"} if self.classes else {})
        self.listed = (self._root,)

    def read(self, split: str, index: int) -> Sample:
        """One image file, cleaned. Raises BrokenImage."""
        within, path = self._paths[split][index]
        cleaned = clean(read_file(path))
        members = {cleaned.extension: cleaned.data}
        if self.classes:
            members["cls"] = str(self._classes_of[self._class(within, path)]).encode()
        return Sample(key_of(split, index, within), members, cleaned.changes)

    def locate(self, split: str, index: int) -> str:
        """The path below the root."""
        return printable(self._paths[split][index][1].relative_to(self._root))

    def labels(self, split: str) -> NDArray[np.int64] | None:
        """The labels of ``split``; None when the data is unlabelled."""
        if not self.classes:
            return None
        paths = self._paths.get(split, [])
        return np.fromiter((self._classes_of[self._class(*path)] for path in paths), np.int64, len(paths))

    def _class(self, within: PurePosixPath, path: Path) -> str:
        if self._labels is not None:
            return self._labels[path]
        return within.parts[0] if len(within.parts) > 1 else ""

    def _label(self) -> dict[str, int]:
        """{class: label}, and sets ``classes``; empty when the data is unlabelled."""
        found = {split: {self._class(*path) for path in paths} for split, paths in self._paths.items()}
        names = sorted(found["train"])
        if any("" in names for names in found.values()) or len(names) < 2:
            return {}
        for split, held in found.items():
            extra = sorted(held - set(names))
            if extra:
                raise UserError(
                    f"class {extra[0]!r} of the {split} split has no training images in {self._root}: "
                    f"add some or remove the class"
                )
        self.classes = tuple(map(printable, names))
        return {name: label for label, name in enumerate(names)}
