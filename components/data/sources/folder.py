"""Any folder of images, with or without class subfolders, with or without train/, val/ and test/ above them."""

import os
import re
from pathlib import Path, PurePosixPath

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, BrokenImage, clean
from components.data.sources.base import Sample, Source, register_source
from components.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SLUG = 60  # letters of the path that go into a key


@register_source
class Folder(Source):
    """Image files below ``root``, cleaned (components.data.images.clean).

    When every subfolder that holds images is named after a split, and one is the training split, they are the splits;
    otherwise all images are training images. The first folder below the split is the class, if every image of the
    data set lies in one and there are at least two; otherwise the data is unlabelled. Hidden files and files that are
    not named like images are passed over; nothing in a folder with an image's name is passed over silently.
    """

    name = "folder"
    summary = "any folder of images (--root FOLDER); class subfolders become labels, train/ val/ test/ become splits"

    def __init__(self, config: DataConfig, options: Config) -> None:
        if config.root is None:
            raise UserError("source 'folder' needs the folder that holds the images: use --root FOLDER")
        self._root = Path(config.root)
        if not self._root.is_dir():
            raise UserError(f"no folder at {self._root}: use --root with a folder that exists")
        paths = _list_images(self._root)
        if not paths:
            kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
            raise UserError(f"no images in {self._root}: put files there that end in {kinds}")
        self._paths = _by_split(paths)
        self._classes_of = self._label()
        self.splits = {split: len(names) for split, names in self._paths.items()}
        self.fields = {"image": IMAGE_EXTENSIONS} | ({"label": "cls"} if self.classes else {})

    def read(self, split: str, index: int) -> Sample:
        """One image file, cleaned. Raises BrokenImage."""
        within, path = self._paths[split][index]
        try:
            data = (self._root / path).read_bytes()
        except OSError as error:
            raise BrokenImage(f"cannot be read: {error.strerror}") from None
        cleaned = clean(data)
        members = {cleaned.extension: cleaned.data}
        if self.classes:
            members["cls"] = str(self._classes_of[within.parts[0]]).encode()
        slug = re.sub("[^A-Za-z0-9_-]+", "_", str(within.with_suffix("")))[:_SLUG]
        return Sample(f"{split}-{index:09d}-{slug}", members, (cleaned.changed,) if cleaned.changed else ())

    def locate(self, split: str, index: int) -> str:
        """The path below the root."""
        return str(self._paths[split][index][1])

    def _label(self) -> dict[str, int]:
        """{class: label}, and sets ``classes``; empty when the data is unlabelled."""
        withins = {split: [within for within, _ in names] for split, names in self._paths.items()}
        everywhere = all(len(within.parts) > 1 for names in withins.values() for within in names)
        names = sorted({within.parts[0] for within in withins["train"]}) if everywhere else []
        if len(names) < 2:
            return {}
        for split, held in withins.items():
            extra = sorted({within.parts[0] for within in held} - set(names))
            if extra:
                raise UserError(
                    f"class {extra[0]!r} of the {split} split has no training images in {self._root}: "
                    f"add some or remove the class"
                )
        self.classes = tuple(names)
        return {name: label for label, name in enumerate(names)}


Paths = list[tuple[PurePosixPath, PurePosixPath]]  # (path below the folder of the split, path below the root)


def _list_images(root: Path) -> list[PurePosixPath]:
    """Image files below ``root``, in an order that does not depend on the file system."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found += [below / n for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES]
    return sorted(found, key=str)


def _by_split(paths: list[PurePosixPath]) -> dict[str, Paths]:
    tops = {path.parts[0].lower() if len(path.parts) > 1 else "" for path in paths}
    if not (tops <= SPLIT_NAMES.keys() and "train" in {SPLIT_NAMES[top] for top in tops}):
        return {"train": [(path, path) for path in paths]}
    splits: dict[str, Paths] = {}
    for path in paths:
        within = PurePosixPath(*path.parts[1:])
        splits.setdefault(SPLIT_NAMES[path.parts[0].lower()], []).append((within, path))
    return splits
