"""Whole images on a canvas of one size, with their boxes and masks: what detectors and segmenters are trained on.

An image is shrunk or enlarged until it fits into the canvas, keeps its proportions, and lies in the upper left corner
(a letterbox); the rest of the canvas is grey. Boxes and masks are given in the pixels of the image itself, for scores
are taken there, and on the canvas, where networks are trained.

Legend of shape suffixes: B samples, H height and W width of the canvas, h, w of an image, K boxes of an image.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from components.data.arrays import UInt8
from components.data.boxes import Boxes, Floats, Objects, scale_boxes, unpack_objects
from components.data.images import BrokenImage, decode_full, decode_map, image_size
from components.data.scramble import Int64
from components.data.sources.base import UNKNOWN
from components.errors import UserError

CACHE_BYTES = 2 * 2**30
GREY = 124  # about the mean of natural images: a normalized network sees zeros
MAX_REPLACED = 0.01  # share of a split that may be broken


class Members(Protocol):
    """One split whose stored bytes can be read; components.data.dataset.ShardedDataset is one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names; empty where nobody named any."""
        ...

    def __len__(self) -> int: ...

    def key(self, sample_id: int) -> str: ...

    def member(self, sample_id: int, field: str) -> bytes: ...


@dataclass(frozen=True)
class Whole:
    """One image: on the canvas, and as large as it is."""

    key: str
    canvas_HW3: UInt8
    size: tuple[int, int]  # width, height of the image itself
    placed: tuple[int, int]  # width, height of the part of the canvas that it covers
    members: Mapping[str, bytes]  # of the other fields

    @cached_property
    def objects(self) -> Objects:
        """Boxes in the image's own pixels, crowds among them, and what is said of them."""
        return unpack_objects(self.members["boxes"])

    @property
    def boxes(self) -> Boxes:
        """Boxes in the image's own pixels, float64 (K, 4), and their labels, int64 (K,); without crowds."""
        single = self.objects[~self.objects.crowd_K]
        return single.boxes_K4, single.labels_K

    @property
    def canvas_boxes(self) -> Boxes:
        """The same in pixels of the canvas."""
        return scale_boxes(self.boxes, self.size, self.placed)

    def to_image(self, boxes_K4: Floats) -> Floats:
        """Boxes on the canvas (K, 4) -> in the image's own pixels, cut at its borders."""
        own_K4 = boxes_K4 * np.tile(np.divide(self.size, self.placed), 2)
        cut_K4: Floats = np.clip(own_K4, 0, np.tile(self.size, 2))
        return cut_K4

    @cached_property
    def mask(self) -> UInt8:
        """The mask in the image's own pixels, uint8 (h, w)."""
        mask_hw = decode_map(self.members["mask"])
        if mask_hw.shape[::-1] != self.size:
            raise BrokenImage(f"its mask has {mask_hw.shape[1]} x {mask_hw.shape[0]} pixels, it has {self.size}")
        return mask_hw

    @property
    def canvas_mask(self) -> UInt8:
        """The mask on the canvas, uint8 (H, W), by the nearest pixel; UNKNOWN where there is no image."""
        out_HW = np.full(self.canvas_HW3.shape[:2], UNKNOWN, np.uint8)
        width, height = self.placed
        shrunk = Image.fromarray(self.mask).resize(self.placed, Image.Resampling.NEAREST)
        out_HW[:height, :width] = np.asarray(shrunk)
        return out_HW


class WholeImages:
    """The images of a split on canvases of (height, width) ``canvas``, with the ``fields`` boxes or mask.

    What does not decode is replaced by the next image that does, truth and all, and listed in ``replaced``; UserError
    where that is more than MAX_REPLACED of the split. Images stay in memory as far as CACHE_BYTES go. Safe to use from
    many threads.
    """

    def __init__(self, dataset: Members, canvas: tuple[int, int], fields: Sequence[str]) -> None:
        self.dataset, self.canvas, self.fields = dataset, canvas, tuple(fields)
        self.replaced: dict[str, str] = {}  # key -> reason
        self._room = CACHE_BYTES // (3 * canvas[0] * canvas[1])
        self._known: dict[int, Whole] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, as the data set has them."""
        return self.dataset.classes

    def read(self, sample_id: int) -> Whole:
        """One image, or the next one that decodes. Raises UserError."""
        if (known := self._known.get(sample_id)) is not None:
            return known
        reason = ""
        for step in range(len(self)):
            other = (sample_id + step) % len(self)
            try:
                found = self._read(other)
                break
            except BrokenImage as error:
                reason = str(error)
                self._replace(self.dataset.key(other), reason)
        else:
            raise UserError(f"no image of the split can be decoded ({reason}): run `genoise prepare` again")
        if sample_id < self._room:
            self._known[sample_id] = found
        return found

    def images(self, ids: Int64) -> Tensor:
        """The canvases of samples ``ids``, uint8 (B, 3, H, W) in channels-last memory."""
        canvas_BHW3 = np.stack([self.read(int(each)).canvas_HW3 for each in ids])
        return torch.from_numpy(canvas_BHW3).permute(0, 3, 1, 2)

    def masks(self, ids: Int64) -> Tensor:
        """The masks of samples ``ids`` on their canvases, int64 (B, H, W)."""
        return torch.from_numpy(np.stack([self.read(int(each)).canvas_mask for each in ids])).long()

    def _read(self, sample_id: int) -> Whole:
        data = self.dataset.member(sample_id, "image")
        size = image_size(data)
        placed = placed_on(self.canvas, size)
        rgb_hw3 = decode_full(data, least=min(placed))
        canvas_HW3 = np.full((*self.canvas, 3), GREY, np.uint8)
        drawn = Image.fromarray(rgb_hw3).resize(placed, Image.Resampling.BILINEAR)
        canvas_HW3[: placed[1], : placed[0]] = np.asarray(drawn)
        members = {field: self.dataset.member(sample_id, field) for field in self.fields}
        found = Whole(self.dataset.key(sample_id), canvas_HW3, size, placed, members)
        for field in self.fields:
            _ = found.objects if field == "boxes" else found.mask  # broken ones are found now
        return found

    def _replace(self, key: str, reason: str) -> None:
        with self._lock:
            self.replaced[key] = reason
            if len(self.replaced) > max(1, int(MAX_REPLACED * len(self))):
                first = ", ".join(f"{name} ({why})" for name, why in list(self.replaced.items())[:3])
                raise UserError(
                    f"{len(self.replaced)} of {len(self)} images cannot be read: {first}, ...; "
                    "run `genoise prepare` again"
                )


def open_whole(datasets: Mapping[str, Any], side: int, fields: Sequence[str]) -> dict[str, WholeImages]:
    """Splits with their ``fields``, whose members can be read, on one canvas (`canvas_for` the training images)."""
    canvas = canvas_for(datasets["train"], side)
    return {split: WholeImages(members, canvas, fields) for split, members in datasets.items()}


def replaced_in(images: Mapping[str, WholeImages]) -> dict[str, dict[str, dict[str, str]]]:
    """``replaced``: by split, the images that could not be read, and why; nothing where all could."""
    found = {split: dict(each.replaced) for split, each in images.items() if each.replaced}
    return {"replaced": found} if found else {}


def placed_on(canvas: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) that fits a ``canvas`` (height, width) and has the proportions of ``size``."""
    scale = min(canvas[1] / size[0], canvas[0] / size[1])
    return max(1, min(canvas[1], round(size[0] * scale))), max(1, min(canvas[0], round(size[1] * scale)))


def canvas_for(dataset: Members, side: int, multiple: int = 32, looked_at: int = 100) -> tuple[int, int]:
    """(height, width) for images whose longer side becomes ``side``: the smallest canvas, of a ``multiple`` of pixels a
    side, that the first images of the split fit on. Raises UserError where none of them can be read."""
    sizes = []
    for each in range(min(looked_at, len(dataset))):
        with suppress(BrokenImage):  # it is replaced, and counted, when it is read
            sizes.append(image_size(dataset.member(each, "image")))
    if not sizes:
        raise UserError("none of the first images of the split can be read: run `genoise prepare` again")
    placed = [placed_on((side, side), size) for size in sizes]
    width, height = (max(each[axis] for each in placed) for axis in (0, 1))
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple
