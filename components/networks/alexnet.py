"""AlexNet: five convolutions (Krizhevsky 2014, "One weird trick", the one-tower variant that torchvision ships)."""

from torch import nn

from components.config import EncoderConfig
from components.networks.encoder import INPUT_CHANNELS, Chain, initialize_he, register_encoder
from components.networks.norm import normalization

_CHANNELS = (1, 3, 6, 4, 4)  # of each convolution, in units of the width: 64, 192, 384, 256, 256 as published
_KERNELS = {"large": (11, 5, 3, 3, 3), "small": (3, 3, 3, 3, 3)}
_FIRST_STRIDE = {"large": 4, "small": 1}
_POOLED = (0, 1)  # convolutions that a pool follows; the published one after conv5 feeds the classifier only


@register_encoder("alexnet")
class AlexNet(Chain):
    """Layers conv1 to conv5, each after its ReLU and before its pool.

    ``large``: the published stem, 11 x 11 with stride 4 and pools 3 x 3 with stride 2 (64 px and more; works from 32).
    ``small``: 3 x 3 convolutions with stride 1 and pools 2 x 2: conv5 has a quarter of the image's side.
    Keys are ``features.N``; without normalization those of torchvision, with it counted on as in its VGG.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, {f"conv{i + 1}": units * config.width for i, units in enumerate(_CHANNELS)})
        stages: dict[str, list[nn.Module]] = {}
        before = INPUT_CHANNELS[config.input]
        for i, (layer, channels) in enumerate(self.channels.items()):
            kernel = _KERNELS[config.stem][i]
            stride = _FIRST_STRIDE[config.stem] if i == 0 else 1
            stage: list[nn.Module] = []
            if i - 1 in _POOLED:
                stage.append(nn.MaxPool2d(3, 2) if config.stem == "large" else nn.MaxPool2d(2))
            # A bias in front of a normalization is subtracted again: it would only cost time.
            stage.append(nn.Conv2d(before, channels, kernel, stride, min(kernel // 2, 2), bias=config.norm == "none"))
            stages[layer] = [*stage, *normalization(config.norm, channels), nn.ReLU(inplace=True)]
            before = channels
        self.chain(stages)
        initialize_he(self)
