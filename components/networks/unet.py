"""The U-Net of pix2pix: its way down, an encoder like any other, and a way up that any encoder can be given.

Source: Isola et al. 2017, section 3.2.1 and appendix 6.1.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.decoders import layer_shapes
from components.networks.encoder import INPUT_CHANNELS, Encoder, register_encoder
from components.networks.init import initialize_normal
from components.networks.norm import normalization

_CHANNELS = (1, 2, 4, 8, 8, 8, 8, 8)  # of each convolution, in units of the width: 64 to 512 as published
_NOISY = 3  # steps up, from the deepest, whose output is dropped out


@register_encoder("unet")
class UNet(Encoder):
    """Layers down1 to down8: 4 x 4 convolutions with stride 2, each map after its leaky ReLU of slope .2.

    Eight are the U-Net-256, ``depth`` 7 the U-Net-128; 32 px can be halved five times. The first has no normalization,
    nor has the last: as published it is one place a channel, and its only sample would be normalized to zero.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, {f"down{i + 1}": units * config.width for i, units in enumerate(_CHANNELS)})
        before = INPUT_CHANNELS[config.input]
        for layer, channels in self.channels.items():
            convolution = nn.Conv2d(before, channels, 4, 2, 1, bias=config.norm != "batch")
            plain = layer in (self.layers[0], self.layers[-1])
            norm = normalization("none" if plain else config.norm, channels)
            self.add_module(layer, nn.Sequential(convolution, *norm))
            before = channels
        initialize_normal(self)

    def encode(self, native_BCHW: Tensor) -> dict[str, Tensor]:
        """As `Encoder.encode`; UserError for images that cannot be halved as often as there are layers."""
        side = min(native_BCHW.shape[2:])
        if side >> len(self.layers) == 0:
            raise UserError(
                f"encoder.depth: this unet halves an image {len(self.layers)} times, and {side} pixels can be halved "
                f"{side.bit_length() - 1} times: set encoder.depth={side.bit_length() - 1}, or use larger images"
            )
        maps, x_BCHW = {}, native_BCHW
        for layer in self.layers:
            x_BCHW = maps[layer] = F.leaky_relu(self.get_submodule(layer)(x_BCHW), 0.2, inplace=True)
        return maps


def _step_up(before: int, after: int, doublings: int, norm: str) -> nn.Sequential:
    """(B, before, H, W) to (B, after, H * 2^doublings, W * 2^doublings), and the normalization; no ReLU at the end."""
    bias = norm != "batch"
    if doublings <= 0:
        return nn.Sequential(nn.Conv2d(before, after, 3, 1, 1, bias=bias), *normalization(norm, after))
    modules: list[nn.Module] = []
    for _ in range(doublings - 1):
        between = max(after, before // 2)
        modules += [nn.ConvTranspose2d(before, between, 4, 2, 1, bias=bias), *normalization(norm, between)]
        modules.append(nn.ReLU(inplace=True))
        before = between
    return nn.Sequential(*modules, nn.ConvTranspose2d(before, after, 4, 2, 1, bias=bias), *normalization(norm, after))


class UNetDecoder(nn.Module):
    """An encoder's maps to a picture (B, out, H, W) in [-1, 1]: one step up for every layer, deepest first.

    A step: ReLU, a 4 x 4 transposed convolution with stride 2 for every doubling of the side up to the next layer's
    (3 x 3 with stride 1 where it is the same), normalization. With ``skips``, the next layer's map is put beside it.
    What is then a few pixels too much or too little is resized bilinearly. Given `UNet` it is the published network.
    """

    def __init__(self, encoder: Encoder, image_size: int, out_channels: int, skips: bool, dropout: float) -> None:
        """``dropout``: share of the values that the first three steps lose, in evaluation too: pix2pix's noise."""
        super().__init__()
        self.skips, self.dropout = skips, dropout
        shapes = layer_shapes(encoder, image_size)
        self.noisy = min(_NOISY, len(shapes) - 1)
        self.steps = nn.ModuleList()
        for k in reversed(range(len(shapes))):
            (channels, side), (after, to) = shapes[k], ([(out_channels, image_size), *shapes])[k]
            beside = channels if skips and k + 1 < len(shapes) else 0
            norm = encoder.config.norm if k else "none"
            self.steps.append(_step_up(channels + beside, after, round(math.log2(to / side)), norm))
        initialize_normal(self)

    def forward(self, maps: dict[str, Tensor], size: torch.Size, noise: Draws) -> Tensor:
        """``maps``: what `Encoder.encode` returned; ``size``: height and width of the picture."""
        above = [*maps.values()][::-1]
        x_BCHW = F.relu(above.pop(0))
        for k, step in enumerate(self.steps):
            to = above[k].shape[2:] if k < len(above) else size
            x_BCHW = step(x_BCHW)
            if x_BCHW.shape[2:] != to:
                x_BCHW = F.interpolate(x_BCHW, size=to, mode="bilinear", align_corners=False)
            if k < self.noisy and self.dropout:
                kept_BCHW = ~noise.bernoulli(self.dropout, *x_BCHW.shape[1:])
                x_BCHW = x_BCHW * kept_BCHW.to(x_BCHW.dtype).div_(1 - self.dropout)
            if k < len(above):
                x_BCHW = F.relu(torch.cat([above[k], x_BCHW], 1) if self.skips else x_BCHW, inplace=True)
        return torch.tanh(x_BCHW)
