"""Initializations that belong to a kind of task rather than to a network."""

from torch import nn


def initialize_normal(module: nn.Module, deviation: float = 0.02) -> None:
    """Weights from N(0, .02), biases zero, normalization scales from N(1, .02): for networks that play against others.

    Source: DCGAN (Radford et al. 2016, section 3; the scales as in the authors' code).
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, 0.0, deviation)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, deviation)
        else:
            continue
        bias = getattr(part, "bias", None)  # an embedding has none
        if bias is not None:
            nn.init.zeros_(bias)
