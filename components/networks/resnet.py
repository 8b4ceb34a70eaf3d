"""ResNet-18, -34 and -50 (He et al. 2016) with torchvision's key names, so that the files drop into its users' code.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import EncoderConfig
from components.networks.encoder import INPUT_CHANNELS, Encoder, initialize_he, register_encoder
from components.networks.norm import normalization


def _conv(before: int, after: int, kernel: int, stride: int, norm: str) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=norm == "none")


def _norm(norm: str, channels: int) -> nn.Module:
    """One module in any case, so that attributes keep torchvision's names."""
    return next(iter(normalization(norm, channels)), nn.Identity())


class _Block(nn.Module):
    """A residual branch and a shortcut; subclasses build the branch."""

    expansion: int  # channels out of the block, in units of the stage's channels
    downsample: nn.Module | None

    def _shortcut(self, before: int, channels: int, stride: int, norm: str) -> None:
        after = channels * self.expansion
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(_conv(before, after, 1, stride, norm), _norm(norm, after))

    def branch(self, x_BCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        return F.relu(self.branch(x_BCHW) + shortcut_BCHW, inplace=True)


class BasicBlock(_Block):
    """Two 3 x 3 convolutions (He et al. 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, before: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = _conv(before, channels, 3, stride, norm)
        self.bn1 = _norm(norm, channels)
        self.conv2 = _conv(channels, channels, 3, 1, norm)
        self.bn2 = _norm(norm, channels)
        self._shortcut(before, channels, stride, norm)

    def branch(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        out_BCHW: Tensor = self.bn2(self.conv2(x_BCHW))
        return out_BCHW


class Bottleneck(_Block):
    """1 x 1, 3 x 3, 1 x 1 (figure 5 right), the stride on the 3 x 3 as torchvision has it."""

    expansion = 4

    def __init__(self, before: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = _conv(before, channels, 1, 1, norm)
        self.bn1 = _norm(norm, channels)
        self.conv2 = _conv(channels, channels, 3, stride, norm)
        self.bn2 = _norm(norm, channels)
        self.conv3 = _conv(channels, channels * 4, 1, 1, norm)
        self.bn3 = _norm(norm, channels * 4)
        self._shortcut(before, channels, stride, norm)

    def branch(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        x_BCHW = F.relu(self.bn2(self.conv2(x_BCHW)), inplace=True)
        out_BCHW: Tensor = self.bn3(self.conv3(x_BCHW))
        return out_BCHW


class ResNet(Encoder):
    """Layers stem, layer1 to layer4; the stem's map is the one after its ReLU, before its pool.

    ``large``: the published stem, 7 x 7 with stride 2 and a pool 3 x 3 with stride 2; ``small``: 3 x 3 with stride 1
    and no pool (the CIFAR form), so that layer4 has an eighth of the image's side instead of a thirty-second.
    """

    def __init__(self, config: EncoderConfig, block: type[BasicBlock | Bottleneck], blocks: tuple[int, ...]) -> None:
        """``blocks`` is the number of blocks of each of the four stages behind the stem."""
        stages = {f"layer{i + 1}": config.width * 2**i for i in range(len(blocks))}
        super().__init__(config, {"stem": config.width} | {k: c * block.expansion for k, c in stages.items()})
        large = config.stem == "large"
        self.conv1 = _conv(
            INPUT_CHANNELS[config.input], config.width, 7 if large else 3, 2 if large else 1, config.norm
        )
        self.bn1 = _norm(config.norm, config.width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        before = config.width
        for layer, count in zip(self.layers[1:], blocks, strict=False):
            first = 1 if layer == "layer1" else 2
            stage = []
            for i in range(count):
                stage.append(block(before, stages[layer], first if i == 0 else 1, config.norm))
                before = stages[layer] * block.expansion
            self.add_module(layer, nn.Sequential(*stage))
        initialize_he(self)
        if config.norm == "none":
            _tame_branches(self)

    def encode(self, native_BCHW: Tensor) -> dict[str, Tensor]:
        x_BCHW = F.relu(self.bn1(self.conv1(native_BCHW)), inplace=True)
        maps = {"stem": x_BCHW}
        x_BCHW = self.maxpool(x_BCHW)
        for layer in self.layers[1:]:
            x_BCHW = maps[layer] = self.get_submodule(layer)(x_BCHW)
        return maps


@torch.no_grad()
def _tame_branches(network: ResNet) -> None:
    """Divide the last convolution of every branch by the root of their number.

    Without normalization each block adds its own variance to the sum, and the deepest maps would grow without bound.
    """
    blocks = [part for part in network.modules() if isinstance(part, _Block)]
    for block in blocks:
        last = block.conv3 if isinstance(block, Bottleneck) else block.get_submodule("conv2")
        assert isinstance(last, nn.Conv2d)
        last.weight /= len(blocks) ** 0.5


@register_encoder("resnet18")
def resnet18(config: EncoderConfig) -> ResNet:
    """Four stages of two basic blocks."""
    return ResNet(config, BasicBlock, (2, 2, 2, 2))


@register_encoder("resnet34")
def resnet34(config: EncoderConfig) -> ResNet:
    """Four stages of 3, 4, 6 and 3 basic blocks."""
    return ResNet(config, BasicBlock, (3, 4, 6, 3))


@register_encoder("resnet50")
def resnet50(config: EncoderConfig) -> ResNet:
    """Four stages of 3, 4, 6 and 3 bottlenecks."""
    return ResNet(config, Bottleneck, (3, 4, 6, 3))
