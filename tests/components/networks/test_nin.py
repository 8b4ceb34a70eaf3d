"""Network in network: sizes as published, and what a width does to them."""

import torch
from torch import nn

from components.config import EncoderConfig
from components.networks.encoder import build_encoder


def encoder(**values: object) -> nn.Module:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig.parse({"name": "nin", "width": 192, **values}))


def test_sides_and_channels_are_those_that_were_published() -> None:
    with torch.no_grad():
        maps = encoder().eval()(torch.rand(2, 3, 32, 32))
    assert {layer: tuple(x.shape[1:]) for layer, x in maps.items()} == {
        "block1": (96, 32, 32),
        "block2": (192, 16, 16),
        "block3": (192, 8, 8),
        "block4": (192, 8, 8),
    }
    assert all(x.min() >= 0 and x.std() > 1e-3 for x in maps.values()), "after the ReLU"


def test_parameters_are_those_of_twelve_convolutions_and_their_normalizations() -> None:
    blocks = [(3, 5, 192, 160, 96), (96, 5, 192, 192, 192), (192, 3, 192, 192, 192), (192, 3, 192, 192, 192)]
    expected = sum(
        before * kernel**2 * first + first * second + second * third + 2 * (first + second + third)
        for before, kernel, first, second, third in blocks
    )
    assert sum(p.numel() for p in encoder().parameters()) == expected == 1_410_368


def test_a_smaller_one_keeps_the_proportions_and_any_depth_is_a_beginning() -> None:
    assert list(encoder(width=12).state_dict()) == list(encoder().state_dict())
    with torch.no_grad():
        maps = encoder(width=12, depth=2, stem="large").eval()(torch.rand(1, 3, 32, 32))
    assert {layer: tuple(x.shape[1:]) for layer, x in maps.items()} == {"block1": (6, 16, 16), "block2": (12, 8, 8)}
