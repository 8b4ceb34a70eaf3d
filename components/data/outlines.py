"""Pictures of boxes, for people."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from components.data.arrays import UInt8
from components.data.boxes import Boxes, Floats


def outlined(rgb_HW3: UInt8, boxes: Boxes, names: Sequence[str], scores_K: Floats | None = None) -> UInt8:
    """An image, uint8 (H, W, 3), with its boxes, each class in a colour of its own; name, and score, above each."""
    picture = Image.fromarray(rgb_HW3)
    draw = ImageDraw.Draw(picture)
    boxes_K4, labels_K = boxes
    for k in range(len(labels_K)):
        label = int(labels_K[k])
        colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label / max(1, len(names)), 0.9, 1.0))
        left, top, right, bottom = boxes_K4[k].tolist()
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
        text = names[label] if scores_K is None else f"{names[label]} {scores_K[k]:.2f}"
        draw.text((left + 3, top + 2), text, fill=colour)
    return np.asarray(picture)
