"""The encoder as it was initialized: the lower end of every comparison."""

import torch

from components.config import Config, EncoderConfig
from components.draws import Draws
from components.networks.encoder import Encoder, build_encoder
from components.tasks.base import Batch, Player, Task, Tensors, Term, register


@register
class Random(Task):
    """A baseline without training: no players, no terms."""

    name = "random"
    summary = "Do not train: the encoder as it was initialized"
    source = "He et al. 2015, section 2.2, for the initialization"
    terms: dict[str, Term] = {}
    players: dict[str, Player] = {}

    def __init__(self, options: Config, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.trunk = build_encoder(encoder)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {"image": batch["image"]}

    def forward(self, inputs: Tensors) -> Tensors:
        return {}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {}

    def encoder(self) -> Encoder:
        return self.trunk
