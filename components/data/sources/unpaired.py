"""Two domains without pairs, as cycle-consistent translation learns from (Zhu et al. 2017, "CycleGAN")."""

from typing import Literal

from pydantic import Field

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, clean
from components.data.sources.base import Sample, Source, register_source
from components.data.sources.files import key_of, list_images, open_root, read_file, subfolder
from components.data.sources.listing import printable
from components.errors import UserError


@register_source
class Unpaired(Source):
    """Folders trainA and trainB, and valA, valB, testA, testB where there are any, or a .tar of each.

    One domain lies in the splits train, val and test, the other in other_train, other_val and other_test.
    """

    name = "unpaired"
    summary = "two domains in the folders trainA, trainB, testA, testB; --root FOLDER or .tar"

    class Options(Config):
        """Which domain is which."""

        image: Literal["A", "B"] = Field("A", description="domain whose pictures are the images; the rest is the other")

    def __init__(self, config: DataConfig, options: Options) -> None:
        self._root = open_root(config, "the folder that holds trainA and trainB, or its .tar")
        other = "B" if options.image == "A" else "A"
        self._folders = {
            prefix + split: folder
            for prefix, letter in (("", options.image), ("other_", other))
            for split in ("train", "val", "test")
            if (folder := subfolder(self._root, split + letter, self.name))
        }
        self._paths = {split: list_images(folder) for split, folder in self._folders.items()}
        for split, letter in (("train", options.image), ("other_train", other)):
            if not self._paths.get(split):
                raise UserError(
                    f"domain {letter} has no images: put them into {self._root / f'train{letter}'} (or its .tar), "
                    f"and those of the other domain beside it"
                )
        self.splits = {split: len(paths) for split, paths in self._paths.items()}
        self.fields = {"image": IMAGE_EXTENSIONS}
        self.listed = tuple(self._folders.values())

    def read(self, split: str, index: int) -> Sample:
        """One picture of either domain, cleaned. Raises BrokenImage."""
        path = self._paths[split][index]
        cleaned = clean(read_file(self._folders[split] / path))
        return Sample(key_of(split, index, path), {cleaned.extension: cleaned.data}, cleaned.changes)

    def locate(self, split: str, index: int) -> str:
        """The folder of the domain and split, and the path in it."""
        return printable(f"{self._folders[split].name}/{self._paths[split][index]}")
