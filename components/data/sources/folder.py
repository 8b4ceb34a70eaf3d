"""Any folder of images, with or without class subfolders, with or without train/, val/ and test/ above them."""

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, clean
from components.data.sources.base import Sample, Source, register_source
from components.data.sources.files import images_by_split, key_of, open_root, read_file
from components.data.sources.listing import printable
from components.data.splits import SPLIT_NAMES
from components.errors import UserError


@register_source
class Folder(Source):
    """Image files below ``root``, cleaned (components.data.images.clean).

    When every subfolder that holds images is named after a split, and one is the training split, they are the splits;
    otherwise all images are training images. The first folder below the split is the class, if every image of the
    data set lies in one and there are at least two; otherwise the data is unlabelled. Pictures are known by their
    content; hidden files, and files that are none, are passed over, counted and named.
    """

    name = "folder"
    summary = "any folder of images (--root FOLDER); class subfolders become labels, train/ val/ test/ become splits"

    def __init__(self, config: DataConfig, options: Config) -> None:
        self._root = open_root(config, "the folder that holds the images, or its .tar", known=SPLIT_NAMES)
        self._paths = images_by_split(self._root)
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
            members["cls"] = str(self._classes_of[within.parts[0]]).encode()
        return Sample(key_of(split, index, within), members, cleaned.changes)

    def locate(self, split: str, index: int) -> str:
        """The path below the root."""
        return printable(self._paths[split][index][1].relative_to(self._root))

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
        self.classes = tuple(map(printable, names))
        return {name: label for label, name in enumerate(names)}
