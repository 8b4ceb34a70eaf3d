"""The way up from an encoder's maps: sides, parameters, and sub-pixel convolution pixel by pixel."""

import pytest
import torch
from torch import nn

from components.networks.upscaler import Upscaler

CHANNELS = {"a": 5, "b": 7, "c": 6}
WIDTH = 8


def maps_of(*sides: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sized = zip(CHANNELS.items(), sides, strict=True)
    return {layer: torch.rand(2, count, side, side, generator=generator) for (layer, count), side in sized}


@pytest.mark.parametrize(("side", "doublings"), [(8, 1), (4, 2), (16, 0)])
def test_pictures_have_the_side_doubled_so_often(side: int, doublings: int) -> None:
    upscaler = Upscaler(CHANNELS, side, doublings, WIDTH)
    assert upscaler(maps_of(16, 8, 3)).shape == (2, 3, 16, 16)
    lateral, merge = sum(CHANNELS.values()) * WIDTH + 3 * WIDTH, 3 * (9 * WIDTH * WIDTH + 2 * WIDTH)
    doubling, paint = 9 * WIDTH * 4 * WIDTH + 4 * WIDTH, 9 * WIDTH * 3 + 3
    assert sum(p.numel() for p in upscaler.parameters()) == lateral + merge + doublings * doubling + paint


def test_four_maps_become_four_pixels() -> None:
    """Shi et al. 2016, equation 4, one pixel at a time."""
    paint = Upscaler(CHANNELS, 4, 1, WIDTH).paint
    assert isinstance(paint, nn.Sequential)
    x = torch.rand(1, WIDTH, 4, 4)
    before, after = paint[0](x), paint[:3](x)
    for channel in range(WIDTH):
        for row in range(8):
            for column in range(8):
                source = before[0, 4 * channel + 2 * (row % 2) + column % 2, row // 2, column // 2]
                assert after[0, channel, row, column] == source.clamp(min=0)


def test_every_map_is_looked_at() -> None:
    upscaler, maps = Upscaler(CHANNELS, 8, 1, WIDTH).eval(), maps_of(16, 8, 4)
    picture = upscaler(maps)
    for layer in CHANNELS:
        assert not torch.equal(upscaler({**maps, layer: maps[layer].roll(1, 0)}), picture), layer
