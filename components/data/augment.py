"""Augmentation on the device, in batches. Every draw belongs to a sample, so cutting a batch changes nothing.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import torch
from torch import Tensor

from components.config import AugmentConfig
from components.draws import Draws

# uint8 (B, 3, H, W) -> float in [0, 1]; everything else with H and W is a map of labels.
PICTURES = ("image", "target", "other", "another", "edges")


def augment(batch: dict[str, Tensor], config: AugmentConfig, draws: Draws) -> dict[str, Tensor]:
    """``batch`` as the loader gives it -> pictures as float32 in [0, 1], all maps of a sample moved alike.

    Pictures: uint8 (B, 3, H, W); ``mask``: int64 (B, H, W); ``label`` and others pass through. A flip
    mirrors left and right; a shift of up to ``config.shift`` pixels a side fills what enters by reflection.
    """
    if config.flip or config.shift:  # draws are numbered: the shift is always the second
        flip_B = draws.bernoulli(0.5)
    if config.shift:
        shift_B2 = draws.integers(2 * config.shift + 1, 2) - config.shift
    out = {}
    for name, value in batch.items():
        maps = value if value.ndim >= 3 else None
        if maps is not None and config.flip:
            maps = _mirror(maps, flip_B)
        if maps is not None and config.shift:
            maps = _shift(maps, shift_B2)
        if maps is not None and name in PICTURES:
            maps = maps.float().div_(255.0)
        out[name] = value if maps is None else maps
    return out


def _mirror(maps: Tensor, flip_B: Tensor) -> Tensor:
    """The maps, those of ``flip_B`` mirrored left and right."""
    if maps.device.type != "cpu":  # which of them is not known there without waiting
        return torch.where(flip_B.view(-1, *[1] * (maps.ndim - 1)), maps.flip(-1), maps)
    mirrored = maps.clone()
    mirrored[flip_B] = maps[flip_B].flip(-1)
    return mirrored


def _shift(maps: Tensor, shift_B2: Tensor) -> Tensor:
    """Translate each (..., H, W) map by its own (down, right) pixels; borders are reflected (edges not repeated)."""
    height, width = maps.shape[-2:]
    rows_BH = _reflect(torch.arange(height, device=maps.device) - shift_B2[:, :1], height)
    columns_BW = _reflect(torch.arange(width, device=maps.device) - shift_B2[:, 1:], width)
    samples_B11 = torch.arange(len(maps), device=maps.device)[:, None, None]
    channels_last = maps.movedim(1, -1) if maps.ndim == 4 else maps
    moved = channels_last[samples_B11, rows_BH[:, :, None], columns_BW[:, None, :]]
    return moved.movedim(-1, 1) if maps.ndim == 4 else moved


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside 0 .. size - 1 folded back: -1 -> 1, size -> size - 2."""
    period = max(1, 2 * (size - 1))
    index = index % period
    return torch.where(index < size, index, period - index)
