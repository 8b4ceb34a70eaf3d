"""Boxes of objects: as they are stored, cut at borders, and moved along with their image.

A box is left, top, right, bottom in pixels from the upper left corner; right and bottom are outside of it.
Legend of shape suffixes: K boxes of an image.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.data.arrays import Bools, Buffer
from components.data.images import BrokenImage, square_of
from components.data.scramble import Int64

Floats = NDArray[np.float64]
Boxes = tuple[Floats, Int64]  # (K, 4) and the labels, (K,)

_DECIMALS = 3  # of a pixel, as stored


@dataclass(frozen=True)
class Objects:
    """Boxes, (K, 4) and labels, (K,), with what benchmarks must know of them, bool (K,)."""

    boxes_K4: Floats
    labels_K: Int64
    difficult_K: Bools  # VOC's: hard to see for people too; finding one is neither right nor wrong
    crowd_K: Bools  # COCO's: a box around many objects that nobody counted

    @classmethod
    def of(
        cls, boxes_K4: ArrayLike, labels_K: ArrayLike, difficult_K: ArrayLike = (), crowd_K: ArrayLike = ()
    ) -> "Objects":
        """Flags that are left out are false."""
        boxes = np.asarray(boxes_K4, np.float64).reshape(-1, 4)
        flags = [np.asarray(flag_K, np.bool_) for flag_K in (difficult_K, crowd_K)]
        difficult, crowd = (flag_K if flag_K.size else np.zeros(len(boxes), np.bool_) for flag_K in flags)
        return cls(boxes, np.asarray(labels_K, np.int64), difficult, crowd)

    def __len__(self) -> int:
        return len(self.labels_K)

    def __getitem__(self, kept: Bools) -> "Objects":
        return Objects(self.boxes_K4[kept], self.labels_K[kept], self.difficult_K[kept], self.crowd_K[kept])

    def scaled(self, old: tuple[int, int], new: tuple[int, int]) -> "Objects":
        """As they are in an image whose (width, height) changes from ``old`` to ``new``."""
        boxes_K4, _ = scale_boxes((self.boxes_K4, self.labels_K), old, new)
        return Objects(boxes_K4, self.labels_K, self.difficult_K, self.crowd_K)


def pack_boxes(boxes_K4: ArrayLike, labels_K: ArrayLike) -> bytes:
    """The text of a member ``boxes.json``; whole numbers are written as such."""
    return pack_objects(Objects.of(boxes_K4, labels_K))


def pack_objects(objects: Objects) -> bytes:
    """As `pack_boxes`. Crowds lie apart from the boxes, under ``crowds``; ``difficult`` has a 0 or 1 for every box.

    Either is written only where there is one, so that other boxes have the bytes that they always had.
    """
    single, crowds = objects[~objects.crowd_K], objects[objects.crowd_K]
    out: dict[str, Any] = _lists(single)
    if single.difficult_K.any():
        out["difficult"] = single.difficult_K.astype(int).tolist()
    if len(crowds):
        out["crowds"] = _lists(crowds)
    return json.dumps(out, separators=(",", ":")).encode()


def unpack_boxes(data: Buffer) -> Boxes:
    """The inverse of `pack_boxes`; crowds are left out. Raises BrokenImage."""
    objects = unpack_objects(data)
    single = objects[~objects.crowd_K]
    return single.boxes_K4, single.labels_K


def unpack_objects(data: Buffer) -> Objects:
    """The inverse of `pack_objects`, crowds last. Raises BrokenImage."""
    try:
        value: dict[str, Any] = json.loads(bytes(data))
        difficult_K = np.asarray(value.get("difficult", [0] * len(value["labels"])), np.bool_)
        parts = [value, value["crowds"]] if "crowds" in value else [value]
        boxes = [np.asarray(part["boxes"], np.float64).reshape(-1, 4) for part in parts]
        labels = [np.asarray(part["labels"], np.int64) for part in parts]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BrokenImage("its boxes cannot be read") from None
    for boxes_K4, labels_K in zip(boxes, labels, strict=True):
        if labels_K.shape != (len(boxes_K4),):
            raise BrokenImage(f"it has {len(boxes_K4)} boxes and {labels_K.size} labels")
    if difficult_K.shape != labels[0].shape:
        raise BrokenImage(f"it has {len(boxes[0])} boxes, and says of {difficult_K.size} whether they are difficult")
    crowd_K = np.repeat([False, True][: len(parts)], [len(each) for each in labels])
    difficult_K = np.concatenate([difficult_K, np.zeros(len(crowd_K) - len(difficult_K), np.bool_)])
    return Objects(np.concatenate(boxes), np.concatenate(labels), difficult_K, crowd_K)


def clean_boxes(boxes_K4: ArrayLike, labels_K: ArrayLike, width: int, height: int) -> tuple[bytes, tuple[str, ...]]:
    """(``boxes.json``, changes) for raw boxes of an image of that size: cut at its borders, dropped without area."""
    return clean_objects(Objects.of(boxes_K4, labels_K), width, height)


def clean_objects(objects: Objects, width: int, height: int) -> tuple[bytes, tuple[str, ...]]:
    """As `clean_boxes`."""
    cut_K4, kept_K = _cut(objects.boxes_K4, width, height)
    cut = Objects(cut_K4, objects.labels_K, objects.difficult_K, objects.crowd_K)
    return pack_objects(cut[kept_K]), ("box without area dropped",) * int((~kept_K).sum())


def cut_boxes(boxes: Boxes, width: float, height: float) -> Boxes:
    """Cut off what lies outside of (0, 0, width, height); boxes without area, before or after, are dropped."""
    boxes_K4, labels_K = boxes
    cut_K4, kept_K = _cut(boxes_K4, width, height)
    return cut_K4[kept_K], labels_K[kept_K]


def scale_boxes(boxes: Boxes, old: tuple[int, int], new: tuple[int, int]) -> Boxes:
    """Boxes of an image whose (width, height) changes from ``old`` to ``new``."""
    return boxes[0] * np.tile(np.divide(new, old), 2), boxes[1]


def crop_boxes(boxes: Boxes, image: tuple[int, int], side: int, corner: tuple[int, int], size: int) -> Boxes:
    """Boxes as the networks see them: the largest centred square of an image of (width, height), resized to ``side``
    pixels a side, of which a window of ``size`` at ``corner`` (top, left) is cut out."""
    left, top, right, _ = square_of(*image)
    offset = np.tile([left, top], 2)
    moved_K4 = (boxes[0] - offset) * (side / (right - left)) - np.tile(corner[::-1], 2)
    return cut_boxes((moved_K4, boxes[1]), size, size)


def _cut(boxes_K4: Floats, width: float, height: float) -> tuple[Floats, Bools]:
    """(boxes (K, 4) without what lies outside, which of them have an area)."""
    cut_K4 = np.clip(boxes_K4, 0, [width, height, width, height])
    return cut_K4, (cut_K4[:, 0] < cut_K4[:, 2]) & (cut_K4[:, 1] < cut_K4[:, 3])


def _lists(objects: Objects) -> dict[str, Any]:
    boxes = [[_short(value) for value in box] for box in objects.boxes_K4]
    return {"boxes": boxes, "labels": objects.labels_K.tolist()}


def _short(value: float) -> float:
    rounded = round(float(value), _DECIMALS)
    return int(rounded) if rounded.is_integer() else rounded
