"""Pairs of pictures, as image-to-image translation learns from (Isola et al. 2017, "pix2pix")."""

from pathlib import PurePosixPath

import numpy as np
from pydantic import Field, model_validator

from components.config import Config, DataConfig
from components.data.images import IMAGE_EXTENSIONS, Cleaned, clean, decode_full, encode, image_size
from components.data.sources.base import Sample, Source, register_source
from components.data.sources.files import Pair, Pairs, key_of, open_root, read_file
from components.data.sources.layout import images_by_split, names_told
from components.data.sources.listing import printable
from components.data.sources.partners import partners_by_split
from components.data.splits import SPLIT_NAMES
from components.errors import UserError

_HALVES = ("left", "right")


@register_source
class PairsSource(Source):
    """Two pictures of one size a sample: ``image`` is what a task sees, ``target`` what it is to make of it.

    Either both are halves of one file, or they are files of the same name in two folders; with split folders, or a
    .tar of each, above or below them. Raises UserError for a file without partner and for pairs of unequal size.
    """

    name = "pairs"
    summary = "pairs of pictures: the halves of each file, or equal names in two folders; --root FOLDER or .tar"

    class Options(Config):
        """Which picture of a pair is which."""

        image: str = Field("left", description="what a task sees: left or right half, or the name of a folder")
        target: str = Field("right", description="what it is to make: the other half, or the name of a folder")

        @model_validator(mode="after")
        def _two_of_a_kind(self) -> "PairsSource.Options":
            if self.image == self.target or (self.image in _HALVES) != (self.target in _HALVES):
                raise ValueError(
                    "image and target must be left and right, or the names of two folders "
                    f"(given: image={self.image}, target={self.target})"
                )
            return self

    told_splits = True

    def __init__(self, config: DataConfig, options: Options) -> None:
        known = {*SPLIT_NAMES, *names_told(config), options.image, options.target}
        self._root = open_root(config, "the folder that holds the pairs, or its .tar", known)
        self._image = options.image
        self._pairs: dict[str, Pairs]
        if options.image in _HALVES:
            splits, self.left_out, _, self.revision = images_by_split(self._root, config.splits)
            self.listed = (self._root,)
            self._pairs = {
                split: [Pair(str(path.relative_to(self._root)), path, path) for _, path in paths]
                for split, paths in splits.items()
            }
        else:
            self._pairs, self.left_out, self.listed, self.revision = partners_by_split(
                self._root, options.image, options.target, self.name, config.splits
            )
        self.splits = {split: len(pairs) for split, pairs in self._pairs.items()}
        targets = ";".join(f"target.{extension}" for extension in IMAGE_EXTENSIONS.split(";"))
        self.fields = {"image": IMAGE_EXTENSIONS, "target": targets}

    def read(self, split: str, index: int) -> Sample:
        """One pair, cleaned. Raises BrokenImage."""
        name, path, partner = self._pairs[split][index]
        first = clean(read_file(path))
        if path == partner:
            image, target = self._halves(first, name)
        else:
            image, target = first, clean(read_file(partner))
            sizes = image_size(image.data), image_size(target.data)
            if sizes[0] != sizes[1]:
                (width, height), (other_width, other_height) = sizes
                raise UserError(
                    f"{name} is {width} x {height} and its target {other_width} x {other_height}: "
                    "pairs must be of one size; resize or remove it"
                )
        members = {image.extension: image.data, f"target.{target.extension}": target.data}
        changes = tuple(dict.fromkeys((*image.changes, *target.changes)))
        return Sample(key_of(split, index, PurePosixPath(name)), members, changes)

    def locate(self, split: str, index: int) -> str:
        """The path of a file of halves below the root, else the split and the path below its folder."""
        return printable(self._pairs[split][index].name)

    def _halves(self, both: Cleaned, name: str) -> tuple[Cleaned, Cleaned]:
        """(image, target)."""
        rgb_HW3 = decode_full(both.data)
        if rgb_HW3.shape[1] % 2:
            raise UserError(
                f"{name} is {rgb_HW3.shape[1]} pixels wide and cannot be cut into equal halves: remove it, "
                "or name two folders with --set data.options.image=A --set data.options.target=B"
            )
        changes = (*both.changes, "cut into halves")
        left, right = (
            Cleaned(encode(h, both.extension), both.extension, changes) for h in np.split(rgb_HW3, 2, axis=1)
        )
        return (left, right) if self._image == "left" else (right, left)
