"""The ResNet generator of CycleGAN: its way in, an encoder like any other, and a way out that any encoder can be given.

Source: Zhu et al. 2017, appendix 7.2, after Johnson et al. 2016.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import EncoderConfig
from components.networks.decoders import deepest_shape
from components.networks.encoder import INPUT_CHANNELS, Encoder, build_encoder, register_encoder
from components.networks.init import initialize_normal
from components.networks.norm import normalization

_BLOCKS = 9
_NARROWEST = 16  # channels behind many doublings


class ResidualBlock(nn.Module):
    """x plus two reflected 3 x 3 convolutions of it, with no ReLU on the sum."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=norm != "batch", padding_mode="reflect"),
            *normalization(norm, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=norm != "batch", padding_mode="reflect"),
            *normalization(norm, channels),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = x_BCHW + self.branch(x_BCHW)
        return out_BCHW


@register_encoder("resnet_generator")
class ResNetGenerator(Encoder):
    """Layers stem (7 x 7), down1 and down2 (stride 2), block1 to block9, at a quarter of the side.

    Published with ``norm: instance`` and width 64; ``depth: 9`` leaves six blocks, for 128 px.
    """

    def __init__(self, config: EncoderConfig) -> None:
        stages = {"stem": 1, "down1": 2, "down2": 4} | {f"block{i + 1}": 4 for i in range(_BLOCKS)}
        super().__init__(config, {layer: units * config.width for layer, units in stages.items()})
        bias, before = config.norm != "batch", INPUT_CHANNELS[config.input]
        for layer, channels in self.channels.items():
            if layer.startswith("block"):
                self.add_module(layer, ResidualBlock(channels, config.norm))
                continue
            convolution = (
                nn.Conv2d(before, channels, 7, 1, 3, bias=bias, padding_mode="reflect")
                if layer == "stem"
                else nn.Conv2d(before, channels, 3, 2, 1, bias=bias)
            )
            self.add_module(
                layer, nn.Sequential(convolution, *normalization(config.norm, channels), nn.ReLU(inplace=True))
            )
            before = channels
        initialize_normal(self)

    def encode(self, native_BCHW: Tensor) -> dict[str, Tensor]:
        maps, x_BCHW = {}, native_BCHW
        for layer in self.layers:
            x_BCHW = maps[layer] = self.get_submodule(layer)(x_BCHW)
        return maps


class ResNetDecoder(nn.Module):
    """(B, C, side, side) to a picture (B, 3, H, W) in [-1, 1].

    Doubles the side by 3 x 3 transposed convolutions that halve the width, resizes what is then missing or too much,
    and ends in a reflected 7 x 7 convolution. Behind `ResNetGenerator` it is the published network.
    """

    def __init__(self, channels: int, side: int, image_size: int, norm: str) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for _ in range(max(0, round(math.log2(image_size / side)))):
            after = max(channels // 2, _NARROWEST)
            modules.append(nn.ConvTranspose2d(channels, after, 3, 2, 1, output_padding=1, bias=norm != "batch"))
            modules += [*normalization(norm, after), nn.ReLU(inplace=True)]
            channels = after
        self.up = nn.Sequential(*modules)
        self.last = nn.Conv2d(channels, 3, 7, 1, 3, padding_mode="reflect")
        initialize_normal(self)

    def forward(self, x_BCHW: Tensor, size: torch.Size) -> Tensor:
        """``size``: height and width of the picture."""
        x_BCHW = self.up(x_BCHW)
        if x_BCHW.shape[2:] != size:
            x_BCHW = F.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False)
        return torch.tanh(self.last(x_BCHW))


class Translator(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to pictures in [-1, 1], through the features of an encoder."""

    def __init__(self, config: EncoderConfig, image_size: int) -> None:
        super().__init__()
        self.trunk = build_encoder(config)
        self.decoder = ResNetDecoder(*deepest_shape(self.trunk, image_size), image_size, config.norm)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        deepest_BCHW = self.trunk((x_B3HW.float() + 1) / 2)[self.trunk.layers[-1]]
        out_B3HW: Tensor = self.decoder(deepest_BCHW, x_B3HW.shape[2:])
        return out_B3HW
