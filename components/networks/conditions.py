"""Conditions: what a picture should show, as a label, a vector or a picture, embedded for either of two players.

Legend of shape suffixes: B samples, N numbers of a vector, H height, W width, F features.
"""

from torch import Tensor, nn

from components.config import EncoderConfig
from components.networks.dcgan import DCGAN
from components.networks.decoders import deepest_shape
from components.networks.init import initialize_normal


class LabelCondition(nn.Embedding):
    """(B,) int64 in 0 .. classes - 1 to (B, F): a row of a table."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes, features)
        initialize_normal(self)


class VectorCondition(nn.Linear):
    """(B, N) to (B, F), linear: what a table of rows is for a vector with a single one."""

    def __init__(self, numbers: int, features: int) -> None:
        super().__init__(numbers, features)
        initialize_normal(self)


class PictureCondition(nn.Module):
    """(B, 3, size, size) in [0, 1] to (B, F): a body of DCGAN without normalization, then one linear layer."""

    def __init__(self, size: int, width: int, features: int) -> None:
        """``width``: channels after the first convolution."""
        super().__init__()
        self.body = DCGAN(EncoderConfig(name="dcgan", width=width, norm="none"))
        channels, side = deepest_shape(self.body, size)
        self.linear = nn.Linear(channels * side * side, features)
        initialize_normal(self.linear)

    def forward(self, picture_B3HW: Tensor) -> Tensor:
        map_BCHW = self.body(picture_B3HW)[self.body.layers[-1]]
        embedded_BF: Tensor = self.linear(map_BCHW.flatten(1))
        return embedded_BF
