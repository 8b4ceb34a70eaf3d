"""Network in network, as rotation was published on CIFAR-10: blocks of a convolution and two of 1 x 1.

Sources: Lin et al. 2014; Gidaris et al. 2018, section 3.2 (blocks, pools, "RotNet with four blocks").
"""

from torch import nn

from components.config import EncoderConfig
from components.networks.encoder import INPUT_CHANNELS, Chain, initialize_he, register_encoder
from components.networks.norm import normalization

# Of each convolution, in sixths of the width: 192, 160, 96, and then 192 as published.
_CHANNELS = ((6, 5, 3), (6, 6, 6), (6, 6, 6), (6, 6, 6))
_KERNELS = (5, 5, 3, 3)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)  # 3 x 3 with stride 2, behind the first two blocks


@register_encoder("nin")
class NetworkInNetwork(Chain):
    """Layers block1 to block4, each after its last ReLU and before its pool; ``width`` is 192 as published.

    Made for 32 px: block3 and block4 have a quarter of the image's side. ``large``: the first convolution has stride 2.
    """

    def __init__(self, config: EncoderConfig) -> None:
        channels = [[max(1, config.width * sixths // 6) for sixths in block] for block in _CHANNELS]
        super().__init__(config, {f"block{i + 1}": block[-1] for i, block in enumerate(channels)})
        stages: dict[str, list[nn.Module]] = {}
        before = INPUT_CHANNELS[config.input]
        for i, layer in enumerate(self.layers):
            stage: list[nn.Module] = [_POOLS[i - 1](3, 2, 1)] if 0 < i <= len(_POOLS) else []
            for k, after in enumerate(channels[i]):
                kernel = _KERNELS[i] if k == 0 else 1
                stride = 2 if config.stem == "large" and i == k == 0 else 1
                # A bias in front of a normalization is subtracted again: it would only cost time.
                stage.append(nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=config.norm == "none"))
                stage += [*normalization(config.norm, after), nn.ReLU(inplace=True)]
                before = after
            stages[layer] = stage
        self.chain(stages)
        initialize_he(self)
