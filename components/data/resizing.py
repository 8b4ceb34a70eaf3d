"""Resizing and re-encoding samples while they are laid into shards; everything in a sample stays where it belongs."""

from dataclasses import replace

import numpy as np
from PIL import Image

from components.config import DataConfig
from components.data.boxes import pack_objects, unpack_objects
from components.data.images import EXTENSIONS, decode_full, decode_map, encode, encode_png, image_size
from components.data.sources.base import Sample

Size = tuple[int, int]  # width, height

_PICTURES, _MAPS = ("image", "target"), ("mask", "instances")


def refit(sample: Sample, fields: dict[str, str], config: DataConfig) -> Sample:
    """``sample`` as ``config.resize``, ``encode`` and ``quality`` want it; the very bytes where they want nothing.

    An image larger than that is shrunk until its shorter side has ``resize`` pixels; target, drawing, maps (nearest
    neighbour) and boxes follow it. An image that has the right size and format already keeps its bytes.
    """
    if config.resize is None and config.encode == "keep":
        return sample
    field_of = {extension: field for field, extensions in fields.items() for extension in extensions.split(";")}
    image = next(data for extension, data in sample.members.items() if field_of.get(extension) == "image")
    old = image_size(image)
    new = _shrunk(old, config.resize or min(old))
    members = {}
    changes = ["resized"] if new != old else []
    for extension, data in sample.members.items():
        field = field_of.get(extension)
        if field in _PICTURES:
            place, dot, kind = extension.rpartition(".")
            wanted = kind if config.encode == "keep" else EXTENSIONS[config.encode.upper()]
            if wanted != kind and field == "image":
                changes.append(f"encoded as {config.encode}")
            if wanted != kind or new != old:
                data = encode(_resized(data, new), wanted, config.quality)
            extension = place + dot + wanted
        elif new != old and field == "edges":
            data = encode_png(_resized(data, new))
        elif new != old and field in _MAPS:
            data = encode_png(np.asarray(Image.fromarray(decode_map(data)).resize(new, Image.Resampling.NEAREST)))
        elif new != old and field == "boxes":
            data = pack_objects(unpack_objects(data).scaled(old, new))
        members[extension] = data
    return replace(sample, members=members, changes=(*sample.changes, *changes))


def _shrunk(size: Size, shorter: int) -> Size:
    """A size of the same proportions whose shorter side is at most ``shorter``."""
    width, height = size
    scale = min(1.0, shorter / min(size))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(data: bytes, size: Size) -> np.ndarray:
    rgb_HW3 = decode_full(data, least=min(size))
    if rgb_HW3.shape[1::-1] == size:
        return rgb_HW3
    return np.asarray(Image.fromarray(rgb_HW3).resize(size, Image.Resampling.BICUBIC))
