"""Context encoder: what is missing in a picture, from what surrounds it. The first task with two players.

Legend of shape suffixes: B samples, C channels, H height, W width (of the image or of its predicted part), K blocks.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components import losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.decoders import Bottleneck, Decoder, deepest_shape
from components.networks.discriminators import ImageDiscriminator
from components.networks.encoder import build_encoder
from components.networks.init import initialize_normal
from components.tasks.base import Batch, Player, Task, Tensors, Term, register


@register
class ContextEncoder(Task):
    """Encoder, channel-wise fully connected bottleneck and decoder against a discriminator of what they painted.

    A centre hole is predicted, and judged, alone. Random blocks are painted into the picture and the whole is judged.
    The trunk keeps its own initialization, so that without training it is the encoder of the random baseline.
    """

    name = "context_encoder"
    summary = "Paint what is missing in a picture: reconstruction, and a discriminator that tells painted from real"
    source = "Pathak et al. 2016, Context Encoders"
    terms = {
        "l2": Term(0.999, "Pathak et al. 2016, equations 1 and 3; the visible band counts 10 times", (0.1, 10.0)),
        "adversarial": Term(0.001, "Pathak et al. 2016, equations 2 and 3", (1e-4, 1.0), optional=True),
        "discriminator": Term(1.0, "Pathak et al. 2016, equation 2", (0.1, 10.0), optional=True),
    }
    players = {
        "discriminator": Player(("discriminator",), OptimizerConfig(lr=2e-4, betas=(0.5, 0.999)), detached=True),
        "generator": Player(("trunk", "bottleneck", "decoder"), OptimizerConfig(lr=2e-3, betas=(0.5, 0.999))),
    }

    signs = (losses.WON,)

    class Options(Task.Options):
        """What may be said under ``options``."""

        mask: Literal["centre", "random"] = Field("centre", description="one square in the centre, or blocks anywhere")
        hole: float = Field(0.25, gt=0, lt=1, description="share of the image that is missing; blocks may overlap")
        blocks: int = Field(4, ge=1, description="number of square blocks of a random mask")
        overlap: int | None = Field(
            None,
            ge=0,
            description="width in pixels of the band at the border of a hole that stays visible; null: side / 32",
        )
        overlap_weight: float = Field(10.0, ge=0, description="weight of a pixel of that band in l2")

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.image_size = image_size
        self.random = options.mask == "random"
        self.overlap = round(image_size / 32) if options.overlap is None else options.overlap
        self.side = round(image_size * (options.hole / (options.blocks if self.random else 1)) ** 0.5)
        if not max(1, 2 * self.overlap) < self.side < image_size:
            raise UserError(
                f"options.hole={options.hole} makes holes of {self.side} pixels, and {self.overlap} on each side stay "
                f"visible: choose it so that they have between {2 * self.overlap + 1} and {image_size - 1} pixels"
            )
        self.painted_side = image_size if self.random else self.side
        self.trunk = build_encoder(encoder)
        channels, side = deepest_shape(self.trunk, image_size)
        self.bottleneck = Bottleneck(channels, side, 2 * encoder.width)
        self.decoder = Decoder(2 * encoder.width, side, 3, self.painted_side, width=2 * encoder.width)
        self.discriminator = ImageDiscriminator(3, self.painted_side, encoder.width)
        for network in (self.bottleneck, self.decoder, self.discriminator):
            initialize_normal(network)

    def _painted(self, x_BCHW: Tensor) -> Tensor:
        """The part of an image that is predicted: the centre hole, or all of it."""
        start = (self.image_size - self.painted_side) // 2
        stop = start + self.painted_side
        return x_BCHW[:, :, start:stop, start:stop]

    def _holes(self, draws: Draws, like_B3HW: Tensor) -> Tensor:
        """(B, 1, H, W) bool: the holes, with the band that stays visible."""
        places = torch.arange(self.image_size, device=like_B3HW.device)
        if self.random:
            corner_BK2 = draws.integers(self.image_size - self.side + 1, self.options.blocks, 2)
        else:
            corner = (self.image_size - self.side) // 2
            corner_BK2 = torch.full((len(like_B3HW), 1, 2), corner, device=like_B3HW.device)
        start_BK21 = corner_BK2[..., None]
        inside_BK2H = (places >= start_BK21) & (places < start_BK21 + self.side)
        rows_BKH, columns_BKW = inside_BK2H.unbind(2)
        holes_BKHW: Tensor = rows_BKH[..., :, None] & columns_BKW[..., None, :]
        return holes_BKHW.any(1, keepdim=True)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        hole_B1HW = self._holes(draws, image_B3HW)
        hidden_B1HW = erode(hole_B1HW, self.overlap)
        weight_B1HW = self._painted(hole_B1HW * torch.where(hidden_B1HW, 1.0, self.options.overlap_weight))
        painted_B1HW = self._painted(hole_B1HW)
        return {
            "native": self.trunk.convert(image_B3HW) * ~hidden_B1HW,
            "truth": self._painted(2 * image_B3HW - 1),
            "painted": painted_B1HW,
            "weight": weight_B1HW,
            "painted_share": painted_B1HW.float().mean(),
            "image": image_B3HW,
            "hidden": hidden_B1HW,
        }

    def global_means(self, inputs: Tensors) -> tuple[str, ...]:
        return ("painted_share",) if self.random else ()

    def forward(self, inputs: Tensors) -> Tensors:
        return {"prediction": torch.tanh(self.decoder(self.bottleneck(self.trunk.deepest(inputs["native"]))))}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        prediction, truth = outputs["prediction"], inputs["truth"]
        fake_B = self.discriminator(torch.where(inputs["painted"], prediction, truth))
        if player == "discriminator":
            real_B = self.discriminator(truth)
            return {"discriminator": losses.discriminator(real_B, fake_B), **losses.accuracies(real_B, fake_B)}
        return {
            "l2": losses.l2(prediction, truth, inputs["weight"], inputs["painted_share"]),
            "adversarial": losses.adversarial(fake_B),
        }

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        image_B3HW, hidden_B1HW = inputs["image"], inputs["hidden"]
        filled_B3HW = image_B3HW.clone()
        part_B3HW = self._painted(filled_B3HW)  # a view: what is written there lands in the picture
        painted_B3HW = (self(inputs)["prediction"].float() + 1) / 2
        part_B3HW.copy_(torch.where(inputs["painted"], painted_B3HW, part_B3HW))
        return {"input": image_B3HW.masked_fill(hidden_B1HW, 0.5), "prediction": filled_B3HW, "truth": image_B3HW}


def erode(mask_B1HW: Tensor, by: int) -> Tensor:
    """The mask (bool) without the places that are within ``by`` pixels of its outside; image borders do not erode."""
    outside_B1HW = (~mask_B1HW).float()
    for kernel, padding in (((2 * by + 1, 1), (by, 0)), ((1, 2 * by + 1), (0, by))):  # a square, one axis at a time
        outside_B1HW = F.max_pool2d(outside_B1HW, kernel, stride=1, padding=padding)
    return outside_B1HW == 0
