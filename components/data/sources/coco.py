"""Data sets in the layout of COCO (Lin et al. 2014): boxes, and masks from polygons or run lengths.

Legend of shape suffixes: H height, W width.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.config import Config, DataConfig
from components.data.boxes import Objects, clean_objects
from components.data.images import IMAGE_EXTENSIONS, BrokenImage, clean, encode_png
from components.data.sources.base import UNKNOWN, Sample, Source, register_source
from components.data.sources.files import check_apart, key_of, made_once, open_root, read_file
from components.data.sources.listing import printable
from components.data.splits import SPLIT_NAMES
from components.errors import UserError

Record = dict[str, Any]
Bools = NDArray[np.bool_]

_ANNOTATIONS = "annotations"
_MOST_CLASSES = 254  # of a mask with one byte per pixel, which needs two values more
_CATEGORIES, _RECORDS, _STARTS, _COUNTS = "categories.json", "images.jsonl", "starts.npy", "counts.json"
_NAMES = "names.json"


@register_source
class Coco(Source):
    """annotations/instances_train*.json, and val and test where there are any, with the images beside.

    The images of instances_train2017.json lie in train2017, images/train2017, images or the root. Crowds are in the
    mask, and apart from the boxes of single objects; smaller objects lie above larger ones. What nobody drew is unknown
    in the mask: the box of an object without segmentation, and the images of a list without any object; there is no
    mask where no object of the data set is drawn. Boxes without area are dropped and counted.
    The lists are rewritten once into the cache, an image per line, so that a worker reads only what it needs.
    """

    name = "coco"
    summary = "images with boxes and masks in the layout of COCO (instances_*.json); --root FOLDER or .tar"

    def __init__(self, config: DataConfig, options: Config) -> None:
        expected = f"the folder that holds {_ANNOTATIONS}/instances_train*.json, or its .tar"
        self._root = open_root(config, expected, {_ANNOTATIONS})
        self._lists: dict[str, Path] = {}
        self._folders: dict[str, Path] = {}
        categories = {}
        for path in sorted((self._root / _ANNOTATIONS).glob("instances_*.json")):
            name = path.stem.removeprefix("instances_")
            split = SPLIT_NAMES.get(name.rstrip("0123456789_-"))
            if split is None:
                raise UserError(f"{path} is of no split: call it instances_train.json, _val or _test, or take it away")
            if split in self._lists:
                raise UserError(f"two lists for the {split} split in {path.parent}: take one of them away")
            self._lists[split] = made_once(f"{self.name}-counted", path, partial(_rewrite, path))
            self._folders[split] = self._images_of(name)
            categories[split] = json.loads((self._lists[split] / _CATEGORIES).read_text())
        if "train" not in self._lists:
            raise UserError(
                f"no {_ANNOTATIONS}/instances_train*.json in {self._root}: use --set data.root=PATH with {expected}"
            )
        differing = next((split for split in categories if categories[split] != categories["train"]), None)
        if differing:
            raise UserError(f"the train and {differing} lists in {self._root} have different categories: make them one")
        self._check_apart()
        self.classes = tuple(categories["train"])
        self.splits = {split: len(_starts(folder)) for split, folder in self._lists.items()}
        counts = {split: json.loads((folder / _COUNTS).read_text()) for split, folder in self._lists.items()}
        self._masked = any(count["drawn"] for count in counts.values())
        self._bare = {split for split, count in counts.items() if not count["objects"]}
        if self._bare or any(count["undrawn"] for count in counts.values()):
            self.revision = "masks that nobody drew;"
        if any(count["crowds"] for count in counts.values()):
            self.revision += "crowds;"
        self.fields = {"image": IMAGE_EXTENSIONS, "boxes": "boxes.json"} | (
            {"mask": "mask.png"} if self._masked else {}
        )

    def read(self, split: str, index: int) -> Sample:
        """One image, cleaned, with its boxes and mask. Raises BrokenImage."""
        record = self._record(split, index)
        path = self._folders[split] / record["file_name"]
        if not path.is_file():
            raise UserError(
                f"the {split} list names {path}, and there is no such file: add it, or take it off the list"
            )
        cleaned = clean(read_file(path))
        width, height = cleaned.size_for("boxes")
        if (record["width"], record["height"]) != (width, height):
            stated = f"{record['width']} x {record['height']}"
            raise BrokenImage(f"it is {stated} pixels by its list, and {width} x {height} in truth")
        boxes, labels, crowd = ([thing[key] for thing in record["objects"]] for key in ("box", "label", "crowd"))
        packed, dropped = clean_objects(Objects.of(boxes, labels, crowd_K=crowd), width, height)
        members = {cleaned.extension: cleaned.data, "boxes.json": packed}
        if self._masked:
            ground = UNKNOWN if split in self._bare else 0
            members["mask.png"] = encode_png(_paint(record["objects"], height, width, ground))
        return Sample(key_of(split, index, PurePosixPath(record["file_name"])), members, cleaned.changes + dropped)

    def locate(self, split: str, index: int) -> str:
        """Folder and name of the image."""
        return printable(f"{self._folders[split].name}/{self._record(split, index)['file_name']}")

    def _record(self, split: str, index: int) -> Record:
        folder = self._lists[split]
        with open(folder / _RECORDS, "rb") as file:
            file.seek(_starts(folder)[index])
            record: Record = json.loads(file.readline())
        return record

    def _check_apart(self) -> None:
        """An image is known by its file: lists may share a folder."""
        names = {split: json.loads((folder / _NAMES).read_text()) for split, folder in self._lists.items()}
        check_apart(
            self._root / _ANNOTATIONS,
            {split: [f"{self._folders[split] / name}" for name in listed] for split, listed in names.items()},
        )

    def _images_of(self, name: str) -> Path:
        places = (self._root / name, self._root / "images" / name, self._root / "images")
        return next((place for place in places if place.is_dir()), self._root)


def _starts(folder: Path) -> NDArray[np.int64]:
    starts: NDArray[np.int64] = np.load(folder / _STARTS, mmap_mode="r", allow_pickle=False)
    return starts


def _rewrite(path: Path, folder: Path) -> None:
    """The list of ``path`` as a line of JSON per image, where each line starts, and the names of the categories."""
    try:
        content = json.loads(path.read_bytes())
        numbers = {c["id"]: k for k, c in enumerate(sorted(content["categories"], key=lambda c: int(c["id"])))}
        names = [c["name"] for c in sorted(content["categories"], key=lambda c: int(c["id"]))]
        images = {
            i["id"]: {k: i[k] for k in ("file_name", "width", "height")} | {"objects": []} for i in content["images"]
        }
        objects = list(_objects(content["annotations"], numbers, images, path))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a list of instances as COCO writes it ({error!r}): get it again") from None
    for kind, kept in (("images", images), ("categories", numbers)):
        if len(kept) < len(content[kind]):
            raise UserError(f"{path}: {len(content[kind]) - len(kept)} {kind} have the id of another: correct it")
    if not images or not 0 < len(names) <= _MOST_CLASSES:
        raise UserError(f"{path} names {len(images)} images and {len(names)} categories: get it again")
    for image, thing in objects:
        images[image]["objects"].append(thing)
    starts = []
    with open(folder / _RECORDS, "wb") as file:
        for record in images.values():
            name = PurePosixPath(str(record["file_name"]))
            if name.is_absolute() or ".." in name.parts:
                raise UserError(f"{path} names the image {name}, which leads elsewhere: correct it")
            starts.append(file.tell())
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    np.save(folder / _STARTS, np.array(starts, np.int64), allow_pickle=False)
    (folder / _CATEGORIES).write_text(json.dumps(names))
    (folder / _NAMES).write_text(json.dumps([str(record["file_name"]) for record in images.values()]))
    drawn = [_is_drawn(thing) for _, thing in objects]
    undrawn = sum(not done and _has_area(thing["box"]) for done, (_, thing) in zip(drawn, objects, strict=True))
    counts = {"objects": len(objects), "drawn": sum(drawn), "undrawn": undrawn}
    crowds = sum(thing["crowd"] for _, thing in objects)
    (folder / _COUNTS).write_text(json.dumps(counts | {"crowds": crowds}))


def _objects(
    annotations: Sequence[Record], numbers: dict[int, int], images: dict[int, Record], path: Path
) -> Iterator[tuple[int, Record]]:
    """(id of the image, what is kept of an annotation)."""
    for each in annotations:
        if each["category_id"] not in numbers:
            raise UserError(f"{path}: annotation {each['id']} has category {each['category_id']}, which the list lacks")
        if each["image_id"] not in images:
            raise UserError(f"{path}: annotation {each['id']} is for image {each['image_id']}, which the list lacks")
        left, top, width, height = map(float, each["bbox"])
        yield (
            each["image_id"],
            {
                "label": numbers[each["category_id"]],
                "box": [left, top, left + width, top + height],
                "crowd": bool(each.get("iscrowd", 0)),
                "segmentation": each.get("segmentation") or [],
            },
        )


def _is_drawn(thing: Record) -> bool:
    """Whether an object has an outline: neither none, nor [], nor [[]]."""
    segmentation = thing["segmentation"]
    return any(segmentation) if isinstance(segmentation, list) else bool(segmentation)


def _has_area(box: Sequence[float]) -> bool:
    left, top, right, bottom = box
    return left < right and top < bottom


def _paint(objects: Sequence[Record], height: int, width: int, ground: int = 0) -> NDArray[np.uint8]:
    """uint8 (H, W): class + 1 of the smallest object at each pixel, UNKNOWN where that is a box without outline, and
    ``ground`` where there is none."""
    mask_HW = np.full((height, width), ground, np.uint8)
    regions = [
        (_region(thing["segmentation"], height, width), thing["label"] + 1)
        if _is_drawn(thing)
        else (_inside(thing["box"], height, width), UNKNOWN)
        for thing in objects
    ]
    for region_HW, value in sorted(regions, key=lambda region: -int(region[0].sum())):
        mask_HW[region_HW] = value
    return mask_HW


def _inside(box: Sequence[float], height: int, width: int) -> Bools:
    """The pixels, bool (H, W), that a box touches."""
    region_HW = np.zeros((height, width), np.bool_)
    if not _has_area(box):
        return region_HW
    left, top, right, bottom = box
    columns, rows = (
        slice(max(0, int(np.floor(a))), max(0, int(np.ceil(b)))) for a, b in ((left, right), (top, bottom))
    )
    region_HW[rows, columns] = True
    return region_HW


def _region(segmentation: Any, height: int, width: int) -> Bools:
    """Polygons ([x, y, x, y, ...] each) or run lengths -> bool (H, W). Raises BrokenImage."""
    try:
        if isinstance(segmentation, dict):
            return _runs(segmentation, height, width)
        region_HW = np.zeros((height, width), np.bool_)
        for polygon in segmentation:
            region_HW |= fill_polygon(np.asarray(polygon, np.float64).reshape(-1, 2), height, width)
        return region_HW
    except (ValueError, KeyError, TypeError, IndexError):
        raise BrokenImage("its list has a segmentation that is neither polygons nor run lengths of its size") from None


def fill_polygon(corners: NDArray[np.float64], height: int, width: int) -> Bools:
    """The pixels, bool (H, W), whose centres lie inside the polygon of ``corners`` (N, 2), x and y: the even-odd rule.

    Each edge toggles, in every row whose centre it crosses, all pixels to the right of the crossing.
    """
    toggles = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        first, last = (min(max(int(np.ceil(y - 0.5)), 0), height) for y in (min(y0, y1), max(y0, y1)))
        rows = np.arange(first, last)
        if len(rows):
            crossings = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            toggles[rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)] += 1
    return (np.cumsum(toggles[:, :width], axis=1) % 2).astype(np.bool_)


def _runs(segmentation: Record, height: int, width: int) -> Bools:
    """Run lengths, alternately outside and inside, column after column. Raises ValueError."""
    counts = segmentation["counts"]
    runs = np.asarray(unpack_runs(counts) if isinstance(counts, str) else counts, np.int64)
    if list(segmentation["size"]) != [height, width] or runs.min() < 0 or runs.sum() != height * width:
        raise ValueError
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T


def unpack_runs(text: str) -> list[int]:
    """Run lengths out of COCO's compressed text.

    A number is a sequence of characters from ``0`` (48) on, each with five bits, the lowest first; 32 says that there
    are more, and 16 in the last one that it is negative. From the fourth number on, differences to the one before the
    last are written.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs
