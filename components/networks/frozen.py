"""An encoder that a task looks through and never changes.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

from torch import Tensor, nn

from components.networks.encoder import Encoder


class Frozen(nn.Module):
    """One layer of an encoder, in evaluation mode for good. Its weights are buffers: no player learns them.

    Gradients pass through it to the picture.
    """

    def __init__(self, encoder: Encoder, layer: str | None) -> None:
        """``layer``: None for the deepest. Raises UserError for a layer that the encoder does not have."""
        super().__init__()
        (self.layer,) = encoder.select([encoder.layers[-1] if layer is None else layer])
        for part in encoder.modules():
            for name, parameter in [*part.named_parameters(recurse=False)]:
                delattr(part, name)
                part.register_buffer(name, parameter.detach())
        self.encoder = encoder.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stays in evaluation mode, whatever the task around it does."""
        return super().train(False)

    def forward(self, rgb_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1] to the layer's map."""
        maps: dict[str, Tensor] = self.encoder(rgb_B3HW)
        return maps[self.layer]
