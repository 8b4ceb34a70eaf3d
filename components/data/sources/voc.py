"""Data sets in the layout of PASCAL VOC (Everingham et al. 2010): boxes, and masks where there are any."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from components.config import Config, DataConfig
from components.data.boxes import Objects, clean_objects
from components.data.images import (
    IMAGE_EXTENSIONS,
    BrokenImage,
    Cleaned,
    clean,
    decode_map,
    encode_png,
)
from components.data.sources.base import UNKNOWN, Sample, Source, register_source
from components.data.sources.files import check_apart, key_of, need_images, open_root, read_file, read_text
from components.data.sources.listing import printable
from components.data.sources.masks import check_size
from components.errors import UserError, unknown

_IMAGES, _ANNOTATIONS, _MASKS, _SETS = "JPEGImages", "Annotations", "SegmentationClass", "ImageSets"
_LISTS = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}


@register_source
class Voc(Source):
    """JPEGImages, Annotations, ImageSets, and SegmentationClass if every listed image has a mask there.

    Boxes of the annotations count pixels from 1 and include the last one; those of the shards count from 0 and exclude
    it. Boxes without area are dropped and counted; difficult ones are kept, and marked. Without ImageSets every image
    is a training image. Raises UserError for lists that name what is not there, and for classes that nobody named.
    """

    name = "voc"
    summary = "images with boxes, and masks if all have one, in the layout of PASCAL VOC; --root FOLDER or .tar"

    class Options(Config):
        """Which lists, and which classes."""

        sets: str = Field("Main", description="folder of ImageSets whose train.txt, val.txt, test.txt name the images")
        classes: tuple[str, ...] = Field(
            (), description="names in the order of mask values 1, 2, ...; (): as annotated"
        )

    def __init__(self, config: DataConfig, options: Options) -> None:
        expected = f"the folder that holds {_IMAGES} and {_ANNOTATIONS}, or its .tar"
        self._root = open_root(config, expected, {_IMAGES})
        for folder in (_IMAGES, _ANNOTATIONS):
            if not (self._root / folder).is_dir():
                raise UserError(f"no folder {folder} in {self._root}: use --set data.root=PATH with {expected}")
        self._images = self._named_images()
        self._names = self._read_lists(options.sets)
        self._need(self._annotation, "annotation")
        self._masked = all(self._mask(name).is_file() for names in self._names.values() for name in names)
        annotated, is_difficult = self._annotated()
        self.classes = options.classes or annotated
        if not self.classes:
            raise UserError(f"no object in any file of {self._root / _ANNOTATIONS}: use source folder for bare images")
        self.revision = "difficult objects;" if is_difficult else ""
        self.splits = {split: len(names) for split, names in self._names.items()}
        self.listed = (self._root / _IMAGES,)
        unlisted = len(self._images.keys() - {name for names in self._names.values() for name in names})
        self.left_out = {_IMAGES: unlisted} if unlisted else {}
        self.fields = {"image": IMAGE_EXTENSIONS, "boxes": "boxes.json"} | (
            {"mask": "mask.png"} if self._masked else {}
        )

    def read(self, split: str, index: int) -> Sample:
        """One image, cleaned, with its boxes. Raises BrokenImage."""
        name = self._names[split][index]
        cleaned = clean(read_file(self._images[name]))
        boxes, dropped = self._boxes(self._annotation(name), cleaned)
        members = {cleaned.extension: cleaned.data, "boxes.json": boxes}
        if self._masked:
            members["mask.png"] = self._read_mask(self._mask(name), cleaned)
        return Sample(key_of(split, index, Path(name)), members, cleaned.changes + dropped)

    def locate(self, split: str, index: int) -> str:
        """The path of the image below the root."""
        return printable(self._images[self._names[split][index]].relative_to(self._root))

    def _named_images(self) -> dict[str, Path]:
        """{name in lists and annotations: image}."""
        images: dict[str, Path] = {}
        for path in need_images(self._root / _IMAGES):
            if path.stem in images:
                raise UserError(f"{images[path.stem]} and {path} have one name: remove one of them")
            images[path.stem] = self._root / _IMAGES / path
        return images

    def _annotation(self, name: str) -> Path:
        return self._root / _ANNOTATIONS / f"{name}.xml"

    def _mask(self, name: str) -> Path:
        return self._root / _MASKS / f"{name}.png"

    def _read_lists(self, sets: str) -> dict[str, list[str]]:
        """{split: names of images}."""
        folder = self._root / _SETS
        if not folder.is_dir():
            return {"train": list(self._images)}
        if not (folder / sets).is_dir():
            raise unknown("folder of ImageSets", sets, [path.name for path in folder.iterdir() if path.is_dir()])
        lists = {split: folder / sets / file for split, file in _LISTS.items() if (folder / sets / file).is_file()}
        if "train" not in lists:
            raise UserError(f"no {_LISTS['train']} in {folder / sets}: write one, a name of an image per line")
        names = {}
        for split, path in lists.items():
            names[split] = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            missing = [name for name in names[split] if name not in self._images]
            if missing:
                raise UserError(
                    f"{path} names {len(missing)} images that are not in {self._root / _IMAGES} (first: {missing[0]}): "
                    "add them, or take them from the list"
                )
        check_apart(folder / sets, names)
        return {split: listed for split, listed in names.items() if listed}

    def _need(self, path_of: Callable[[str], Path], what: str) -> None:
        missing = [name for names in self._names.values() for name in names if not path_of(name).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} images have no {what} (first: {path_of(missing[0])}): add it, or take the image away"
            )

    def _annotated(self) -> tuple[tuple[str, ...], bool]:
        """Every class that an annotation names, sorted, as VOC's own twenty are; whether an object is difficult."""
        found: set[str] = set()
        is_difficult = False
        for names in self._names.values():
            for name in names:
                try:
                    things = list(_parse(self._annotation(name)).iter("object"))
                    found.update(_text(thing, "name") for thing in things)
                except BrokenImage:
                    continue  # reported when the image is read
                is_difficult = is_difficult or any(map(_is_difficult, things))
        return tuple(sorted(found)), is_difficult

    def _boxes(self, path: Path, image: Cleaned) -> tuple[bytes, tuple[str, ...]]:
        """(boxes.json, what was dropped)."""
        tree = _parse(path)
        width, height = image.size_for("boxes")
        stated = [int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height")]
        if all(stated) and stated != [width, height]:
            raise BrokenImage(f"{path.name} is for {stated[0]} x {stated[1]} pixels, the image has {width} x {height}")
        boxes, labels, difficult = [], [], []
        for thing in tree.iter("object"):
            name = _text(thing, "name")
            if name not in self.classes:
                raise unknown(f"class in {path.name} (see data.options.classes)", name, self.classes)
            left, top, right, bottom = (_number(thing, side) for side in ("xmin", "ymin", "xmax", "ymax"))
            empty = left >= right or top >= bottom
            boxes.append((0.0, 0.0, 0.0, 0.0) if empty else (left - 1, top - 1, right, bottom))
            labels.append(self.classes.index(name))
            difficult.append(_is_difficult(thing))
        return clean_objects(Objects.of(boxes, labels, difficult), width, height)

    def _read_mask(self, path: Path, image: Cleaned) -> bytes:
        """A mask of VOC has 0 for the background, 255 for borders that nobody can tell: as in shards."""
        mask_HW = decode_map(read_file(path))
        check_size(path.stem, mask_HW, image.data)
        known = mask_HW[mask_HW != UNKNOWN]
        if known.size and known.max() > len(self.classes):
            raise UserError(
                f"mask {path.name} has value {known.max()}, and there are {len(self.classes)} classes: "
                "name them all with --set data.options.classes=[...]"
            )
        return encode_png(mask_HW)


def _parse(path: Path) -> ElementTree.Element:
    """Raises BrokenImage for what is no XML, and for entities, which can grow without bounds."""
    data = read_file(path)
    if b"<!ENTITY" in data:
        raise BrokenImage(f"{path.name} defines entities")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BrokenImage(f"{path.name} is not XML: {error}") from None


def _text(thing: ElementTree.Element, name: str) -> str:
    """The text of the child ``name``. Raises BrokenImage where there is none."""
    text = (thing.findtext(name) or "").strip()
    if not text:
        raise BrokenImage(f"its annotation has an object without {name}")
    return text


def _is_difficult(thing: ElementTree.Element) -> bool:
    return (thing.findtext("difficult") or "").strip() == "1"


def _number(thing: ElementTree.Element, side: str) -> float:
    text = _text(thing, f"bndbox/{side}")
    try:
        return float(text)
    except ValueError:
        raise BrokenImage(f"its annotation has a box with {side} {text!r}") from None
