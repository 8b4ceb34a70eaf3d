"""The built-in source: procedural scenes (components.data.scenes), drawn when they are asked for. Needs no files."""

from collections.abc import Iterator, Sequence

import numpy as np

from components.config import Config, DataConfig
from components.data.boxes import pack_boxes
from components.data.images import IMAGE_EXTENSIONS, encode_png
from components.data.scenes import CLASSES, MAX_OBJECTS, Scenes, render
from components.data.sources.base import Broken, Sample, Source, register_source
from components.errors import UserError

_TRAIN, _TEST = 10_000, 1_000
_SMALLEST = 24  # pixels; below, outlines and textures run into each other
_PIXELS = 64 * 32 * 32  # drawn at once: fits a processor's cache


@register_source
class Shapes(Source):
    """Scenes of ten classes with label, mask, instances, drawing and boxes.

    There are 10,000 training scenes (one tenth of them for validation), more when ``data.samples`` asks for more, and
    1,000 test scenes.
    """

    name = "shapes"
    summary = "procedural colour scenes of ten classes, with boxes, masks and drawings; needs no download"
    classes = CLASSES

    def __init__(self, config: DataConfig, options: Config) -> None:
        if config.root is not None:
            raise UserError(
                "source 'shapes' draws its own images: leave data.root out, or name the source that reads it"
            )
        if config.size < _SMALLEST:
            raise UserError(f"source 'shapes' needs images of at least {_SMALLEST} pixels: use --set data.size=32")
        self._seed, self._size = config.seed, config.size
        wanted = -(-(config.samples or 0) // (1 - config.validation))
        self.splits = {"train": max(_TRAIN, int(wanted) + 1), "test": _TEST}
        self.fields = {
            "image": IMAGE_EXTENSIONS,
            "label": "cls",
            "mask": "mask.png",
            "instances": "instances.png",
            "edges": "edges.png",
            "boxes": "boxes.json",
        }

    def read(self, split: str, index: int) -> Sample:
        """One scene. Drawing many at once (`read_many`) is several times faster."""
        return self._sample(render(self._seed, split, np.array([index]), self._size), 0, split, index)

    def read_many(self, split: str, indices: Sequence[int]) -> Iterator[Sample | Broken]:
        """The scenes ``indices``; the same bytes as `read` gives."""
        step = max(1, _PIXELS // self._size**2)
        for start in range(0, len(indices), step):
            part = indices[start : start + step]
            scenes = render(self._seed, split, np.asarray(part, np.int64), self._size)
            for row, index in enumerate(part):
                yield self._sample(scenes, row, split, index)

    def _sample(self, scenes: Scenes, row: int, split: str, index: int) -> Sample:
        visible = [k for k in range(MAX_OBJECTS) if scenes.boxes[row, k].any()]
        members = {
            "png": encode_png(scenes.image[row]),
            "cls": str(int(scenes.labels[row])).encode(),
            "mask.png": encode_png(scenes.mask[row]),
            "instances.png": encode_png(scenes.instances[row]),
            "edges.png": encode_png(scenes.edges[row]),
            "boxes.json": pack_boxes(scenes.boxes[row, visible], scenes.kinds[row, visible]),
        }
        return Sample(f"{split}-{index:09d}", members)
