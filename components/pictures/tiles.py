"""Pictures of any size through networks that see squares of one size.

Legend of shape suffixes: T tiles, C channels, H height, W width, S side of a square.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from components.data.images import MAX_PIXELS, BrokenImage
from components.pictures.extractors import resized

BATCH = 32  # squares at a time
LONGEST = 64  # sides of a square: the longest that an enlarged image may be
SQUARES = 200_000  # of one image at most; 64 million pixels have 111,000 of 32 pixels that share a quarter of a side
Make = Callable[[Tensor], Tensor]  # uint8 (T, 3, S, S) squares -> uint8 pictures of them, of any one size


def in_tiles(make: Make, image_3HW: Tensor, side: int, overlap: float, whole: bool) -> Tensor:
    """``make`` applied to overlapping squares of an image, blended into a picture of its size, uint8 (3, H, W).

    ``whole``: the image is first scaled so that its shorter side is ``side`` pixels, as in training, and the picture
    scaled back; otherwise squares are cut at the image's own resolution (an image too small for one is enlarged).
    Neighbouring squares share at least the share ``overlap`` (below 1) of a side, and fade into each other there.
    """
    height, width = image_3HW.shape[1:]
    rows, columns = _scaled(height, width, side, whole)
    scaled_3HW = _resized(image_3HW, rows, columns)
    corners = [(top, left) for top in starts(rows, side, overlap) for left in starts(columns, side, overlap)]
    weight_SS = _weight(side, overlap)
    sum_3HW, weights_HW = torch.zeros(3, rows, columns), torch.zeros(rows, columns)
    for start in range(0, len(corners), BATCH):  # a large image has more squares than fit into memory at once
        part = corners[start : start + BATCH]
        made_T3SS = make(torch.stack([scaled_3HW[:, y : y + side, x : x + side] for y, x in part])).float().cpu()
        if made_T3SS.shape[2:] != (side, side):
            made_T3SS = resized(made_T3SS, side, side)
        for (y, x), made_3SS in zip(part, made_T3SS, strict=True):
            sum_3HW[:, y : y + side, x : x + side] += made_3SS * weight_SS
            weights_HW[y : y + side, x : x + side] += weight_SS
    return _resized((sum_3HW / weights_HW).round().clamp(0, 255).to(torch.uint8), height, width)


def check_shape(height: int, width: int, side: int, overlap: float, whole: bool) -> None:
    """Raise BrokenImage for an image that costs far more than its pixels are worth; see `in_tiles`."""
    rows, columns = _scaled(height, width, side, whole)
    if rows * columns > height * width and max(rows, columns) > LONGEST * side:
        raise BrokenImage(
            f"{width} x {height} is too thin: at {side} pixels across it is {max(rows, columns)} long, more than "
            f"{LONGEST} times as much; cut it"
        )
    if rows * columns > MAX_PIXELS:
        raise BrokenImage(f"scaled to {columns} x {rows} it has more than {MAX_PIXELS // 10**6} million pixels")
    squares = len(starts(rows, side, overlap)) * len(starts(columns, side, overlap))
    if squares > SQUARES:
        raise BrokenImage(f"{width} x {height} has {squares} squares, more than {SQUARES}: let them overlap less")


def _scaled(height: int, width: int, side: int, whole: bool) -> tuple[int, int]:
    """(rows, columns) of an image when squares are cut from it."""
    shorter = min(height, width)
    factor = side / shorter if whole or shorter < side else 1.0
    return max(side, round(height * factor)), max(side, round(width * factor))


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where squares begin along an axis: evenly, from its one end to the other, sharing at least ``overlap``."""
    stride = max(1, int(side * (1 - overlap)))
    count = -(-(length - side) // stride) + 1
    return [round(k * (length - side) / max(1, count - 1)) for k in range(count)]


def _weight(side: int, overlap: float) -> Tensor:
    """(S, S): one inside, falling linearly towards the border over the overlap, never zero."""
    places = torch.arange(side) + 0.5
    ramp_S = (torch.minimum(places, side - places) / max(0.5, side * overlap)).clamp(max=1.0)
    return ramp_S[:, None] * ramp_S[None, :]


def _resized(image_3HW: Tensor, height: int, width: int) -> Tensor:
    """uint8 at another size."""
    if image_3HW.shape[1:] == (height, width):
        return image_3HW
    return resized(image_3HW[None].float(), height, width)[0].round().clamp(0, 255).to(torch.uint8)
