"""Autoencoder, plain and denoising: the reconstruction of the input from the deepest features.

Legend of shape suffixes: B samples, C channels of the encoder's input, H height, W width.
"""

import torch
from pydantic import Field
from torch import Tensor

from components import losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.decoders import Decoder, deepest_shape
from components.networks.encoder import build_encoder
from components.tasks.base import Batch, Player, Task, Tensors, Term, register


@register
class Autoencoder(Task):
    """L2 between the image, in [-1, 1], and its reconstruction.

    A dropped pixel is zero in all channels of what the trunk sees, the mean colour for an RGB encoder; all pixels are
    reconstructed. No optimizer is published with this baseline: Adam at 1e-3.
    """

    name = "autoencoder"
    summary = "Rebuild the image from its features; with options.drop, from a part of its pixels"
    source = "Hinton & Salakhutdinov 2006; denoising: Vincent et al. 2008; as baselines: Zhang et al. 2017, table 2"
    terms = {"l2": Term(1.0, "Zhang et al. 2017 (Split-Brain), section 4.1: mean squared error", (0.1, 10.0))}
    players = {"autoencoder": Player(("trunk", "decoder"), OptimizerConfig(lr=1e-3))}

    class Options(Task.Options):
        """What may be said under ``options``."""

        drop: float = Field(0.0, ge=0, lt=1, description="share of the pixels hidden from the encoder; 0.5: denoising")

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.drop = options.drop
        self.trunk = build_encoder(encoder)
        channels, side = deepest_shape(self.trunk, image_size)
        self.decoder = Decoder(channels, side, 3, image_size, width=2 * encoder.width)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        native_BCHW, target_B3HW = self.trunk.convert(image_B3HW), 2 * image_B3HW - 1
        if not self.drop:
            return {"native": native_BCHW, "target": target_B3HW}
        kept_B1HW = ~draws.bernoulli(self.drop, 1, *image_B3HW.shape[2:])
        return {"native": native_BCHW * kept_B1HW, "target": target_B3HW, "kept": kept_B1HW}

    def forward(self, inputs: Tensors) -> Tensors:
        return {"prediction": self.decoder(self.trunk.deepest(inputs["native"]))}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {"l2": losses.l2(outputs["prediction"], inputs["target"])}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        truth_B3HW = (inputs["target"] + 1) / 2
        seen_B3HW = torch.where(inputs["kept"], truth_B3HW, 0.5) if "kept" in inputs else truth_B3HW
        rebuilt_B3HW = ((self(inputs)["prediction"].float() + 1) / 2).clamp(0, 1)
        return {"input": seen_B3HW, "prediction": rebuilt_B3HW, "truth": truth_B3HW}
