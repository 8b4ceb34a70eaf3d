"""The encoder with weights rescaled by the data: a strong baseline that costs one look at a few images."""

import torch

from components.config import Config, EncoderConfig
from components.draws import Draws
from components.networks.encoder import Encoder, build_encoder
from components.networks.rescaling import rescale
from components.tasks.base import Batch, Player, Task, Tensors, Term, register


@register
class Rescaled(Task):
    """A baseline without training: no players, no terms; everything happens in `initialize`."""

    name = "rescaled"
    summary = "Do not train: scale the random weights so that every channel varies alike on the data"
    source = "Krähenbühl et al. 2016, Data-dependent Initializations of Convolutional Neural Networks"
    terms: dict[str, Term] = {}
    players: dict[str, Player] = {}
    initial_samples = 512

    def __init__(self, options: Config, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.trunk = build_encoder(encoder)

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Rescale the encoder on the given images."""
        rescale(self.trunk, batch["image"])

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {"image": batch["image"]}

    def forward(self, inputs: Tensors) -> Tensors:
        return {}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {}

    def encoder(self) -> Encoder:
        return self.trunk
