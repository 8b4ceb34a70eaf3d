"""The encoder with weights rescaled by the data: a strong baseline that costs one look at a few images."""

import torch

from components.networks.rescaling import rescale
from components.tasks.base import Baseline, Batch, register


@register
class Rescaled(Baseline):
    """A baseline without training: no players, no terms; everything happens in `initialize`."""

    name = "rescaled"
    summary = "Do not train: scale the random weights so that every channel varies alike on the data"
    source = "Krähenbühl et al. 2016, Data-dependent Initializations of Convolutional Neural Networks"
    initial_samples = 512

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Rescale the encoder on the given images."""
        rescale(self.trunk, batch["image"])
