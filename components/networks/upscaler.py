"""Upscaler: from all maps of an encoder to a picture of the side that the encoder saw.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from components.networks.norm import BatchNorm2d


class Upscaler(nn.Module):
    """From the deepest map to the shallowest, each added to the enlarged one before it; then doubled by pixel shuffle.

    The doubling is SRResNet's (Ledig et al. 2017, figure 4; Shi et al. 2016): from the side at which the picture's
    content lies. Detail comes from the shallow maps, which have it; the deepest map alone would give a blurred picture.
    """

    def __init__(self, channels: Mapping[str, int], side: int, doublings: int, width: int) -> None:
        """``channels`` of the encoder's layers, ``side`` before ``doublings``, ``width``: channels on the way up."""
        super().__init__()
        self.side = side
        self.laterals = nn.ModuleDict({layer: nn.Conv2d(count, width, 1) for layer, count in channels.items()})
        self.merges = nn.ModuleDict({layer: _merge(width) for layer in channels})
        doubled = [layer for _ in range(doublings) for layer in _doubling(width)]
        self.paint = nn.Sequential(*doubled, nn.Conv2d(width, 3, 3, 1, 1))

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """(B, 3, H, H), linear at the end; H is ``side`` doubled so often."""
        x_BCHW: Tensor | None = None
        for layer in reversed(list(self.laterals)):
            lateral_BCHW = self.laterals[layer](maps[layer])
            if x_BCHW is not None:
                lateral_BCHW = lateral_BCHW + _resized(x_BCHW, lateral_BCHW.shape[-1])
            x_BCHW = self.merges[layer](lateral_BCHW)
        assert x_BCHW is not None  # an encoder has a layer
        out_BCHW: Tensor = self.paint(_resized(x_BCHW, self.side))
        return out_BCHW


def _merge(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), BatchNorm2d(width), nn.ReLU(inplace=True))


def _doubling(width: int) -> list[nn.Module]:
    """Sub-pixel convolution: four maps for the four pixels that each becomes."""
    return [nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2), nn.ReLU(inplace=True)]


def _resized(x_BCHW: Tensor, side: int) -> Tensor:
    """Bilinear where it gets larger, means where it gets smaller."""
    if x_BCHW.shape[-1] >= side:
        return x_BCHW if x_BCHW.shape[-1] == side else F.adaptive_avg_pool2d(x_BCHW, side)
    return F.interpolate(x_BCHW, size=(side, side), mode="bilinear", align_corners=False)
