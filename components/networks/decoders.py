"""Decoders: from an encoder's deepest map to pictures or maps of classes, and heads that classify it.

Their widths follow the encoder's, so that a small encoder is not trained through a large decoder.

Legend of shape suffixes: B samples, C channels, H height, W width, K classes, N places of a map (H times W).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.errors import UserError
from components.networks.encoder import INPUT_CHANNELS, Encoder
from components.networks.norm import BatchNorm2d


@torch.no_grad()
def layer_shapes(encoder: Encoder, image_size: int) -> list[tuple[int, int]]:
    """(channels, side) of every layer for square images, shallow to deep; every architecture has its own arithmetic."""
    was_training = encoder.training
    maps = encoder.eval().encode(torch.zeros(1, INPUT_CHANNELS[encoder.config.input], image_size, image_size))
    encoder.train(was_training)
    return [(map_1CHW.shape[1], map_1CHW.shape[2]) for map_1CHW in maps.values()]


def deepest_shape(encoder: Encoder, image_size: int) -> tuple[int, int]:
    """(channels, side) of the encoder's last layer for square images."""
    return layer_shapes(encoder, image_size)[-1]


def fitting_side(encoder: Encoder, side: int) -> int:
    """``side`` where the encoder takes square images of that side, else the next power of two that it takes.

    Small images (patches, low resolution) are enlarged to it: every architecture halves its maps some number of times.
    """
    candidates = (side, *(2**k for k in range(side.bit_length(), 11)))
    return next((s for s in candidates if _takes(encoder, s)), side)


def _takes(encoder: Encoder, side: int) -> bool:
    try:
        return deepest_shape(encoder, side)[1] > 0
    except (RuntimeError, UserError):  # torch's word for a map that would be empty has no type of its own
        return False


def _normalized(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, BatchNorm2d(channels), nn.ReLU(inplace=True)]


class Decoder(nn.Module):
    """(B, C, side, side) to (B, out, out_side, out_side), linear at the end.

    Doubles the side by 4 x 4 transposed convolutions as DCGAN and the context encoder do, halving the width each time;
    what is then missing or too much is resized bilinearly. Without any doubling: a 3 x 3 convolution, then a 1 x 1.
    """

    def __init__(self, channels: int, side: int, out_channels: int, out_side: int, width: int) -> None:
        """``width``: channels after the first convolution."""
        super().__init__()
        doublings = max(0, round(math.log2(out_side / side)))
        modules: list[nn.Module] = []
        for k in range(doublings - 1):
            after = max(width >> k, 16)
            modules += _normalized(nn.ConvTranspose2d(channels, after, 4, 2, 1, bias=False), after)
            channels = after
        if doublings:
            modules.append(nn.ConvTranspose2d(channels, out_channels, 4, 2, 1))
        else:
            modules += _normalized(nn.Conv2d(channels, width, 3, 1, 1, bias=False), width)
            modules.append(nn.Conv2d(width, out_channels, 1))
        self.layers = nn.Sequential(*modules)
        self.out_side = out_side

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.layers(x_BCHW)
        if out_BCHW.shape[-1] == self.out_side:
            return out_BCHW
        return F.interpolate(out_BCHW, size=(self.out_side, self.out_side), mode="bilinear", align_corners=False)


class ChannelwiseLinear(nn.Module):
    """One fully connected layer per channel over the places of its map: carries what is known across the whole image.

    Source: Pathak et al. 2016, section 3.1. A 1 x 1 convolution has to follow, to mix the channels.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        places = side * side
        self.weight_CNN = nn.Parameter(torch.randn(channels, places, places) / places**0.5)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_CBN = x_BCHW.flatten(2).transpose(0, 1)
        return torch.bmm(x_CBN, self.weight_CNN).transpose(0, 1).reshape(x_BCHW.shape)


class Bottleneck(nn.Sequential):
    """(B, C, side, side) to (B, out, side, side): a channel-wise linear layer, then a 1 x 1 convolution."""

    def __init__(self, channels: int, side: int, out_channels: int) -> None:
        mix = nn.Conv2d(channels, out_channels, 1, bias=False)
        super().__init__(ChannelwiseLinear(channels, side), *_normalized(mix, out_channels))


class Classifier(nn.Module):
    """(B, C, H, W) to logits (B, K): the mean over all places, then one linear layer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.linear(x_BCHW.mean((2, 3)))
        return logits_BK
