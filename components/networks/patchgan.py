"""PatchGAN: a discriminator that judges every patch of a picture by itself.

Source: Isola et al. 2017, section 3.2.2 and appendix 6.1.2.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

from typing import Literal

from torch import Tensor, nn

from components.errors import UserError
from components.networks.init import initialize_normal
from components.networks.norm import normalization

Patch = Literal[1, 16, 34, 70, 142, 286]
_STRIDED = {1: 0, 16: 1, 34: 2, 70: 3, 142: 4, 286: 5}  # side of a patch in pixels: convolutions with stride 2


class PatchGAN(nn.Module):
    """(B, C, H, W) to logits (B, 1, h, w), each of one patch of ``patch`` pixels a side; patches overlap.

    4 x 4 convolutions, with stride 2 and then two with stride 1; the last gives the logit. A patch of 1 has three
    1 x 1 convolutions instead. Leaky ReLUs of slope .2; normalization except after the first and the last.
    """

    def __init__(self, channels: int, side: int, patch: Patch, width: int, norm: str) -> None:
        """``width``: channels after the first convolution, 64 as published; UserError if no patch fits the side."""
        super().__init__()
        strided = _STRIDED[patch]
        if strided and side < 3 * 2**strided:
            fit = [str(p) for p, n in _STRIDED.items() if n == 0 or side >= 3 * 2**n]
            raise UserError(
                f"options.patch={patch} needs images of {3 * 2**strided} pixels a side or more, and these have {side}: "
                f"choose {' or '.join(fit)}"
            )
        kernel, padding = (4, 1) if strided else (1, 0)
        bias = norm != "batch" or not strided
        modules = [nn.Conv2d(channels, width, kernel, 2 if strided else 1, padding), nn.LeakyReLU(0.2, inplace=True)]
        before = width
        for k in range(1, max(2, strided + 1)):
            after = width * min(2**k, 8)
            modules.append(nn.Conv2d(before, after, kernel, 2 if k < strided else 1, padding, bias=bias))
            modules += [*normalization(norm, after), nn.LeakyReLU(0.2, inplace=True)]
            before = after
        self.layers = nn.Sequential(*modules, nn.Conv2d(before, 1, kernel, 1, padding))
        initialize_normal(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits_B1HW: Tensor = self.layers(x_BCHW)
        return logits_B1HW
