"""Boxes of objects: as they are stored, cut at borders, and moved along with their image.

A box is left, top, right, bottom in pixels from the upper left corner; right and bottom are outside of it.
Legend of shape suffixes: K boxes of an image.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.data.arrays import Buffer
from components.data.images import BrokenImage, square_of
from components.data.scramble import Int64

Floats = NDArray[np.float64]
Boxes = tuple[Floats, Int64]  # (K, 4) and the labels, (K,)

_DECIMALS = 3  # of a pixel, as stored


def pack_boxes(boxes_K4: ArrayLike, labels_K: ArrayLike) -> bytes:
    """The text of a member ``boxes.json``; whole numbers are written as such."""
    boxes = [[_short(value) for value in box] for box in np.asarray(boxes_K4, np.float64).reshape(-1, 4)]
    return json.dumps({"boxes": boxes, "labels": np.asarray(labels_K).tolist()}, separators=(",", ":")).encode()


def unpack_boxes(data: Buffer) -> Boxes:
    """The inverse of `pack_boxes`. Raises BrokenImage."""
    try:
        value: dict[str, Any] = json.loads(bytes(data))
        boxes_K4 = np.asarray(value["boxes"], np.float64).reshape(-1, 4)
        labels_K = np.asarray(value["labels"], np.int64)
    except (ValueError, KeyError, TypeError):
        raise BrokenImage("its boxes cannot be read") from None
    if labels_K.shape != (len(boxes_K4),):
        raise BrokenImage(f"it has {len(boxes_K4)} boxes and {labels_K.size} labels")
    return boxes_K4, labels_K


def clean_boxes(boxes_K4: ArrayLike, labels_K: ArrayLike, width: int, height: int) -> tuple[bytes, tuple[str, ...]]:
    """(``boxes.json``, changes) for raw boxes of an image of that size: cut at its borders, dropped without area."""
    raw_K4, raw_labels_K = np.asarray(boxes_K4, np.float64).reshape(-1, 4), np.asarray(labels_K, np.int64)
    kept_K4, kept_labels_K = cut_boxes((raw_K4, raw_labels_K), width, height)
    return pack_boxes(kept_K4, kept_labels_K), ("box without area dropped",) * (len(raw_K4) - len(kept_K4))


def cut_boxes(boxes: Boxes, width: float, height: float) -> Boxes:
    """Cut off what lies outside of (0, 0, width, height); boxes without area, before or after, are dropped."""
    boxes_K4, labels_K = boxes
    cut_K4 = np.clip(boxes_K4, 0, [width, height, width, height])
    kept_K = (cut_K4[:, 0] < cut_K4[:, 2]) & (cut_K4[:, 1] < cut_K4[:, 3])
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


def _short(value: float) -> float:
    rounded = round(float(value), _DECIMALS)
    return int(rounded) if rounded.is_integer() else rounded
