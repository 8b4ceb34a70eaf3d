"""DCGAN: a generator from noise to pictures, and the body of its discriminator as an encoder (Radford et al. 2016).

Widths and 4 x 4 kernels are those of the authors' Torch code, half as wide as figure 1 of the paper.

Legend of shape suffixes: B samples, C channels, H height, W width, Z latent.
"""

from torch import Tensor, nn

from components.config import EncoderConfig
from components.networks.encoder import INPUT_CHANNELS, Chain, initialize_he, register_encoder
from components.networks.init import initialize_normal
from components.networks.norm import BatchNorm2d, normalization

_CHANNELS = (1, 2, 4, 8)  # of each convolution, in units of the width: 64, 128, 256, 512 as published
_STEMS = {"large": (4, 2, 1), "small": (3, 1, 1)}  # kernel, stride, padding of the first convolution
_SMALLEST_MAP = 4  # side that a generator starts from


@register_encoder("dcgan")
class DCGAN(Chain):
    """Layers conv1 to conv4 of the discriminator, each after its leaky rectifier (slope .2): maps have negative values.

    ``large``: as published for 64 px, 4 x 4 convolutions that halve the side four times. ``small``: the first one is
    3 x 3 with stride 1, so that 32 px end in a map of 4 x 4 as 64 px do. Batch normalization except after conv1, and
    weights from N(0, .02); without normalization they would let the signal die, and are He's instead.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, {f"conv{i + 1}": units * config.width for i, units in enumerate(_CHANNELS)})
        stages: dict[str, list[nn.Module]] = {}
        before = INPUT_CHANNELS[config.input]
        for layer, channels in self.channels.items():
            kernel, stride, padding = (4, 2, 1) if stages else _STEMS[config.stem]
            convolution = nn.Conv2d(before, channels, kernel, stride, padding, bias=config.norm == "none")
            norm = normalization(config.norm, channels) if stages else []
            stages[layer] = [convolution, *norm, nn.LeakyReLU(0.2, inplace=True)]
            before = channels
        self.chain(stages)
        if config.norm == "none":
            initialize_he(self)
        else:
            initialize_normal(self)


def _doublings(size: int) -> int:
    """How often a side of 4 can be doubled without passing ``size``."""
    return (size // _SMALLEST_MAP).bit_length() - 1


class Generator(nn.Module):
    """Noise (B, Z) to pictures (B, 3, size, size) in [-1, 1]: 4 x 4 transposed convolutions that double the side.

    It starts from the side of 4 to 7 that reaches ``size`` by doubling (4 x 4 at 64 px); what is too much at sizes that
    no doubling reaches is cut off evenly. Batch normalization and rectifiers except at the end.
    """

    def __init__(self, latent: int, size: int, width: int) -> None:
        """``width``: channels before the last layer (64 as published); doubled towards the noise, up to eight times."""
        super().__init__()
        doublings = _doublings(size)
        side = -(-size // 2**doublings)  # rounded up
        channels = [width * min(8, 2**k) for k in reversed(range(doublings))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, channels[0], side, bias=False)]
        for before, after in zip(channels, [*channels[1:], 3], strict=True):
            layers += [BatchNorm2d(before), nn.ReLU(inplace=True)]
            layers.append(nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False))
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.size = size
        initialize_normal(self)

    def forward(self, z_BZ: Tensor) -> Tensor:
        picture_B3HW: Tensor = self.layers(z_BZ[:, :, None, None])
        start = (picture_B3HW.shape[-1] - self.size) // 2
        return picture_B3HW[:, :, start : start + self.size, start : start + self.size]


class JointDiscriminator(nn.Module):
    """Pairs of a picture (B, 3, size, size) and a latent (B, Z) to one logit per pair (B,).

    The body of a DCGAN discriminator; the latent enters every layer as a bias of its channels that is linear in it, as
    in the authors' code of BiGAN (Donahue et al. 2017).
    """

    def __init__(self, latent: int, size: int, width: int) -> None:
        """``width``: channels after the first convolution (64 as published); doubled by each of the next, up to 8."""
        super().__init__()
        doublings = _doublings(size)
        channels = [width * min(8, 2**k) for k in range(doublings)]
        sizes = zip([3, *channels], channels, strict=False)
        self.convolutions = nn.ModuleList(nn.Conv2d(before, after, 4, 2, 1, bias=False) for before, after in sizes)
        self.biases = nn.ModuleList(nn.Linear(latent, after) for after in channels)
        self.norms = nn.ModuleList(BatchNorm2d(after) if k else nn.Identity() for k, after in enumerate(channels))
        self.head = nn.Linear(channels[-1] * (size >> doublings) ** 2, 1)
        initialize_normal(self)

    def forward(self, picture_B3HW: Tensor, z_BZ: Tensor) -> Tensor:
        x_BCHW = picture_B3HW
        for convolution, bias, norm in zip(self.convolutions, self.biases, self.norms, strict=True):
            x_BCHW = norm(convolution(x_BCHW) + bias(z_BZ)[:, :, None, None])
            x_BCHW = nn.functional.leaky_relu(x_BCHW, 0.2)
        logits_B1: Tensor = self.head(x_BCHW.flatten(1))
        return logits_B1.flatten()
