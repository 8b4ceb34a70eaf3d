"""Discriminators: pictures to logits, high for real ones.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

from torch import Tensor, nn

from components.networks.norm import BatchNorm2d


class ImageDiscriminator(nn.Module):
    """(B, C, side, side) to one logit per picture (B,).

    4 x 4 convolutions with stride 2 until 7 places a side or fewer are left, then one over all of them; batch
    normalization except after the first (DCGAN: Radford et al. 2016, section 3).
    """

    def __init__(self, channels: int, side: int, width: int) -> None:
        """``width``: channels after the first convolution; doubled by each of the next, up to eight times."""
        super().__init__()
        modules: list[nn.Module] = []
        after = width
        while side > 7 or not modules:
            modules.append(nn.Conv2d(channels, after, 4, 2, 1, bias=not modules))
            if len(modules) > 1:
                modules.append(BatchNorm2d(after))
            modules.append(nn.LeakyReLU(0.2, inplace=True))
            side, channels, after = side // 2, after, min(2 * after, 8 * width)
        self.layers = nn.Sequential(*modules, nn.Conv2d(channels, 1, side))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_B111: Tensor = self.layers(x_BCHW)
        return logits_B111.flatten()
