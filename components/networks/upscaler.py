"""Upscaler: from all maps of an encoder to a picture of the side that the encoder saw.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from components.networks.norm import BatchNorm2d


class Upscaler(nn.Module):
    """From the deepest map to the shallowest, each added to the enlarged one before it, then to three channels.

    Detail comes from the shallow maps, which have it; a picture from the deepest map alone would be blurred.
    """

    def __init__(self, channels: Mapping[str, int], side: int, width: int) -> None:
        """``channels`` of the encoder's layers, ``side`` of the picture, ``width``: channels on the way up."""
        super().__init__()
        self.side = side
        self.laterals = nn.ModuleDict({layer: nn.Conv2d(count, width, 1) for layer, count in channels.items()})
        self.merges = nn.ModuleDict({layer: _merge(width) for layer in channels})
        self.paint = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """(B, 3, side, side), linear at the end."""
        x_BCHW: Tensor | None = None
        for layer in reversed(list(self.laterals)):
            lateral_BCHW = self.laterals[layer](maps[layer])
            if x_BCHW is not None:
                lateral_BCHW = lateral_BCHW + _enlarged(x_BCHW, lateral_BCHW.shape[-1])
            x_BCHW = self.merges[layer](lateral_BCHW)
        assert x_BCHW is not None  # an encoder has a layer
        out_BCHW: Tensor = self.paint(_enlarged(x_BCHW, self.side))
        return out_BCHW


def _merge(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), BatchNorm2d(width), nn.ReLU(inplace=True))


def _enlarged(x_BCHW: Tensor, side: int) -> Tensor:
    if x_BCHW.shape[-1] == side:
        return x_BCHW
    return F.interpolate(x_BCHW, size=(side, side), mode="bilinear", align_corners=False)
