"""Pictures that a person looks at: samples over the course of a training, or many at once."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TILE = 96  # smallest side, in pixels, of one picture: tiny images are enlarged, so that their pixels can be seen
GAP, TITLE = 4, 20


def strip(rows: dict[str, Tensor]) -> np.ndarray:
    """{title: (B, 3, H, W) in [0, 1]} -> one (height, width, 3) uint8 picture.

    Each title has a row of its own, the samples lie side by side. Sizes may differ from row to row; all are enlarged
    to the same tile.
    """
    side = max(TILE, *(max(images.shape[2:]) for images in rows.values()))
    width = GAP + max(len(images) for images in rows.values()) * (side + GAP)
    canvas = Image.new("RGB", (width, len(rows) * (TITLE + side + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for k, (title, images) in enumerate(rows.items()):
        top = k * (TITLE + side + GAP)
        said = title if images.isfinite().all() else f"{title} (not finite: black)"
        draw.text((GAP, top + TITLE // 2), said, "black", font, anchor="lm")
        for i, pixels in enumerate(_pixels(images)):
            tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(tile, (GAP + i * (side + GAP), top + TITLE))
    return np.asarray(canvas)


def grid(images: Tensor, columns: int | None = None) -> np.ndarray:
    """(N, 3, H, W) uint8 -> one (height, width, 3) uint8 picture, filled row by row.

    ``columns``: None makes it as square as can be. Tiny images are enlarged.
    """
    across = columns or math.ceil(len(images) ** 0.5)
    down, side = math.ceil(len(images) / across), max(TILE, *images.shape[2:])
    canvas = Image.new("RGB", (GAP + across * (side + GAP), GAP + down * (side + GAP)), "white")
    for k, pixels in enumerate(images.permute(0, 2, 3, 1).contiguous().numpy()):
        tile = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        canvas.paste(tile, (GAP + k % across * (side + GAP), GAP + k // across * (side + GAP)))
    return np.asarray(canvas)


def _pixels(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W, 3) uint8; what is not finite is black, for no byte stands for it."""
    scaled = images.detach().float().cpu().nan_to_num(0, 0, 0).clamp(0, 1) * 255
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
